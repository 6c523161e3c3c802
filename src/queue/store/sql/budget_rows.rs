//! Rows of budgets: the columns of the process that has a budget, and the reservations of jobs in batches.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::base::Usd;
use crate::queue::budget::ProcessBudget;
use crate::queue::store::Settlement;
use crate::queue::store::budgets::{BudgetEnd, EndInBudget};
use crate::queue::store::rows::{bounded, count};

use super::statements::{Fault, Queries as _, Statements, by};

/// Gives a new process its budget: its own, or the one of its parent. A child has no budget of its own, because its cost
/// would count in two budgets when its parent gets one.
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
    } else if let Some(budget) = budget.filter(|_| parent.is_none()) {
        tx.run(
            "UPDATE #processes SET budget = no, budget_limit = ?, budget_used = ? WHERE no = ?",
            by![
                bounded(budget.limit.picos()),
                bounded(budget.used.picos()),
                no
            ],
        )?;
    }
    Ok(())
}

/// A locked row.
pub(super) struct Locked {
    pub limit: u64,
    pub used: u64,
}

impl Locked {
    pub fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

pub(super) fn lock(tx: &mut dyn Statements, no: i64) -> Result<Option<Locked>, Fault> {
    let sql = "SELECT budget_limit, budget_used FROM #processes
         WHERE no = ? AND budget = no FOR UPDATE";
    let Some(mut row) = tx.first(sql, by![no])? else {
        return Ok(None);
    };
    Ok(Some(Locked {
        limit: count(row.at(0)?),
        used: count(row.at(1)?),
    }))
}

pub(super) fn set_used(tx: &mut dyn Statements, no: i64, used: u64) -> Result<(), Fault> {
    let sql = "UPDATE #processes SET budget_used = ? WHERE no = ?";
    tx.run(sql, by![bounded(used), no])?;
    Ok(())
}

/// What a job has spent, if all of it is known.
fn spent(end: &EndInBudget) -> Option<u64> {
    let cost = end.spent?.cost_usd.filter(|_| !end.is_partial);
    cost.map(Usd::picos)
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
    let reserved = take(tx, wanted.iter().map(|end| (end.job, end.claim)))?;
    let mut used = i128::from(budget.used);
    for end in wanted {
        let reserved = reserved.get(&(end.job, end.claim)).copied();
        let reserved = i128::from(reserved.unwrap_or(0));
        let known = end.spent.and_then(|spent| spent.cost_usd);
        let known = i128::from(known.unwrap_or_default().picos());
        let spent = match (spent(end), end.end) {
            (Some(spent), _) => i128::from(spent),
            (None, BudgetEnd::Unbilled) => 0,
            (None, _) => reserved.max(known),
        };
        used += spent - reserved;
    }
    let used = u64::try_from(used.max(0)).unwrap_or(u64::MAX);
    if used != budget.used {
        set_used(tx, no, used)?;
    }
    Ok(used < budget.used)
}

/// Amounts can be as large as their type, if a request has no sensible limit.
pub(super) fn sum<'a>(amounts: impl Iterator<Item = &'a u64>) -> u64 {
    amounts.fold(0, |sum, amount| sum.saturating_add(*amount))
}

/// Whether something is reserved for the claim that has ended.
pub(crate) fn is_reserved(tx: &mut dyn Statements, end: &Settlement) -> Result<bool, Fault> {
    let known = "SELECT 1 FROM #reservations WHERE job = ? AND claim = ?";
    tx.exists(known, by![end.receipt.job, end.receipt.claim])
}

/// Deletes the reservations of these claims of jobs. Returns them.
pub(super) fn take(
    tx: &mut dyn Statements,
    claims: impl Iterator<Item = (i64, i64)>,
) -> Result<HashMap<(i64, i64), u64>, Fault> {
    let claims: HashSet<(i64, i64)> = claims.collect();
    let jobs: Vec<i64> = claims.iter().map(|(job, _)| *job).collect();
    let mut found = HashMap::new();
    for jobs in jobs.chunks(1_000) {
        let rows = tx.rows_in(
            "SELECT job, claim, amount FROM #reservations WHERE job IN :list",
            jobs,
        )?;
        for mut row in rows {
            let claim = (row.at(0)?, row.at(1)?);
            if claims.contains(&claim) {
                found.insert(claim, count(row.at(2)?));
            }
        }
    }
    // The jobs of a batch have few different numbers of claims.
    let mut taken: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for (job, claim) in found.keys() {
        taken.entry(*claim).or_default().push(*job);
    }
    for (claim, jobs) in taken {
        for jobs in jobs.chunks(1_000) {
            let sql = format!("DELETE FROM #reservations WHERE claim = {claim} AND job IN :list");
            tx.run_in(&sql, jobs)?;
        }
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
    // A late result may have ended an earlier claim of a job.
    let present = "SELECT r.job, r.claim FROM #reservations r JOIN #jobs j ON j.id = r.job AND j.claim = r.claim
         WHERE r.job IN :list";
    let mut claims = Vec::new();
    for jobs in jobs.chunks(1_000) {
        for mut row in tx.rows_in(present, jobs)? {
            claims.push((row.at(0)?, row.at(1)?));
        }
    }
    let reserved = take(tx, claims.into_iter())?;
    let all = sum(reserved.values());
    if !released || all == 0 {
        return Ok(false);
    }
    if let Some(budget) = lock(tx, no)? {
        set_used(tx, no, budget.used.saturating_sub(all))?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::job::Spent;

    #[test]
    fn a_cost_that_is_partly_unknown_is_unknown() {
        let mut end = EndInBudget {
            job: 1,
            end: BudgetEnd::Spent,
            spent: Some(Spent {
                cost_usd: Some(Usd::from_picos(5)),
                ..Spent::default()
            }),
            is_partial: false,
            claim: 1,
        };
        assert_eq!(spent(&end), Some(5));
        end.is_partial = true;
        assert_eq!(spent(&end), None);
    }

    #[test]
    fn large_amounts_saturate() {
        assert_eq!(sum([u64::MAX, 2].iter()), u64::MAX);
    }
}
