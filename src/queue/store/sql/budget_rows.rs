//! Rows of budgets: the columns of the process that has a budget, and the reservations of jobs in batches.

use std::collections::HashMap;

use crate::base::usd::Usd;
use crate::money::budget::AmountUnit;
use crate::queue::budget::ProcessBudget;
use crate::queue::job::Spent;
use crate::queue::store::budgets::{BudgetEnd, EndInBudget};
use crate::queue::store::rows::{bounded, count, unit_of};

use super::statements::{Fault, Queries as _, Statements, by};

pub(super) fn number_of(unit: AmountUnit) -> i64 {
    match unit {
        AmountUnit::Usd => 0,
        AmountUnit::Tokens => 1,
    }
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
pub(super) struct Locked {
    pub unit: AmountUnit,
    pub limit: u64,
    pub used: u64,
}

impl Locked {
    pub fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

pub(super) fn lock(tx: &mut dyn Statements, no: i64) -> Result<Option<Locked>, Fault> {
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

pub(super) fn set_used(tx: &mut dyn Statements, no: i64, used: u64) -> Result<(), Fault> {
    let sql = "UPDATE #processes SET budget_used = ? WHERE no = ?";
    tx.run(sql, by![bounded(used), no])?;
    Ok(())
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
        AmountUnit::Tokens => {
            Some(spent.input_tokens.saturating_add(spent.output_tokens)).filter(|all| *all > 0)
        }
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
pub(super) fn take(
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
