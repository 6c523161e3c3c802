//! Budgets of processes: limits, what batches can cost, and which processes are closed.

use std::collections::BTreeMap;

use const_format::formatcp;

use super::counters::CounterChanges;
use super::rows::{CANCELLING, DELETING, MOST, NO_CHORE, bounded, key, process_no};
use super::{BatchNo, JobBudget, Store, WorkerId};
use crate::base::{Error, ErrorKind, ProcessId, Usd};
use crate::queue::info::ProcessBudget;

use super::lineage::{BELOW, ROOT, owned};
use super::statements::{
    Fault, FromRow, Queries as _, Row, Sql, all, by, count, limit, list, stored,
};

/// The columns of a budget that a job needs.
pub(crate) const BUDGET: &str = "b.id, b.budget_limit, b.budget_used, b.budget_held, b.budget_most";

impl FromRow for Option<JobBudget> {
    fn from_row(row: &mut Row) -> Result<Self, Fault> {
        let (process, limit): (_, Option<_>) = row.read()?;
        let (used, held, most) = row.read()?;
        Ok(limit.map(|limit| JobBudget {
            process,
            limit,
            used,
            held,
            most,
        }))
    }
}

/// The processes whose jobs must not start: their budgets are used up, or they are being cancelled or deleted. And [`QUEUE`].
pub(crate) const CLOSED: &str = formatcp!(
    "SELECT no FROM #processes WHERE closed = 1 UNION ALL
     SELECT no FROM #processes FORCE INDEX (by_chore) WHERE chore <> {NO_CHORE} AND chore >= {CANCELLING} UNION ALL
     SELECT {QUEUE} FROM #pauses"
);
/// Stands among the closed processes for the queue, while that is paused.
pub(crate) const QUEUE: i64 = -1;

/// The condition that a job belongs neither to these closed processes nor to their descendants.
pub(crate) fn not_closed(tx: &mut dyn Sql, mut closed: Vec<i64>) -> Result<String, Fault> {
    if closed.is_empty() {
        return Ok(String::new());
    }
    closed.extend(tx.many::<i64>(BELOW, by![all(&closed)])?);
    Ok(format!(" AND id DIV 4294967296 NOT IN {}", list(&closed)))
}

impl CounterChanges {
    /// The jobs of a worker that died: each may have had a call in flight, and counts as the mean of the calls up to now, or
    /// as the most that a call can cost.
    pub(super) fn lost_with_worker(
        &mut self,
        tx: &mut dyn Sql,
        jobs: &BTreeMap<i64, i64>,
    ) -> Result<(), Fault> {
        let numbers: Vec<i64> = jobs.keys().copied().collect();
        let find =
            "SELECT p.no, p.cost_picos, p.completed + p.failed, b.budget_most FROM #processes p
             CROSS JOIN #processes b ON b.no = IFNULL(p.root, p.no) WHERE p.no IN :list";
        let found: Vec<(i64, i64, i64, i64)> = tx.many(find, by![all(&numbers)])?;
        for (no, cost, ended, most) in found {
            let mean = if ended > 0 { cost / ended } else { most };
            let jobs = jobs.get(&no).copied().unwrap_or(0);
            self.lost(key(no, 0), count(mean.saturating_mul(jobs)));
        }
        Ok(())
    }
}

/// Adds to what a batch holds of its budget. Returns nothing if its process no longer exists.
fn hold(tx: &mut dyn Sql, process: i64, more: i64) -> Result<(), Fault> {
    // One statement that reads the table that it changes would be an error in MySQL.
    if let Some(root) = tx.one::<i64>(ROOT, by![process])? {
        let hold = formatcp!(
            "UPDATE #processes SET budget_held = LEAST(GREATEST(budget_held + ?, 0), {MOST}) WHERE no = ?"
        );
        tx.run(hold, by![more, root])?;
    }
    Ok(())
}

/// Releases a part of what a batch holds, or, when it ends, the rest. `left`: jobs that the provider may have billed without a
/// result; they count with their part.
pub(super) fn release(
    tx: &mut dyn Sql,
    batch: BatchNo,
    process: i64,
    left: usize,
    ends: bool,
) -> Result<u64, Fault> {
    let held = "SELECT held, held_jobs FROM #batches WHERE no = ?";
    let (held, jobs) = tx.one::<(i64, i64)>(held, by![batch.0])?.unwrap_or((0, 0));
    if held == 0 {
        return Ok(0);
    }
    let left = limit(left).min(jobs);
    // Rounded up.
    let part = count(held).div_ceil(count(jobs).max(1));
    let lost = bounded(part.saturating_mul(count(left))).min(held);
    let gone = "UPDATE #batches SET held = held - ?, held_jobs = held_jobs - ? WHERE no = ?";
    tx.run(gone, by![lost, left, batch.0])?;
    hold(tx, process, if ends { -held } else { -lost })?;
    Ok(count(lost))
}

fn refuse(why: String) -> Fault {
    Error::new(ErrorKind::Invalid, why).into()
}

/// The least call that does not fit closes the process.
fn note_refused(tx: &mut dyn Sql, root: i64, most: u64) -> Result<(), Fault> {
    let sql = formatcp!(
        "UPDATE #processes SET budget_needed =
           CASE WHEN closed = 1 AND budget_needed > 0 THEN LEAST(budget_needed, ?) ELSE ? END WHERE no = ?"
    );
    let most = bounded(most).min(MOST);
    tx.run(sql, by![most, most, root]).map(drop)
}

impl Store {
    /// Sets the limit of a process. The first limit counts what the process has spent before. If the budget was
    /// used up, its jobs can start again. Calls that are in flight when a process gets its first limit count when they end.
    /// To create a process with a budget, use [`ProcessInfo::budget`](crate::queue::ProcessInfo::budget).
    ///
    /// [`ProcessState::budget`](crate::queue::ProcessState::budget) has the limit and what is used.
    ///
    /// # Errors
    /// If the process does not exist, is a child of another one, or has calls of unknown cost; or if the queue cannot be
    /// written.
    pub fn set_budget(&self, process: ProcessId, limit: Usd) -> Result<(), Error> {
        self.write(|tx| {
            let find = formatcp!(
                "SELECT no, parent, unpriced, budget_limit FROM #processes WHERE id = ? AND chore <> {DELETING} FOR UPDATE"
            );
            let found = tx.one::<(i64, Option<i64>, i64, Option<i64>)>(find, by![stored(process)])?;
            let Some((no, parent, unpriced, before)) = found else {
                return Err(refuse(format!("process {process} does not exist")));
            };
            if parent.is_some() {
                return Err(refuse(format!(
                    "process {process} belongs to a job of another process: set the budget of that process"
                )));
            }
            // Under a budget, they count as the most that they could cost.
            if unpriced > 0 && before.is_none() {
                return Err(refuse(format!(
                    "the cost of some calls of process {process} is unknown, so that a budget cannot be kept"
                )));
            }
            let set = "UPDATE #processes SET budget_limit = ?, budget_needed = 0 WHERE no = ?";
            tx.run(set, by![bounded(limit.picos()).min(MOST), no])
        })?;
        self.wake_workers();
        Ok(())
    }

    /// Writes what a batch can cost at most, and checks it against the budget of its process. `held` is that of its first
    /// jobs, which fit before; `amounts` are those of the next ones, in picodollars. Returns how many of these fit. If the
    /// batch would stay empty, the first amount is [refused](Self::note_refused). A repetition changes nothing.
    pub(crate) fn hold_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        (first, first_jobs): (u64, usize),
        amounts: &[u64],
    ) -> Result<usize, Error> {
        self.write(|tx| {
            let (process, _) = owned(tx, worker, batch)?;
            let held = "SELECT held FROM #batches WHERE no = ?";
            let own: i64 = tx.one(held, by![batch.0])?.unwrap_or(0);
            let root: Option<i64> = tx.one(ROOT, by![process])?;
            let find = "SELECT no, budget_limit, budget_used, budget_held FROM #processes
                 WHERE no = ? AND budget_limit IS NOT NULL FOR UPDATE";
            let Some((root, limit, used, all)) = tx.one::<(i64, i64, i64, i64)>(find, by![root])?
            else {
                return Ok(amounts.len());
            };
            let left = count(limit.saturating_sub(used).saturating_sub(all - own));
            let (mut sum, mut fits) = (first, 0);
            for amount in amounts {
                match sum.checked_add(*amount).filter(|sum| *sum <= left) {
                    Some(more) => (sum, fits) = (more, fits + 1),
                    None => break,
                }
            }
            let jobs = bounded((first_jobs + fits) as u64);
            let sum = bounded(sum);
            tx.run(
                "UPDATE #batches SET held = ?, held_jobs = ? WHERE no = ?",
                by![sum, jobs, batch.0],
            )?;
            hold(tx, root, sum - own)?;
            if let (0, Some(least)) = (jobs, amounts.first()) {
                note_refused(tx, root, *least)?;
            }
            Ok(fits)
        })
    }

    /// Closes a process because a call that can cost this much, in picodollars, does not fit.
    pub(crate) fn note_refused(&self, process: ProcessId, most: u64) -> Result<(), Error> {
        self.write(|tx| match process_no(tx, process)? {
            Some(no) => note_refused(tx, no, most),
            None => Ok(()),
        })
    }

    /// Notes that a call of a process can cost this much, in picodollars. As long as no job of it has ended, that counts for
    /// each job that a worker had when it died.
    pub(crate) fn note_most(&self, process: ProcessId, most: u64) -> Result<(), Error> {
        self.write(|tx| {
            let note = "UPDATE #processes SET budget_most = GREATEST(budget_most, ?) WHERE id = ?";
            tx.run(note, by![bounded(most).min(MOST), stored(process)])
                .map(drop)
        })
    }

    /// The closed processes for which jobs wait, oldest first.
    pub(crate) fn closed_processes(&self) -> Result<Vec<(ProcessId, ProcessBudget)>, Error> {
        let find =
            "SELECT b.id, b.budget_limit, b.budget_used, b.budget_held, b.budget_needed, b.closed
             FROM #processes b WHERE b.closed = 1 AND (b.pending > 0
               OR EXISTS (SELECT 1 FROM #processes p WHERE p.root = b.no AND p.pending > 0)) ORDER BY b.no";
        let closed: Vec<(ProcessId, Option<_>)> = self.read(|tx| tx.many(find, by![]))?;
        let closed = closed.into_iter();
        Ok(closed
            .filter_map(|(id, budget)| Some((id, budget?)))
            .collect())
    }
}
