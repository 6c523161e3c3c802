//! The logic of SQL stores, written once: its statements run on SQLite and on MySQL.
//!
//! Statements are written in MySQL's SQL, and `#jobs` is replaced by the name of the table of jobs.
//! [`SqliteStore`](super::SqliteStore) [translates](super::sqlite) the few words in which SQLite differs. Parts with
//! larger differences are in the folders of the two stores: opening, locks, claims, ends of jobs, counters, and the
//! detection of dead workers.
//!
//! Transactions lock rows in one order: a worker, batches, jobs by key, processes by number. SQLite locks the whole
//! database instead.

mod batches;
pub(super) mod budgets;
pub(super) mod candidates;
pub(super) mod chores;
pub(super) mod claim;
pub(super) mod claimed;
pub(super) mod counting;
pub(super) mod due;
mod enqueue;
mod find;
pub(super) mod health;
mod insert;
pub(super) mod lineage;
mod owned;
pub(super) mod pauses;
pub(super) mod provider;
pub(super) mod results;
pub(super) mod row;
pub(super) mod settle;
pub(super) mod spent;
pub(super) mod standing;
pub(super) mod statements;
mod waiting;
pub(super) mod workers;

use std::collections::HashMap;
use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;

#[cfg(test)]
use crate::base::error::ErrorKind;
use crate::base::{Error, JobId, ProcessId, Timestamp};

use super::group_commit::{GroupCommit, Insert, Inserted};
use super::rows::{job_id, small};
use super::{ConsumerLock, JobLane, WorkerId};
use statements::{Fault, Queries as _, Statements, by};
use workers::keeping;

/// Whether a transaction may be repeated if its outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// Fences make a repetition harmless.
    Harmless,
    /// A repetition would apply it twice.
    Doubtful,
}

/// Lanes by number. Numbers are never reused, so cached lanes stay valid.
pub(super) type KnownLanes = Mutex<HashMap<i64, Arc<JobLane>>>;

/// Maximum number of cached lanes, because hosts may create any number of them.
pub(super) const MOST_LANES: usize = 10_000;

/// State of a database store in memory.
pub(crate) struct SharedState {
    /// A part of every job id, to recognize ids of other databases.
    pub(super) salt: u16,
    pub(super) lanes: KnownLanes,
    pub(super) inserts: GroupCommit,
    /// Number of jobs per transaction of a chore.
    pub(super) chunk: i64,
    /// Number of chunks until the operation is aborted, to simulate a crash.
    #[cfg(test)]
    pub(crate) chunks_left: AtomicI64,
}

impl SharedState {
    pub(super) fn new(salt: i64, chunk: i64) -> Self {
        Self {
            salt: u16::try_from(salt & 0xfff).unwrap_or(0),
            lanes: Mutex::default(),
            inserts: GroupCommit::default(),
            chunk,
            #[cfg(test)]
            chunks_left: AtomicI64::new(i64::MAX),
        }
    }

    /// Called before each of many short transactions. A test may abort after some of them.
    fn next_chunk(&self) -> Result<(), Error> {
        #[cfg(test)]
        if self.chunks_left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            return Err(Error::new(ErrorKind::Transient, "abandoned by the test"));
        }
        Ok(())
    }
}

/// The parts that differ between databases of jobs. All other parts of a store use them.
pub(super) trait SqlStore: Send + Sync {
    /// Runs queries. Each sees what was committed before it started.
    fn read<T>(
        &self,
        work: impl FnMut(&mut dyn Statements) -> Result<T, Fault>,
    ) -> Result<T, Error>;

    /// Runs queries that all see the same snapshot.
    fn read_moment<T>(
        &self,
        work: impl FnMut(&mut dyn Statements) -> Result<T, Fault>,
    ) -> Result<T, Error>;

    /// Runs one transaction, and repeats it as often as the database requires.
    fn write<T>(
        &self,
        again: Again,
        work: impl FnMut(&mut dyn Statements) -> Result<T, Fault>,
    ) -> Result<T, Error>;

    /// Runs one transaction that may be lost in a power failure without harm.
    fn write_lazily<T>(
        &self,
        again: Again,
        work: impl FnMut(&mut dyn Statements) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        self.write(again, work)
    }

    /// Performs an insert in one transaction with those of other threads. `add` performs one of them.
    fn write_insert(
        &self,
        insert: Insert,
        add: impl FnMut(&mut dyn Statements, &Insert) -> Result<Inserted, Fault>,
    ) -> Inserted;

    /// Notifies workers that jobs have become claimable.
    fn wake_workers(&self);

    fn shared(&self) -> &SharedState;

    /// The number of a lane, which is created if it does not exist.
    fn lane_no(&self, tx: &mut dyn Statements, lane: &JobLane) -> Result<i64, Fault>;

    /// Creates a lane before a transaction that others would wait for.
    fn make_lane(&self, _lane: &JobLane) -> Result<(), Error> {
        Ok(())
    }

    /// Fails if a worker is not registered, because its jobs would never return to the queue. Its row stays locked until the
    /// transaction ends.
    fn check_worker(&self, tx: &mut dyn Statements, worker: WorkerId) -> Result<(), Fault> {
        if tx.rows(&keeping(worker), Vec::new())?.is_empty() {
            self.enlist_again(tx, worker)?;
        }
        Ok(())
    }

    /// A worker of this store has no row. Fails if its jobs would never return to the queue.
    fn enlist_again(&self, tx: &mut dyn Statements, worker: WorkerId) -> Result<(), Fault>;

    /// See [`ResultStore::lock_results`](super::ResultStore::lock_results).
    fn lock_outcomes(&self, _: ProcessId, _who: &str) -> Result<Option<ConsumerLock>, Error> {
        Ok(None)
    }

    /// A lane by its number.
    fn lane(&self, tx: &mut dyn Statements, no: i64) -> Result<Arc<JobLane>, Fault> {
        if let Some(lane) = self.shared().lanes.lock().get(&no) {
            return Ok(lane.clone());
        }
        let found = tx.first("SELECT kind, name, step FROM #lanes WHERE no = ?", by![no])?;
        let mut row = found.ok_or(Fault::Odd("a job of an unknown lane"))?;
        let lane = Arc::new(JobLane {
            kind: row.at(0)?,
            name: row.at(1)?,
            step: small(row.at(2)?),
        });
        let mut lanes = self.shared().lanes.lock();
        if lanes.len() >= MOST_LANES {
            lanes.clear();
        }
        lanes.insert(no, lane.clone());
        Ok(lane)
    }

    /// The number of the same lane at another step.
    fn at_step(&self, tx: &mut dyn Statements, no: i64, step: u8) -> Result<i64, Fault> {
        let lane = self.lane(tx, no)?;
        if lane.step == step {
            return Ok(no);
        }
        let other = JobLane {
            step,
            ..JobLane::clone(&lane)
        };
        self.lane_no(tx, &other)
    }

    fn job_id(&self, key: i64, created_at: Timestamp) -> JobId {
        job_id(key, created_at, self.shared().salt)
    }
}
