//! The clock of the database server, which decides on all machines when jobs are due.
//!
//! It is read when the database is opened and with each renewal of leases. In between, the monotonic clock of this
//! machine is used, so setting the machine's clock changes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::base::{Clock, SystemClock, Time, Timestamp};

use super::Database;
use super::writer::{CLOCK, Fault, Queries as _, Tx};

/// The difference between the server's clock and this process's monotonic clock, in milliseconds.
#[derive(Default)]
pub(super) struct Offset(pub(super) AtomicI64);

impl Offset {
    /// Reads the clock of the server.
    pub(super) fn read(&self, tx: &mut Tx<'_>) -> Result<(), Fault> {
        let began = SystemClock.now();
        let server: i64 = tx.one(&format!("SELECT {CLOCK}"), Vec::new())?.unwrap_or(0);
        let way = SystemClock.now().since(began) / 2;
        let offset = server - millis(began.after(way));
        self.0.store(offset, Ordering::Relaxed);
        Ok(())
    }
}

fn millis(time: Time) -> i64 {
    i64::try_from(time.as_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// A clock with the server's time of day and the machine's monotonic time.
pub(super) struct ServerClock(pub(super) Arc<Database>);

impl Clock for ServerClock {
    fn now(&self) -> Time {
        SystemClock.now()
    }

    fn wall(&self) -> Timestamp {
        Timestamp(millis(self.now()) + self.0.offset.0.load(Ordering::Relaxed))
    }
}
