//! Adding jobs and describing processes, and reading processes and jobs.

use std::collections::HashSet;

use const_format::formatcp;
use rusqlite::types::Value;

use crate::base::{Day, Error, JobId, ProcessId, Timestamp, Usd};
use crate::queue::info::ProcessInfo;
use crate::queue::job::{DaySpent, JobCounts, JobState, ProcessState, QueueTotals};
use crate::queue::store::rows::{
    self, AT_PROVIDER, DELETING, MOST_JOBS, PENDING, PROCESS_COLUMNS, bounded, count, key, key_of,
    shown, small,
};
use crate::queue::store::{JobSummary, Store};

use super::insert::written;
use super::statements::{Fault, Queries as _, Row, Statements, by, id_of, limit, stored};
use super::{Again, find, spent};

/// The number of jobs of several processes by state. Sums may exceed an integer.
const SUMS: &str = "IFNULL(SUM(total + 0e0), 0), IFNULL(SUM(pending + 0e0), 0), \
     IFNULL(SUM(in_progress + 0e0), 0), IFNULL(SUM(at_provider + 0e0), 0), IFNULL(SUM(completed + 0e0), 0), \
     IFNULL(SUM(failed + 0e0), 0), IFNULL(SUM(cancelled_jobs + 0e0), 0), IFNULL(SUM(consumed + 0e0), 0)";

/// The counts that [`SUMS`] has read, from this column on.
fn sums(row: &mut Row, first: usize) -> Result<JobCounts, Fault> {
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

fn select_processes(
    store: &Store,
    which: &str,
    by: Vec<Value>,
) -> Result<Vec<ProcessState>, Error> {
    store.read(|tx| {
        let mut processes = Vec::new();
        each_process(tx, which, by.clone(), &mut |process| {
            processes.push(process)
        })?;
        Ok(processes)
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
    /// What was spent from this day on, by day and model, in order; `None`: ever. The store adds it in the transactions that
    /// add the usage of jobs to their processes, and keeps it when jobs and processes are gone.
    pub(crate) fn spent_since(&self, day: Option<Day>) -> Result<Vec<DaySpent>, Error> {
        self.read(|tx| spent::since(tx, day))
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
        Ok(select_processes(self, "AND id = ?", by![stored(process)])?.pop())
    }

    /// Every process, oldest first.
    pub fn processes(&self) -> Result<Vec<ProcessState>, Error> {
        select_processes(self, "ORDER BY no", Vec::new())
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
            "SELECT no, {PROCESS_COLUMNS} FROM #processes WHERE no < ? AND chore <> {DELETING} {state}
             ORDER BY no DESC LIMIT ?"
        );
        self.read(|tx| {
            let rows = tx.rows(&sql, by![before, limit(most)])?;
            let newest = rows.into_iter().map(|mut row| {
                let no = row.at(0)?;
                Ok((count(no), rows::process(&mut row.behind(1))?))
            });
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

    /// A job, if it exists. With an outcome it contains the receipt that acknowledges it; before that, the states of
    /// its child jobs, if any.
    pub fn job(&self, job: JobId) -> Result<Option<JobState>, Error> {
        let id = key_of(job);
        let sql = formatcp!(
            "SELECT j.created_at, p.id, j.lane, j.status, j.priority, j.calls, j.crashes,
               j.visible_at, b.item_id, r.error, r.body, h.body, j.claim, children.*
             FROM (SELECT {SUMS} FROM #processes WHERE parent = ? AND chore <> {DELETING}) children
               CROSS JOIN #jobs j CROSS JOIN #processes p ON p.no = j.id DIV 4294967296
               CROSS JOIN #payloads b ON b.job = j.id LEFT JOIN #results r ON r.job = j.id
               LEFT JOIN #histories h ON h.job = j.id AND j.has_history <> 0
             WHERE j.id = ? AND p.chore <> {DELETING}"
        );
        // One statement reads a consistent state. Clients poll states often, and a transaction would add four
        // statements.
        self.read(|tx| {
            let Some(mut row) = tx.first(sql, by![id, id])? else {
                return Ok(None);
            };
            let children = sums(&mut row, 13)?;
            let state = find::job_state(self, tx, &mut row, id, children)?;
            // The rest of the id must match too, because it may belong to another database.
            Ok((state.job_id == job).then_some(state))
        })
    }

    /// Up to `most` stored jobs of a process, in the order in which they were enqueued, after `after`.
    pub(crate) fn items(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        most: usize,
    ) -> Result<Vec<JobSummary>, Error> {
        self.read(|tx| {
            let Some(no) = tx.process_no(process)? else {
                return Ok(Vec::new());
            };
            let before = key(no, 0) - 1;
            let start = after.map_or(before, |job| key_of(job).max(before));
            let rows = tx.rows(
                "SELECT j.id, j.created_at, j.status, p.item_id, p.request_hash
                 FROM #jobs j FORCE INDEX (PRIMARY) CROSS JOIN #payloads p ON p.job = j.id
                 WHERE j.id > ? AND j.id <= ? ORDER BY j.id LIMIT ?",
                by![start, key(no, MOST_JOBS - 1), limit(most)],
            )?;
            let items = rows.into_iter().map(|mut row| {
                let status: i64 = row.at(2)?;
                Ok(JobSummary {
                    job_id: self.job_id(row.at(0)?, Timestamp(row.at(1)?)),
                    item_id: row.at(3)?,
                    request_hash: row.at(4)?,
                    status: shown(status),
                    at_provider: status == AT_PROVIDER,
                })
            });
            items.collect()
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
