//! The way to a server in a simulation: the server has the time of the simulation, and transactions or their replies get
//! lost. Every statement goes to a real server.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use mysql::Conn;
use mysql::prelude::Queryable;

use crate::base::clock::Timestamp;
use crate::base::error::{Error, ErrorKind};

use super::writer::Fault;

/// What gets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Gets {
    Through,
    /// The server hears nothing.
    Lost,
    /// The server does its work, and its reply is lost.
    Unanswered,
}

/// Of one machine.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    /// Milliseconds by the clock of the server.
    now: AtomicI64,
    lost_at: AtomicI64,
    gets: AtomicU8,
    round_trips: AtomicU64,
    failures: AtomicU64,
}

impl Wire {
    pub(crate) fn set_time(&self, now: Timestamp) {
        self.now.store(now.0, Ordering::SeqCst);
    }

    pub(crate) fn set(&self, gets: Gets) {
        self.gets.store(gets as u8, Ordering::SeqCst);
    }

    /// Round trips and failures since this was last asked.
    pub(crate) fn take_counts(&self) -> (u64, u64) {
        let round_trips = self.round_trips.swap(0, Ordering::SeqCst);
        (round_trips, self.failures.swap(0, Ordering::SeqCst))
    }

    pub(super) fn count(&self) {
        self.round_trips.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn begin(&self, conn: &mut Conn) -> Result<(), Fault> {
        if self.gets.load(Ordering::SeqCst) == Gets::Lost as u8 {
            return Err(self.lose());
        }
        let now = self.now.load(Ordering::SeqCst);
        let set = format!("SET timestamp = {}.{:03}", now / 1000, now % 1000);
        Ok(conn.query_drop(set)?)
    }

    pub(super) fn end(&self) -> Result<(), Fault> {
        if self.gets.load(Ordering::SeqCst) == Gets::Unanswered as u8 {
            return Err(self.lose());
        }
        Ok(())
    }

    fn lose(&self) -> Fault {
        self.failures.fetch_add(1, Ordering::SeqCst);
        let now = self.now.load(Ordering::SeqCst);
        self.lost_at.store(now, Ordering::SeqCst);
        let error = Error::new(ErrorKind::Transient, "the connection was lost");
        Fault::Refused(error.with_storage())
    }

    /// For how long nothing was lost.
    pub(super) fn steady_for(&self) -> Duration {
        let steady = self.now.load(Ordering::SeqCst) - self.lost_at.load(Ordering::SeqCst);
        Duration::from_millis(u64::try_from(steady).unwrap_or(0))
    }
}
