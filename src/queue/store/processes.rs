//! Reading and describing processes.

use std::collections::HashSet;

use const_format::formatcp;
use rusqlite::types::Value;

use super::rows::{self, DELETING, PENDING, PROCESS_CELLS, PROCESS_COLUMNS, bounded, count, small};
use super::{Again, Store};
use crate::base::{Error, ProcessId, Timestamp, Usd};
use crate::queue::info::ProcessInfo;
use crate::queue::job::{JobCounts, ProcessState, QueueTotals};

use super::insert::written;
use super::statements::{Fault, Queries as _, Row, Statements, by, id_of, limit, stored};

/// The number of jobs of several processes by state. Sums may exceed an integer.
pub(super) const SUMS: &str = "IFNULL(SUM(total + 0e0), 0), IFNULL(SUM(pending + 0e0), 0), \
     IFNULL(SUM(in_progress + 0e0), 0), IFNULL(SUM(at_provider + 0e0), 0), IFNULL(SUM(completed + 0e0), 0), \
     IFNULL(SUM(failed + 0e0), 0), IFNULL(SUM(cancelled_jobs + 0e0), 0), IFNULL(SUM(consumed + 0e0), 0)";

/// The counts that [`SUMS`] has read, from this column on.
pub(super) fn sums(row: &mut Row, first: usize) -> Result<JobCounts, Fault> {
    let mut sum = |at: usize| -> Result<u64, Fault> { Ok(row.at::<f64>(first + at)? as u64) };
    Ok(JobCounts {
        total: sum(0)?,
        pending: sum(1)?,
        in_progress: sum(2)?,
        at_provider: sum(3)?,
        completed: sum(4)?,
        failed: sum(5)?,
        cancelled: sum(6)?,
        consumed: sum(7)?,
    })
}

fn each_process(
    tx: &mut dyn Statements,
    which: &str,
    by: Vec<Value>,
    act: &mut dyn FnMut(ProcessState),
) -> Result<(), Fault> {
    let sql = format!("SELECT {PROCESS_COLUMNS} FROM #processes WHERE chore <> {DELETING} {which}");
    tx.each(&sql, by, &mut |mut row| {
        act(rows::process(&mut row)?);
        Ok(true)
    })
}

impl Store {
    fn select_processes(&self, which: &str, by: Vec<Value>) -> Result<Vec<ProcessState>, Error> {
        self.read(|tx| {
            let mut found = Vec::new();
            each_process(tx, which, by.clone(), &mut |process| found.push(process))?;
            Ok(found)
        })
    }

    /// Replaces the description of a process. Returns false if the process does not exist.
    pub(crate) fn describe(&self, process: ProcessId, info: &ProcessInfo) -> Result<bool, Error> {
        let info = written(info);
        self.write(Again::Harmless, |tx| {
            let changed = tx.run(
                formatcp!("UPDATE #processes SET info = ? WHERE id = ? AND chore <> {DELETING}"),
                by![info.clone(), stored(process)],
            )?;
            Ok(changed > 0)
        })
    }

    /// A process, if it exists.
    pub fn process(&self, process: ProcessId) -> Result<Option<ProcessState>, Error> {
        Ok(self
            .select_processes("AND id = ?", by![stored(process)])?
            .pop())
    }

    /// Every process, oldest first.
    pub fn processes(&self) -> Result<Vec<ProcessState>, Error> {
        self.select_processes("ORDER BY no", Vec::new())
    }

    /// Calls back for every process whose jobs, seal or cancellation has changed at this time or later, perhaps for
    /// others too, and perhaps more than once. Called once per second: a store should not hold all of them in memory
    /// at once, because thousands of allocations at a time delay the other threads.
    pub(crate) fn changed_processes(
        &self,
        since: Timestamp,
        each: &mut dyn FnMut(ProcessState),
    ) -> Result<(), Error> {
        self.read(|tx| each_process(tx, "AND changed_at >= ? ORDER BY no", by![since.0], each))
    }

    /// The ids of all processes.
    pub(crate) fn process_ids(&self) -> Result<HashSet<ProcessId>, Error> {
        self.read(|tx| {
            let sql = formatcp!("SELECT id FROM #processes WHERE chore <> {DELETING}");
            let mut ids = HashSet::new();
            tx.each(sql, Vec::new(), &mut |mut row| {
                ids.insert(id_of(&row.at::<Vec<u8>>(0)?)?);
                Ok(true)
            })?;
            Ok(ids)
        })
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
            "SELECT {PROCESS_COLUMNS}, no FROM #processes WHERE no < ? AND parent IS NULL AND chore <> {DELETING} {state}
             ORDER BY no DESC LIMIT ?"
        );
        self.read(|tx| {
            let rows = tx.rows(&sql, by![before, limit(most)])?;
            let newest = rows
                .into_iter()
                .map(|mut row| Ok((count(row.at(PROCESS_CELLS)?), rows::process(&mut row)?)));
            newest.collect()
        })
    }

    /// The number of all jobs by state, and the number of processes.
    pub(crate) fn totals(&self) -> Result<QueueTotals, Error> {
        self.read(|tx| {
            let sql = formatcp!(
                "SELECT {SUMS}, COUNT(*),
                   IFNULL(SUM(sealed < total OR pending + in_progress + at_provider > 0), 0),
                   IFNULL(SUM(cost_picos + 0e0), 0), IFNULL(SUM(unpriced + 0e0), 0)
                 FROM #processes WHERE chore <> {DELETING}"
            );
            let Some(mut row) = tx.first(sql, Vec::new())? else {
                return Ok(QueueTotals::default());
            };
            let (cost, unpriced) = (row.at::<f64>(10)? as u64, row.at::<f64>(11)? as u64);
            Ok(QueueTotals {
                jobs: sums(&mut row, 0)?,
                processes: count(row.at(8)?),
                open: count(row.at(9)?),
                cost_usd: (unpriced == 0 || cost > 0).then_some(Usd::from_picos(cost)),
                unpriced,
            })
        })
    }

    /// The number of waiting jobs by priority, highest first, due or not, without jobs that wait for others. Jobs of a
    /// process that is being cancelled or deleted may be included. Reads one key of every waiting job, and nothing
    /// else.
    pub(crate) fn waiting_by_priority(&self) -> Result<Vec<(u8, u64)>, Error> {
        self.read(|tx| {
            let sql = formatcp!(
                "SELECT priority, COUNT(*) FROM #jobs FORCE INDEX (to_claim)
                 WHERE status = {PENDING} GROUP BY priority ORDER BY priority DESC"
            );
            let rows = tx.rows(sql, Vec::new())?;
            let counts = rows
                .into_iter()
                .map(|mut row| Ok((small(row.at(0)?), count(row.at(1)?))));
            counts.collect()
        })
    }
}
