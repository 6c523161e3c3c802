//! Budgets of processes: limits, draws of workers, reservations of batches, and pauses.

use crate::base::{Error, ErrorKind, ProcessId, Timestamp, Usd};
use crate::money::budget::{SLICES, slice};
use crate::queue::budget::ProcessBudget;
use crate::queue::store::budgets::{BudgetDraw, BudgetStore, JobBudget};
use crate::queue::store::rows::{bounded, process_budget};
use crate::queue::store::{BatchNo, JobReceipt, WorkerId};

use super::budget_rows::{lock, set_used, sum, take};
use super::chores::lock_family;
use super::pauses;
use super::provider::owned;
use super::statements::{Dialect, Fault, Queries as _, Statements, by, id_of, list};
use super::{Again, SqlStore};

/// The columns of [`process_budget`].
const COLUMNS: &str = "budget_limit, budget_used, budget_needed, budget_stop";

/// Pauses the process of a budget, with its descendants. Without `needed`, only a new limit resumes it.
///
/// Several calls may be refused before the pause stops them. It ends when there is enough for the smallest of them, and
/// a request without a bound pauses the process again then. If that was the first one, its reason stays.
fn stop(tx: &mut dyn Statements, no: i64, needed: Option<u64>, why: &str) -> Result<(), Fault> {
    tx.run(
        "UPDATE #processes SET
           budget_needed = CASE WHEN budget_stop IS NULL THEN ? ELSE LEAST(budget_needed, IFNULL(?, budget_needed)) END,
           budget_stop = IFNULL(budget_stop, ?)
         WHERE no = ?",
        by![
            needed.map(bounded),
            needed.map(bounded),
            why.to_owned(),
            no
        ],
    )?;
    pauses::stop_for_budget(tx, no)
}

impl<S: SqlStore> BudgetStore for S {
    fn set_budget(&self, process: ProcessId, limit: Usd, now: Timestamp) -> Result<(), Error> {
        let no = self.write(Again::Harmless, |tx| set_limit(tx, process, limit))?;
        pauses::resume_budget(self, no, false, now)
    }

    fn draw_budget(
        &self,
        budget: JobBudget,
        back: u64,
        least: u64,
        _now: Timestamp,
    ) -> Result<BudgetDraw, Error> {
        self.write(Again::Doubtful, |tx| {
            let Some(mut found) = lock(tx, budget.no)? else {
                return Ok(BudgetDraw::Unlimited);
            };
            found.used = found.used.saturating_sub(back);
            let Some(drawn) = slice(found.limit, least, found.left()) else {
                set_used(tx, budget.no, found.used)?;
                stop(tx, budget.no, Some(least), "used up")?;
                return Ok(BudgetDraw::Paused);
            };
            set_used(tx, budget.no, found.used + drawn)?;
            Ok(BudgetDraw::Drawn(drawn))
        })
    }

    fn return_budget(&self, budget: JobBudget, amount: i64, now: Timestamp) -> Result<(), Error> {
        self.write(Again::Doubtful, |tx| {
            let Some(found) = lock(tx, budget.no)? else {
                return Ok(());
            };
            let used = match u64::try_from(amount) {
                Ok(back) => found.used.saturating_sub(back),
                Err(_) => found.used.saturating_add(amount.unsigned_abs()),
            };
            set_used(tx, budget.no, used)
        })?;
        pauses::resume_after_commit(self, now);
        Ok(())
    }

    fn stop_budget(&self, budget: JobBudget, why: &str) -> Result<(), Error> {
        self.write(Again::Harmless, |tx| {
            if lock(tx, budget.no)?.is_some() {
                stop(tx, budget.no, None, why)?;
            }
            Ok(())
        })
    }

    fn reserve_jobs(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        budget: JobBudget,
        jobs: &[(JobReceipt, u64)],
        _now: Timestamp,
    ) -> Result<usize, Error> {
        self.write(Again::Harmless, |tx| {
            owned(tx, worker, batch)?;
            let Some(mut found) = lock(tx, budget.no)? else {
                return Ok(jobs.len());
            };
            let before = take(tx, jobs.iter().map(|(job, _)| (job.job, job.claim)))?;
            found.used = found.used.saturating_sub(sum(before.values()));
            let all = sum(jobs.iter().map(|(_, amount)| amount));
            let first = jobs.first().map_or(0, |(_, amount)| *amount);
            // Otherwise, the last of the money would go into ever smaller batches.
            let least = all.min(found.limit / SLICES).max(first);
            let mut taken = 0;
            for (_, amount) in jobs {
                if *amount > found.left() || taken == 0 && least > found.left() {
                    break;
                }
                found.used += amount;
                taken += 1;
            }
            let rows = jobs[..taken].iter().filter(|(_, amount)| *amount > 0);
            let mut rows = rows.map(|(job, amount)| by![job.job, job.claim, bounded(*amount)]);
            tx.insert_rows(
                "INSERT INTO #reservations (job, claim, amount) VALUES",
                &mut rows,
            )?;
            set_used(tx, budget.no, found.used)?;
            if taken == 0 && !jobs.is_empty() {
                stop(tx, budget.no, Some(least), "used up")?;
            }
            Ok(taken)
        })
    }

    fn budget_pauses(&self) -> Result<Vec<(ProcessId, ProcessBudget)>, Error> {
        self.read(|tx| {
            let sql = format!(
                "SELECT p.id, {COLUMNS} FROM #pauses s JOIN #processes p ON p.no = s.process
                 WHERE s.scope = {} AND p.budget_stop IS NOT NULL ORDER BY s.no",
                pauses::BUDGET
            );
            let mut found = Vec::new();
            for mut row in tx.rows(&sql, Vec::new())? {
                let id = id_of(&row.at::<Vec<u8>>(0)?)?;
                found.extend(process_budget(&mut row, 1)?.map(|budget| (id, budget)));
            }
            Ok(found)
        })
    }

    fn resume_budgets(&self, now: Timestamp) -> Result<bool, Error> {
        let index = |dialect| match dialect {
            Dialect::Sqlite => "",
            #[cfg(feature = "mysql")]
            Dialect::Mysql => " FORCE INDEX (by_need)",
        };
        let found: Vec<i64> = self.read(|tx| {
            let sql = format!(
                "SELECT no FROM #processes{} WHERE budget_needed IS NOT NULL
                   AND budget_needed <= budget_limit - budget_used",
                index(tx.dialect())
            );
            tx.column(&sql, Vec::new())
        })?;
        for no in &found {
            pauses::resume_budget(self, *no, true, now)?;
        }
        Ok(!found.is_empty())
    }
}

fn refuse(why: String) -> Fault {
    Error::new(ErrorKind::Invalid, why).into()
}

/// The number of a process that can have a budget, whose row is locked, and its budget.
fn locked(
    tx: &mut dyn Statements,
    process: ProcessId,
) -> Result<(i64, Option<ProcessBudget>), Fault> {
    let no = tx.process_no(process)?;
    let no = no.ok_or_else(|| refuse(format!("process {process} does not exist")))?;
    let sql = format!("SELECT parent, {COLUMNS} FROM #processes WHERE no = ? FOR UPDATE");
    let found = tx.first(&sql, by![no])?;
    let mut row = found.ok_or_else(|| refuse(format!("process {process} does not exist")))?;
    if row.at::<Option<i64>>(0)?.is_some() {
        return Err(refuse(format!(
            "process {process} belongs to a job of another process: set the budget of that process"
        )));
    }
    Ok((no, process_budget(&mut row, 1)?))
}

/// Sets the limit. Returns the number of the process.
fn set_limit(tx: &mut dyn Statements, process: ProcessId, limit: Usd) -> Result<i64, Fault> {
    let (no, known) = locked(tx, process)?;
    match known {
        Some(_) => {
            let sql = "UPDATE #processes SET budget_limit = ? WHERE no = ?";
            tx.run(sql, by![bounded(limit.picos()), no])?;
        }
        None => first_limit(tx, process, no, limit)?,
    }
    Ok(no)
}

/// Gives a process and its descendants their first budget. It counts what all of them have spent.
fn first_limit(
    tx: &mut dyn Statements,
    process: ProcessId,
    no: i64,
    limit: Usd,
) -> Result<(), Fault> {
    let mut family = vec![no];
    // Nothing can be added below them until this commits.
    family.extend(lock_family(tx, no)?);
    let (mut cost, mut unpriced) = (0_i64, 0_i64);
    let rows = tx.rows_in(
        "SELECT cost_picos, unpriced FROM #processes WHERE no IN :list",
        &family,
    )?;
    for mut row in rows {
        cost = cost.saturating_add(row.at(0)?);
        unpriced = unpriced.saturating_add(row.at(1)?);
    }
    if unpriced > 0 {
        return Err(refuse(format!(
            "the cost of some calls of process {process} is unknown, so that a budget cannot be kept"
        )));
    }
    tx.run(
        "UPDATE #processes SET budget_limit = ?, budget_used = ? WHERE no = ?",
        by![
            bounded(limit.picos()),
            bounded(u64::try_from(cost).unwrap_or(0)),
            no
        ],
    )?;
    tx.run_once(&format!(
        "UPDATE #processes SET budget = {no} WHERE no IN {}",
        list(family)
    ))?;
    Ok(())
}
