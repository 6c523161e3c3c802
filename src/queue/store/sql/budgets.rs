//! Budgets of processes: columns of the process that has the budget, and reservations of jobs in batches.

use std::collections::HashMap;

use crate::base::clock::Timestamp;
use crate::base::error::{Error, ErrorKind};
use crate::base::id::ProcessId;
use crate::base::usd::Usd;
use crate::money::budget::{Amount, AmountUnit};
use crate::queue::budget::{BudgetPause, ProcessBudget};
use crate::queue::job::Spent;
use crate::queue::store::budgets::{BudgetDraw, BudgetEnd, BudgetStore, JobBudget};
use crate::queue::store::rows::{bounded, count};
use crate::queue::store::{BatchNo, WorkerId};

use super::lineage;
use super::pauses;
use super::provider::owned;
use super::statements::{Dialect, Fault, Queries as _, Row, Statements, by, id_of, list};
use super::{Again, SqlStore};

/// A worker draws this part of the limit at once, so that most calls need no write.
const SLICES: u64 = 64;

/// The end of a job, as it counts in the budget of its process.
pub(crate) struct EndInBudget {
    pub job: i64,
    pub end: BudgetEnd,
    pub spent: Option<Spent>,
    /// Whether the reservation of the job is for this claim.
    pub counts: bool,
}

/// The columns of [`read`].
const COLUMNS: &str = "budget_unit, budget_limit, budget_used, budget_needed, budget_stop";

/// A budget from five cells of a row.
pub(crate) fn read(row: &mut Row, first: usize) -> Result<Option<ProcessBudget>, Fault> {
    let Some(unit) = row.at::<Option<i64>>(first)? else {
        return Ok(None);
    };
    let unit = unit_of(unit);
    let amount = |number: i64| Amount::new(unit, count(number));
    let limit = amount(row.at::<Option<i64>>(first + 1)?.unwrap_or(0));
    let used = amount(row.at(first + 2)?);
    let needed: Option<i64> = row.at(first + 3)?;
    let why: Option<String> = row.at(first + 4)?;
    let pause = why.map(|why| match needed {
        Some(needed) => BudgetPause::UsedUp(amount(needed)),
        None => BudgetPause::Unbounded(why),
    });
    Ok(Some(ProcessBudget { limit, used, pause }))
}

fn unit_of(number: i64) -> AmountUnit {
    match number {
        0 => AmountUnit::Usd,
        _ => AmountUnit::Tokens,
    }
}

fn number_of(unit: AmountUnit) -> i64 {
    match unit {
        AmountUnit::Usd => 0,
        AmountUnit::Tokens => 1,
    }
}

/// A budget from two cells of a row: the number of its process, and what it counts.
pub(crate) fn of_job(row: &mut Row, first: usize) -> Result<Option<JobBudget>, Fault> {
    let no: Option<i64> = row.at(first)?;
    let unit: Option<i64> = row.at(first + 1)?;
    Ok(job_budget(no, unit))
}

pub(crate) fn job_budget(no: Option<i64>, unit: Option<i64>) -> Option<JobBudget> {
    let (no, unit) = (no?, unit_of(unit?));
    Some(JobBudget { no, unit })
}

/// Gives a new process its budget: its own, or the one of its parent.
pub(super) fn begin(
    tx: &mut dyn Statements,
    no: i64,
    parent: Option<i64>,
    budget: Option<&ProcessBudget>,
) -> Result<(), Fault> {
    let inherited: Option<i64> = match parent {
        Some(parent) => {
            let sql = "SELECT budget FROM #processes WHERE no = ?";
            tx.one::<Option<i64>>(sql, by![parent])?.flatten()
        }
        None => None,
    };
    if let Some(inherited) = inherited {
        let sql = "UPDATE #processes SET budget = ? WHERE no = ?";
        tx.run(sql, by![inherited, no])?;
    } else if let Some(budget) = budget {
        let limit = budget.limit;
        tx.run(
            "UPDATE #processes SET budget = no, budget_unit = ?, budget_limit = ?, budget_used = ? WHERE no = ?",
            by![
                number_of(limit.unit()),
                bounded(limit.number()),
                bounded(budget.used.number()),
                no
            ],
        )?;
    }
    Ok(())
}

/// A locked row.
struct Locked {
    unit: AmountUnit,
    limit: u64,
    used: u64,
}

impl Locked {
    fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

fn lock(tx: &mut dyn Statements, no: i64) -> Result<Option<Locked>, Fault> {
    let sql = "SELECT budget_unit, budget_limit, budget_used FROM #processes
         WHERE no = ? AND budget = no FOR UPDATE";
    let Some(mut row) = tx.first(sql, by![no])? else {
        return Ok(None);
    };
    Ok(Some(Locked {
        unit: unit_of(row.at(0)?),
        limit: count(row.at(1)?),
        used: count(row.at(2)?),
    }))
}

fn set_used(tx: &mut dyn Statements, no: i64, used: u64) -> Result<(), Fault> {
    let sql = "UPDATE #processes SET budget_used = ? WHERE no = ?";
    tx.run(sql, by![bounded(used), no])?;
    Ok(())
}

/// Pauses the process of a budget, with its descendants. Without `needed`, only a new limit resumes it.
fn stop(tx: &mut dyn Statements, no: i64, needed: Option<u64>, why: &str) -> Result<(), Fault> {
    tx.run(
        "UPDATE #processes SET budget_needed = ?, budget_stop = ? WHERE no = ?",
        by![needed.map(bounded), why.to_owned(), no],
    )?;
    pauses::stop_for_budget(tx, no)
}

/// What a job has spent, in a unit, if that is known.
fn spent_in(unit: AmountUnit, spent: Option<Spent>) -> Option<u64> {
    let spent = spent?;
    match unit {
        AmountUnit::Usd => spent
            .cost_usd
            .filter(|_| spent.unpriced == 0)
            .map(Usd::picos),
        // A reply without counts reports 0, which is unknown.
        AmountUnit::Tokens => Some(spent.input_tokens.saturating_add(spent.output_tokens)).filter(|all| *all > 0),
    }
}

/// Books ends of jobs of one budget, and releases their reservations. Returns whether anything was released.
pub(crate) fn book(tx: &mut dyn Statements, no: i64, ends: &[EndInBudget]) -> Result<bool, Fault> {
    let wanted = ends.iter().filter(|end| end.end != BudgetEnd::Drawn);
    let wanted: Vec<&EndInBudget> = wanted.collect();
    if wanted.is_empty() {
        return Ok(false);
    }
    let Some(budget) = lock(tx, no)? else {
        return Ok(false);
    };
    let owners = wanted.iter().filter(|end| end.counts);
    let reserved = take(tx, owners.map(|end| end.job))?;
    let mut used = i128::from(budget.used);
    for end in wanted {
        let reserved = reserved.get(&end.job).filter(|_| end.counts);
        let reserved = i128::from(reserved.copied().unwrap_or(0));
        let spent = match (spent_in(budget.unit, end.spent), end.end) {
            (Some(spent), _) => i128::from(spent),
            (None, BudgetEnd::Unbilled) => 0,
            (None, _) => reserved,
        };
        used += spent - reserved;
    }
    let used = u64::try_from(used.max(0)).unwrap_or(u64::MAX);
    if used != budget.used {
        set_used(tx, no, used)?;
    }
    Ok(used < budget.used)
}

/// Deletes the reservations of jobs. Returns them.
fn take(
    tx: &mut dyn Statements,
    jobs: impl Iterator<Item = i64>,
) -> Result<HashMap<i64, u64>, Fault> {
    let jobs: Vec<i64> = jobs.collect();
    let mut found = HashMap::new();
    for jobs in jobs.chunks(1_000) {
        let rows = tx.rows_in(
            "SELECT job, amount FROM #reservations WHERE job IN :list",
            jobs,
        )?;
        for mut row in rows {
            found.insert(row.at(0)?, count(row.at(1)?));
        }
    }
    let some: Vec<i64> = found.keys().copied().collect();
    for jobs in some.chunks(1_000) {
        tx.run_in("DELETE FROM #reservations WHERE job IN :list", jobs)?;
    }
    Ok(found)
}

/// Ends the reservations of jobs that leave a batch. `released`: nothing was billed for them.
pub(super) fn leave_batch(
    tx: &mut dyn Statements,
    process: i64,
    jobs: &[i64],
    released: bool,
) -> Result<bool, Fault> {
    let sql = "SELECT budget FROM #processes WHERE no = ?";
    let Some(no) = tx.one::<Option<i64>>(sql, by![process])?.flatten() else {
        return Ok(false);
    };
    let reserved = take(tx, jobs.iter().copied())?;
    let all: u64 = reserved.values().sum();
    if !released || all == 0 {
        return Ok(false);
    }
    if let Some(budget) = lock(tx, no)? {
        set_used(tx, no, budget.used.saturating_sub(all))?;
    }
    Ok(true)
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
                found.extend(read(&mut row, 1)?.map(|budget| (id, budget)));
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
    let known = read(&mut row, 4)?;
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
