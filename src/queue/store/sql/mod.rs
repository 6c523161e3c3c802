//! The logic of SQL stores, written once: its statements run on SQLite and on MySQL.
//!
//! Statements are written in MySQL's SQL, and `#jobs` is replaced by the name of the table of jobs.
//! A file of SQLite [translates](super::sqlite) the few words in which SQLite differs. Parts with
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
pub(super) mod counting;
mod enqueue;
mod find;
pub(super) mod health;
mod insert;
pub(super) mod lineage;
mod owned;
pub(super) mod provider;
pub(super) mod results;
pub(super) mod row;
pub(super) mod settle;
pub(super) mod spent;
pub(super) mod statements;
pub(super) mod waiting;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::Error;

use super::rows::small;
use super::{Db, JobLane, Store, WorkerId, sqlite};
use statements::{Fault, Queries as _, Statements, by};

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

impl Store {
    /// Fails if a worker is not registered, because its jobs would never return to the queue. Its row stays locked until the
    /// transaction ends.
    fn check_worker(&self, tx: &mut dyn Statements, worker: WorkerId) -> Result<(), Fault> {
        if tx.rows(&worker.keeping(), Vec::new())?.is_empty() {
            self.enlist_again(tx, worker)?;
        }
        Ok(())
    }

    /// The number of a lane, which is created if it does not exist.
    fn lane_no(&self, tx: &mut dyn Statements, lane: &JobLane) -> Result<i64, Fault> {
        match &self.db {
            Db::Sqlite(_) => sqlite::lane_no(tx, lane),
            #[cfg(feature = "mysql")]
            Db::Mysql(db) => Ok(db.lane_no(lane)?),
        }
    }

    /// Creates a lane before a transaction that others would wait for.
    fn make_lane(&self, _lane: &JobLane) -> Result<(), Error> {
        #[cfg(feature = "mysql")]
        if let Db::Mysql(db) = &self.db {
            db.lane_no(_lane)?;
        }
        Ok(())
    }

    /// A lane by its number.
    fn lane(&self, tx: &mut dyn Statements, no: i64) -> Result<Arc<JobLane>, Fault> {
        if let Some(lane) = self.lanes.lock().get(&no) {
            return Ok(lane.clone());
        }
        let found = tx.first("SELECT kind, name, step FROM #lanes WHERE no = ?", by![no])?;
        let mut row = found.ok_or(Fault::Odd("a job of an unknown lane"))?;
        let lane = Arc::new(JobLane {
            kind: row.at(0)?,
            name: row.at(1)?,
            step: small(row.at(2)?),
        });
        let mut lanes = self.lanes.lock();
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
}
