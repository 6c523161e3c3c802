//! Pauses: work that no worker starts until it is resumed.
//!
//! Claims hold the pending jobs of a process that its budget has paused as they meet them, so that later claims do not
//! read these jobs again; resuming the process releases them.

use std::collections::BTreeSet;

use crate::base::{Error, Timestamp};
use crate::queue::store::BudgetStore;
use crate::queue::store::rows::{DELETING, NO_CHORE, RELEASING};

use super::chores::carry_out;
use super::lineage;
use super::standing::lock;
use super::statements::{Fault, Queries as _, Row, Statements, by, id_of};
use super::{Again, SqlStore};

const QUEUE: i64 = 0;
/// A process, by its budget.
pub(super) const BUDGET: i64 = 3;

pub(super) const IS_PAUSED: &str =
    const_format::formatcp!("SELECT 1 FROM #pauses WHERE scope = {QUEUE}");

/// All pauses.
pub(crate) const READ: &str = "SELECT s.scope, p.id, s.no FROM #pauses s LEFT JOIN #processes p ON p.no = s.process \
     ORDER BY s.no";

/// What a claim must not start.
#[derive(Default)]
pub(crate) struct Paused {
    pub queue: bool,
    /// Also the processes below the paused ones.
    pub processes: BTreeSet<i64>,
    /// The numbers of the pauses, which differ after any change.
    pub numbers: Vec<i64>,
}

impl Paused {
    /// From the rows of [`READ`].
    pub(crate) fn read(tx: &mut dyn Statements, rows: Vec<Row>) -> Result<Self, Fault> {
        let (mut paused, mut processes) = (Self::default(), Vec::new());
        for mut row in rows {
            paused.queue |= row.at::<i64>(0)? == QUEUE;
            // Without an id, the process was deleted.
            if let Some(id) = row.at::<Option<Vec<u8>>>(1)? {
                processes.push(id_of(&id)?);
            }
            paused.numbers.push(row.at(2)?);
        }
        if !processes.is_empty() {
            let numbers = lineage::scope(tx, &processes)?;
            paused.processes = numbers.into_iter().flatten().collect();
        }
        Ok(paused)
    }
}

/// Pauses or resumes the queue. Also removes the pauses of processes that no longer exist.
pub(super) fn set(store: &impl SqlStore, paused: bool) -> Result<(), Error> {
    store.write(Again::Harmless, |tx| {
        let end = const_format::formatcp!(
            "DELETE FROM #pauses WHERE scope = {QUEUE} OR process NOT IN (SELECT no FROM #processes)"
        );
        tx.run(end, Vec::new())?;
        if paused {
            tx.run("INSERT INTO #pauses (scope) VALUES (?)", by![QUEUE])?;
        }
        Ok(())
    })?;
    if !paused {
        store.wake_workers();
    }
    Ok(())
}

/// Decides that the held jobs of a process and its descendants are released. Returns the numbers of these processes.
fn releasing(tx: &mut dyn Statements, no: i64) -> Result<Vec<i64>, Fault> {
    let mut family = vec![no];
    family.extend(lineage::below_process(tx, no)?);
    // Together with the end of the pause: after a crash, `maintain` releases the jobs.
    tx.run_in(
        &format!(
            "UPDATE #processes SET chore = {RELEASING}, progress = 0
             WHERE no IN :list AND chore IN ({NO_CHORE}, {RELEASING})"
        ),
        &family,
    )?;
    Ok(family)
}

/// Pauses a process for its budget, in the transaction that changes the budget.
pub(super) fn stop_for_budget(tx: &mut dyn Statements, no: i64) -> Result<(), Fault> {
    let known = "SELECT 1 FROM #pauses WHERE scope = ? AND process = ?";
    if !tx.exists(known, by![BUDGET, no])? {
        tx.run(
            "INSERT INTO #pauses (scope, process) VALUES (?, ?)",
            by![BUDGET, no],
        )?;
    }
    Ok(())
}

/// Resumes a process that its budget has paused; with `if_enough`, only if the budget has what is needed.
pub(super) fn resume_budget(
    store: &impl SqlStore,
    no: i64,
    if_enough: bool,
    now: Timestamp,
) -> Result<(), Error> {
    let held = store.write(Again::Harmless, |tx| {
        let found = tx.first(
            "SELECT budget_stop IS NOT NULL, budget_needed <= budget_limit - budget_used FROM #processes
             WHERE no = ? FOR UPDATE",
            by![no],
        )?;
        let Some(mut row) = found else {
            return Ok(Vec::new());
        };
        let is_enough = row.at::<Option<i64>>(1)?.is_some_and(|enough| enough != 0);
        if row.at::<i64>(0)? == 0 || if_enough && !is_enough {
            return Ok(Vec::new());
        }
        end_budget_pause(tx, no)
    })?;
    release_all(store, held, now)
}

/// Ends the pause of a process by its budget. Returns the numbers of the processes whose held jobs are to be released.
fn end_budget_pause(tx: &mut dyn Statements, no: i64) -> Result<Vec<i64>, Fault> {
    tx.run(
        "UPDATE #processes SET budget_needed = NULL, budget_stop = NULL WHERE no = ?",
        by![no],
    )?;
    let gone = "DELETE FROM #pauses WHERE scope = ? AND process = ?";
    tx.run(gone, by![BUDGET, no])?;
    releasing(tx, no)
}

/// Makes the held jobs of these processes claimable.
fn release_all(store: &impl SqlStore, held: Vec<i64>, now: Timestamp) -> Result<(), Error> {
    let is_resumed = !held.is_empty();
    for no in held {
        release(store, no, now)?;
    }
    if is_resumed {
        store.wake_workers();
    }
    Ok(())
}

/// Resumes processes after a transaction that returned or released an amount. It has been committed, so a failure here
/// must not look like one of the transaction; maintenance resumes them later.
pub(crate) fn resume_after_commit(store: &impl BudgetStore, now: Timestamp) {
    if let Err(error) = store.resume_budgets(now) {
        log::warn!("cannot resume processes whose budgets have enough again: {error}");
    }
}

/// Makes the held jobs of a process claimable, except those that wait for its seal. If the OS process crashes in
/// between, `maintain` continues.
fn release(store: &impl SqlStore, no: i64, now: Timestamp) -> Result<(), Error> {
    loop {
        let is_begun = store.write(Again::Harmless, |tx| {
            let Some((_, standing)) = lock(tx, [no])?.pop_first() else {
                return Ok(true);
            };
            if standing.chore != NO_CHORE && standing.chore != RELEASING {
                // Cancelling and deleting need no release.
                return Ok(standing.chore == DELETING);
            }
            tx.run(
                &format!("UPDATE #processes SET chore = {RELEASING}, progress = 0 WHERE no = ?"),
                by![no],
            )?;
            Ok(true)
        })?;
        carry_out(store, no, now)?;
        if is_begun {
            return Ok(());
        }
    }
}
