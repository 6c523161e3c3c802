//! Budgets of processes: limits, draws of workers, reservations of batches, and pauses.

use crate::base::clock::Timestamp;
use crate::base::error::{Error, ErrorKind};
use crate::base::id::ProcessId;
use crate::money::budget::{Amount, AmountUnit};
use crate::queue::budget::ProcessBudget;
use crate::queue::store::budgets::{BudgetDraw, BudgetStore, JobBudget};
use crate::queue::store::rows::{bounded, process_budget};
use crate::queue::store::{BatchNo, WorkerId};

use super::budget_rows::{lock, number_of, set_used, take};
use super::lineage;
use super::pauses;
use super::provider::owned;
use super::statements::{Dialect, Fault, Queries as _, Statements, by, id_of, list};
use super::{Again, SqlStore};

/// A worker draws this part of the limit at once, so that most calls need no write.
const SLICES: u64 = 64;

/// The columns of [`process_budget`].
const COLUMNS: &str = "budget_unit, budget_limit, budget_used, budget_needed, budget_stop";

/// Pauses the process of a budget, with its descendants. Without `needed`, only a new limit resumes it.
fn stop(tx: &mut dyn Statements, no: i64, needed: Option<u64>, why: &str) -> Result<(), Fault> {
    tx.run(
        "UPDATE #processes SET budget_needed = ?, budget_stop = ? WHERE no = ?",
        by![needed.map(bounded), why.to_owned(), no],
    )?;
    pauses::stop_for_budget(tx, no)
}

impl<S: SqlStore> BudgetStore for S {
    fn set_budget(&self, process: ProcessId, limit: Amount, now: Timestamp) -> Result<(), Error> {
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
            if found.unit != budget.unit {
                return Ok(BudgetDraw::OtherUnit);
            }
            found.used = found.used.saturating_sub(back);
            let left = found.left();
            if least > left {
                set_used(tx, budget.no, found.used)?;
                stop(tx, budget.no, Some(least), "used up")?;
                return Ok(BudgetDraw::Paused);
            }
            let drawn = least.max((found.limit / SLICES).min(left));
            set_used(tx, budget.no, found.used + drawn)?;
            Ok(BudgetDraw::Drawn(drawn))
        })
    }

    fn return_budget(&self, budget: JobBudget, amount: i64, now: Timestamp) -> Result<(), Error> {
        self.write(Again::Doubtful, |tx| {
            let Some(found) = lock(tx, budget.no)?.filter(|found| found.unit == budget.unit) else {
                return Ok(());
            };
            let used = match u64::try_from(amount) {
                Ok(back) => found.used.saturating_sub(back),
                Err(_) => found.used.saturating_add(amount.unsigned_abs()),
            };
            set_used(tx, budget.no, used)
        })?;
        self.resume_budgets(now).map(drop)
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
        jobs: &[(i64, u64)],
        _now: Timestamp,
    ) -> Result<usize, Error> {
        self.write(Again::Harmless, |tx| {
            owned(tx, worker, batch)?;
            let Some(mut found) = lock(tx, budget.no)? else {
                return Ok(jobs.len());
            };
            if found.unit != budget.unit {
                return Ok(0);
            }
            let before = take(tx, jobs.iter().map(|(job, _)| *job))?;
            found.used = found.used.saturating_sub(before.values().sum());
            let all: u64 = jobs.iter().map(|(_, amount)| amount).sum();
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
            let mut rows = rows.map(|(job, amount)| by![*job, bounded(*amount)]);
            tx.insert_rows("INSERT INTO #reservations (job, amount) VALUES", &mut rows)?;
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

/// Sets the limit. Returns the number of the process.
fn set_limit(tx: &mut dyn Statements, process: ProcessId, limit: Amount) -> Result<i64, Fault> {
    let refuse = |why: String| Fault::from(Error::new(ErrorKind::Invalid, why));
    let no = tx.process_no(process)?;
    let no = no.ok_or_else(|| refuse(format!("process {process} does not exist")))?;
    let sql = format!(
        "SELECT parent, cost_picos, input_tokens + output_tokens, unpriced, {COLUMNS} FROM #processes
         WHERE no = ? FOR UPDATE"
    );
    let found = tx.first(&sql, by![no])?;
    let mut row = found.ok_or_else(|| refuse(format!("process {process} does not exist")))?;
    if row.at::<Option<i64>>(0)?.is_some() {
        return Err(refuse(format!(
            "process {process} belongs to a job of another process: set the budget of that process"
        )));
    }
    let known = process_budget(&mut row, 4)?;
    let (unit, number) = (limit.unit(), bounded(limit.number()));
    match known {
        Some(known) if known.limit.unit() == unit => {
            let sql = "UPDATE #processes SET budget_limit = ? WHERE no = ?";
            tx.run(sql, by![number, no])?;
        }
        Some(known) if known.used.number() > 0 => {
            return Err(refuse(format!(
                "the budget of process {process} counts {}, and {} is spent or reserved: its unit cannot change. Set a new \
                 limit in the same unit",
                unit_name(known.limit.unit()),
                known.used
            )));
        }
        _ => {
            let used: i64 = match unit {
                AmountUnit::Usd => row.at(1)?,
                AmountUnit::Tokens => row.at(2)?,
            };
            if unit == AmountUnit::Usd && row.at::<i64>(3)? > 0 {
                return Err(refuse(format!(
                    "the cost of some calls of process {process} is unknown, so that a budget in US dollars cannot be kept: \
                     set one in tokens"
                )));
            }
            tx.run(
                "UPDATE #processes SET budget_unit = ?, budget_limit = ?, budget_used = ? WHERE no = ?",
                by![number_of(unit), number, used, no],
            )?;
            let mut family = vec![no];
            family.extend(lineage::below_process(tx, no)?);
            tx.run_once(&format!(
                "UPDATE #processes SET budget = {no} WHERE no IN {}",
                list(family)
            ))?;
        }
    }
    Ok(no)
}

fn unit_name(unit: AmountUnit) -> &'static str {
    match unit {
        AmountUnit::Usd => "US dollars",
        AmountUnit::Tokens => "tokens",
    }
}
