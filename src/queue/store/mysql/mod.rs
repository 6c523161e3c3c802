//! The store of jobs in MySQL or MariaDB, for workers on any number of machines.
//!
//! Transactions lock rows in one order: a worker, batches, jobs by key, processes by number. Claims, settlements and
//! chores therefore cannot deadlock with each other. Only parent and child processes can; then the server detects the
//! deadlock and one transaction is repeated ([`writer`]). Long operations are decided in one short transaction and
//! applied in many.

mod inspect;
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
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::base::{Clock, Error, SystemClock, Time, Timestamp};
use crate::queue::job::Job;

use super::JobLane;
use super::sql::MOST_LANES;
pub(super) use inspect::look_at_health;
use lease::Heartbeat;
pub use open::MysqlOptions;
use open::VERSION;
pub(super) use open::open;
use pool::Pool;
pub(super) use writer::CLOCK;
use writer::{Fault, Queries as _, Statements as _, Tx, by, too_large};

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
    /// The number of a lane, which is created if it does not exist: in a separate transaction, so that no one waits for
    /// a lane while jobs are locked.
    pub(super) fn lane_no(&self, lane: &JobLane) -> Result<i64, Error> {
        if let Some(no) = self.lane_numbers.lock().get(lane) {
            return Ok(*no);
        }
        let find = "SELECT no FROM #lanes WHERE hash = ?";
        let hash = hash(lane);
        let no = self.database.aside(|tx| {
            if let Some(no) = tx.one(find, by![hash.clone()])? {
                return Ok(no);
            }
            tx.run(
                "INSERT IGNORE INTO #lanes (hash, kind, name, step) VALUES (?, ?, ?, ?)",
                by![
                    hash.clone(),
                    lane.kind.clone(),
                    lane.name.clone(),
                    lane.step
                ],
            )?;
            let no: Option<i64> = tx.one(find, by![hash.clone()])?;
            no.ok_or(Fault::Overtaken)
        })?;
        let mut known = self.lane_numbers.lock();
        if known.len() >= MOST_LANES {
            known.clear();
        }
        known.insert(lane.clone(), no);
        Ok(no)
    }

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

/// A hash that identifies a lane, whatever its texts contain.
fn hash(lane: &JobLane) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(lane.kind.len().to_le_bytes());
    hash.update(&lane.kind);
    hash.update([lane.step, u8::from(lane.name.is_some())]);
    hash.update(lane.name.as_deref().unwrap_or_default());
    hash.finalize().to_vec()
}

/// The difference between the server's clock and this process's monotonic clock, in milliseconds.
#[derive(Default)]
struct Offset(AtomicI64);

impl Offset {
    /// Reads the clock of the server.
    fn read(&self, tx: &mut Tx<'_>) -> Result<(), Fault> {
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

/// The clock of the database server, which decides on all machines when jobs are due, with the machine's monotonic time. It
/// is read when the database is opened and with each renewal of leases; in between, the monotonic clock of this machine is
/// used, so setting the machine's clock changes nothing.
struct ServerClock(Arc<Database>);

impl Clock for ServerClock {
    fn now(&self) -> Time {
        SystemClock.now()
    }

    fn wall(&self) -> Timestamp {
        Timestamp(millis(self.now()) + self.0.offset.0.load(Ordering::Relaxed))
    }
}
