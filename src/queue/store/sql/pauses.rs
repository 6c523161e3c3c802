//! Pauses: work that no worker starts until it is resumed.
//!
//! Claims skip paused lanes. They hold the pending jobs of a paused process as they meet them, so that later claims do
//! not read these jobs again; resuming the process releases them.

use std::collections::BTreeSet;

use crate::base::{Error, Timestamp};
use crate::queue::find::Pause;
use crate::queue::store::BudgetStore;
use crate::queue::store::rows::{DELETING, NO_CHORE, RELEASING};

use super::chores::carry_out;
use super::lineage;
use super::standing::lock;
use super::statements::{Fault, Queries as _, Row, Statements, by, id_of};
use super::{Again, SqlStore};

const QUEUE: i64 = 0;
const LANE: i64 = 1;
const PROCESS: i64 = 2;
/// A process, by its budget.
pub(super) const BUDGET: i64 = 3;

/// All pauses.
pub(crate) const READ: &str = "SELECT s.scope, s.name, p.id, s.no FROM #pauses s LEFT JOIN #processes p ON p.no = s.process \
     ORDER BY s.no";

/// What a claim must not start.
#[derive(Default)]
pub(crate) struct Paused {
    pub queue: bool,
    pub lanes: BTreeSet<Option<String>>,
    /// Also the processes below the paused ones.
    pub processes: BTreeSet<i64>,
    /// The numbers of the pauses, which differ after any change.
    pub numbers: Vec<i64>,
}

impl Paused {
    /// From the rows of [`READ`].
    pub(crate) fn read(tx: &mut dyn Statements, mut rows: Vec<Row>) -> Result<Self, Fault> {
        let (mut paused, mut processes) = (Self::default(), Vec::new());
        for row in &mut rows {
            paused.numbers.push(row.at(3)?);
        }
        for (pause, _) in found(rows)? {
            match pause {
                Pause::Queue => paused.queue = true,
                Pause::Lane(name) => drop(paused.lanes.insert(name)),
                Pause::Process(process) => processes.push(process),
            }
        }
        if !processes.is_empty() {
            let numbers = lineage::scope(tx, &processes)?;
            paused.processes = numbers.into_iter().flatten().collect();
        }
        Ok(paused)
    }
}

/// Pauses, and whether each was made by a budget.
fn found(rows: Vec<Row>) -> Result<Vec<(Pause, bool)>, Fault> {
    let mut found = Vec::new();
    for mut row in rows {
        let scope: i64 = row.at(0)?;
        match (scope, row.at::<Option<Vec<u8>>>(2)?) {
            (QUEUE, _) => found.push((Pause::Queue, false)),
            (LANE, _) => found.push((Pause::Lane(row.at(1)?), false)),
            (PROCESS | BUDGET, Some(id)) => {
                found.push((Pause::Process(id_of(&id)?), scope == BUDGET));
            }
            // The process was deleted.
            _ => {}
        }
    }
    Ok(found)
}

/// The pauses that users made.
pub(super) fn list(store: &impl SqlStore) -> Result<Vec<Pause>, Error> {
    store.read(|tx| {
        let found = found(tx.rows(READ, Vec::new())?)?.into_iter();
        let own = found.filter(|(_, by_budget)| !by_budget);
        Ok(own.map(|(pause, _)| pause).collect())
    })
}

/// Removes a pause, and those of processes that no longer exist. Returns the number of the process.
fn remove(tx: &mut dyn Statements, pause: &Pause) -> Result<Option<i64>, Fault> {
    let (mut scope, mut name, mut process) = (QUEUE, None, None);
    match pause {
        Pause::Queue => {}
        Pause::Lane(lane) => (scope, name) = (LANE, lane.clone()),
        Pause::Process(id) => (scope, process) = (PROCESS, tx.process_no(*id)?),
    }
    tx.run(
        "DELETE FROM #pauses WHERE scope = ? AND IFNULL(name, '') = ? AND (name IS NULL) = ? AND IFNULL(process, 0) = ?
           OR process NOT IN (SELECT no FROM #processes)",
        by![
            scope,
            name.clone().unwrap_or_default(),
            i64::from(name.is_none()),
            process.unwrap_or(0)
        ],
    )?;
    Ok(process)
}

pub(super) fn pause(store: &impl SqlStore, pause: &Pause) -> Result<bool, Error> {
    store.write(Again::Harmless, |tx| {
        let process = remove(tx, pause)?;
        let (scope, name) = match pause {
            Pause::Queue => (QUEUE, None),
            Pause::Lane(name) => (LANE, name.clone()),
            Pause::Process(_) => (PROCESS, None),
        };
        if scope == PROCESS && process.is_none() {
            return Ok(false);
        }
        tx.run(
            "INSERT INTO #pauses (scope, name, process) VALUES (?, ?, ?)",
            by![scope, name, process],
        )?;
        Ok(true)
    })
}

/// Resumes, and releases the jobs that claims have held.
pub(super) fn resume(store: &impl SqlStore, pause: &Pause, now: Timestamp) -> Result<(), Error> {
    let held = store.write(Again::Harmless, |tx| match remove(tx, pause)? {
        Some(no) => releasing(tx, no),
        None => Ok(Vec::new()),
    })?;
    for no in held {
        release(store, no, now)?;
    }
    store.wake_workers();
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
            "INSERT INTO #pauses (scope, name, process) VALUES (?, NULL, ?)",
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
pub(super) fn end_budget_pause(tx: &mut dyn Statements, no: i64) -> Result<Vec<i64>, Fault> {
    tx.run(
        "UPDATE #processes SET budget_needed = NULL, budget_stop = NULL WHERE no = ?",
        by![no],
    )?;
    let gone = "DELETE FROM #pauses WHERE scope = ? AND process = ?";
    tx.run(gone, by![BUDGET, no])?;
    releasing(tx, no)
}

/// Makes the held jobs of these processes claimable.
pub(super) fn release_all(
    store: &impl SqlStore,
    held: Vec<i64>,
    now: Timestamp,
) -> Result<(), Error> {
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
