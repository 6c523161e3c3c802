//! The simulated connection to a server: it sets the server's time, and loses transactions or their replies. Every
//! statement goes to a real server.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::time::Duration;

use mysql::Conn;
use mysql::prelude::Queryable;

use crate::base::{Error, ErrorKind, Timestamp};

use super::MysqlOptions;
use crate::queue::store::Store;
use crate::queue::store::statements::Fault;

/// Which messages arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Gets {
    Through,
    /// The request is lost.
    Lost,
    /// The server performs the request, and its reply is lost.
    Unanswered,
}

/// The simulated connection of one machine.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    /// Milliseconds by the clock of the server.
    now: AtomicI64,
    gets: AtomicU8,
}

impl Wire {
    pub(crate) fn set_time(&self, now: Timestamp) {
        self.now.store(now.0, Ordering::SeqCst);
    }

    pub(crate) fn set(&self, gets: Gets) {
        self.gets.store(gets as u8, Ordering::SeqCst);
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
        let error = Error::new(ErrorKind::Transient, "the connection was lost");
        Fault::Refused(error.with_storage())
    }

    pub(super) fn now(&self) -> Duration {
        Duration::from_millis(self.now.load(Ordering::SeqCst).unsigned_abs())
    }
}

impl MysqlOptions {
    /// How long a worker counts as alive that cannot reach the database.
    pub(crate) fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets the time of the server, and loses messages.
    pub(crate) fn wire(mut self, wire: Arc<Wire>) -> Self {
        self.wire = Some(wire);
        self
    }
}

impl Store {
    /// Renews the leases. In a simulation no thread does that.
    pub(crate) fn renew_leases(&self) -> Result<(), Error> {
        self.mysql().leases.renew()
    }
}
