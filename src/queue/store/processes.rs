//! Reading and describing processes.

use std::collections::HashSet;

use const_format::formatcp;

use super::Store;
use super::insert::written;
use super::rows::{DELETING, PENDING, PROCESS_COLUMNS, bounded, known_cost};
use super::statements::{Queries as _, by, limit, stored};
use crate::base::{Error, ProcessId, Timestamp};
use crate::queue::info::ProcessInfo;
use crate::queue::job::{ProcessState, QueueTotals};

/// The number of jobs of several processes by state. Sums may exceed an integer.
pub(super) const SUMS: &str = "IFNULL(SUM(total + 0e0), 0), IFNULL(SUM(pending + 0e0), 0), \
     IFNULL(SUM(in_progress + 0e0), 0), IFNULL(SUM(at_provider + 0e0), 0), IFNULL(SUM(completed + 0e0), 0), \
     IFNULL(SUM(failed + 0e0), 0), IFNULL(SUM(cancelled_jobs + 0e0), 0), IFNULL(SUM(consumed + 0e0), 0)";

/// The query for processes as [`ProcessState`]s.
fn states(which: &str) -> String {
    format!("SELECT {PROCESS_COLUMNS} FROM #processes WHERE chore <> {DELETING} {which}")
}

impl Store {
    /// Replaces the description of a process. Returns false if the process does not exist.
    pub(crate) fn describe(&self, process: ProcessId, info: &ProcessInfo) -> Result<bool, Error> {
        let info = written(info);
        let set = formatcp!("UPDATE #processes SET info = ? WHERE id = ? AND chore <> {DELETING}");
        let set = self.write(|tx| tx.run(set, by![info.clone(), stored(process)]))?;
        Ok(set > 0)
    }

    /// A process, if it exists.
    pub fn process(&self, process: ProcessId) -> Result<Option<ProcessState>, Error> {
        self.read(|tx| tx.one(&states("AND id = ?"), by![stored(process)]))
    }

    /// Every process, oldest first.
    pub fn processes(&self) -> Result<Vec<ProcessState>, Error> {
        self.read(|tx| tx.many(&states("ORDER BY no"), Vec::new()))
    }

    /// Every process whose jobs, seal or cancellation has changed at this time or later, perhaps others too.
    pub(crate) fn changed_processes(&self, since: Timestamp) -> Result<Vec<ProcessState>, Error> {
        self.read(|tx| tx.many(&states("AND changed_at >= ? ORDER BY no"), by![since.0]))
    }

    /// The ids of all processes.
    pub(crate) fn process_ids(&self) -> Result<HashSet<ProcessId>, Error> {
        let find = formatcp!("SELECT id FROM #processes WHERE chore <> {DELETING}");
        let ids = self.read(|tx| tx.many(find, Vec::new()))?;
        Ok(ids.into_iter().collect())
    }

    /// Up to `most` processes with their numbers, newest first, from below the number `before`: all of them, or those
    /// that are or are not `finished`. A store may have to pass over the others.
    pub(crate) fn newest_processes(
        &self,
        before: Option<u64>,
        finished: Option<bool>,
        most: usize,
    ) -> Result<Vec<(u64, ProcessState)>, Error> {
        let before = before.map_or(i64::MAX, bounded);
        // As `ProcessState::is_finished`.
        let state = match finished {
            None => "",
            Some(true) => "AND sealed = total AND completed + failed + cancelled_jobs = total",
            Some(false) => "AND (sealed <> total OR completed + failed + cancelled_jobs <> total)",
        };
        let sql = format!(
            "SELECT no, {PROCESS_COLUMNS} FROM #processes
             WHERE no < ? AND parent IS NULL AND chore <> {DELETING} {state} ORDER BY no DESC LIMIT ?"
        );
        self.read(|tx| tx.many(&sql, by![before, limit(most)]))
    }

    /// The number of all jobs by state, and the number of processes.
    pub(crate) fn totals(&self) -> Result<QueueTotals, Error> {
        let sum = formatcp!(
            "SELECT {SUMS}, COUNT(*), IFNULL(SUM(sealed < total OR pending + in_progress + at_provider > 0), 0),
               IFNULL(SUM(cost_picos + 0e0), 0), IFNULL(SUM(unpriced + 0e0), 0)
             FROM #processes WHERE chore <> {DELETING}"
        );
        let sums = self.read(|tx| tx.one(sum, Vec::new()))?;
        let (jobs, processes, open, cost, unpriced) = sums.unwrap_or_default();
        Ok(QueueTotals {
            jobs,
            processes,
            open,
            cost_usd: known_cost(cost, unpriced),
            unpriced,
        })
    }

    /// The number of waiting jobs by priority, highest first, due or not, without jobs that wait for others. Jobs of a
    /// process that is being cancelled or deleted may be included. Reads one key of every waiting job, and nothing
    /// else.
    pub(crate) fn waiting_by_priority(&self) -> Result<Vec<(u8, u64)>, Error> {
        let count = formatcp!(
            "SELECT priority, COUNT(*) FROM #jobs FORCE INDEX (to_claim)
             WHERE status = {PENDING} GROUP BY priority ORDER BY priority DESC"
        );
        self.read(|tx| tx.many(count, Vec::new()))
    }
}
