//! The store of jobs in MySQL or MariaDB, for workers on any number of machines.
//!
//! Transactions lock rows in one order: a worker, batches, jobs by key, processes by number. Claims, settlements and
//! chores therefore cannot deadlock with each other. Only parent and child processes can; then the server detects the
//! deadlock and one transaction is repeated ([`writer`]). Long operations are decided in one short transaction and
//! applied in many.

mod clock;
mod inspect;
mod lanes;
mod lease;
mod open;
mod pool;
mod workers;
mod writer;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod wire;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::{Clock, Error};
use crate::queue::job::Job;

use super::JobLane;
use clock::{Offset, ServerClock};
pub(super) use inspect::look_at_health;
use lease::Heartbeat;
pub use open::MysqlOptions;
use open::VERSION;
pub(super) use open::open;
use pool::Pool;
pub(super) use writer::CLOCK;
use writer::{Queries as _, too_large};

/// The server, and the names of the tables.
pub(super) struct Database {
    pool: Pool,
    /// The name of the table of jobs, which is the prefix of the other names.
    tables: String,
    /// The address without a credential.
    location: String,
    /// The difference between the clocks of server and machine.
    offset: Offset,
    /// Set only in a simulation.
    #[cfg(test)]
    wire: Option<Arc<wire::Wire>>,
}

/// An open database on a server.
pub(crate) struct Mysql {
    pub(super) database: Arc<Database>,
    pub(super) heartbeat: Heartbeat,
    lane_numbers: Mutex<HashMap<JobLane, i64>>,
    /// Whether maintenance first waits for other workers to renew their leases; false in a simulation of time.
    #[cfg(test)]
    awaits_others: bool,
}

impl Database {
    /// Leases could not be renewed in time.
    fn unsteady(&self) {
        #[cfg(test)]
        if let Some(wire) = &self.wire {
            return wire.unsteady();
        }
        self.pool.unsteady();
    }

    /// Time since the last lost connection or late renewal.
    fn steady_for(&self) -> std::time::Duration {
        #[cfg(test)]
        if let Some(wire) = &self.wire {
            return wire.steady_for();
        }
        self.pool.steady_for()
    }
}

impl Mysql {
    /// Rejects a job that is too large for the server.
    pub(super) fn check_fits(&self, job: &Job) -> Result<(), Error> {
        let (bytes, most) = (job.payload.get().len(), self.database.most_value());
        if bytes <= most {
            return Ok(());
        }
        let name = job.item_id.as_deref().map(|id| format!("the job {id:?}"));
        Err(too_large(name.as_deref().unwrap_or("a job"), bytes, most))
    }

    /// A number that changes with each transaction that has written.
    pub(super) fn version(&self) -> Result<u64, Error> {
        let version: Option<Option<i64>> = self.database.read(|tx| tx.one(VERSION, Vec::new()))?;
        Ok(super::rows::count(version.flatten().unwrap_or(0)))
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(ServerClock(self.database.clone()))
    }
}
