//! Pauses: work that no worker starts until it is resumed.
//!
//! Claims skip paused lanes. They hold the pending jobs of a paused process as they meet them, so that later claims do
//! not read these jobs again; resuming the process releases them.

use std::collections::BTreeSet;

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::queue::find::Pause;
use crate::queue::store::rows::{DELETING, NO_CHORE, RELEASING};

use super::chores::carry_out;
use super::lineage;
use super::standing::lock;
use super::statements::{Fault, Queries as _, Row, Statements, by, id_of};
use super::{Again, SqlStore};

const QUEUE: i64 = 0;
const LANE: i64 = 1;
const PROCESS: i64 = 2;

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
        for pause in pauses(rows)? {
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

fn pauses(rows: Vec<Row>) -> Result<Vec<Pause>, Fault> {
    let mut found = Vec::new();
    for mut row in rows {
        match (row.at(0)?, row.at::<Option<Vec<u8>>>(2)?) {
            (QUEUE, _) => found.push(Pause::Queue),
            (LANE, _) => found.push(Pause::Lane(row.at(1)?)),
            (PROCESS, Some(id)) => found.push(Pause::Process(id_of(&id)?)),
            // The process was deleted.
            _ => {}
        }
    }
    Ok(found)
}

pub(super) fn list(store: &impl SqlStore) -> Result<Vec<Pause>, Error> {
    store.read(|tx| pauses(tx.rows(READ, Vec::new())?))
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
    let held = store.write(Again::Harmless, |tx| {
        let Some(no) = remove(tx, pause)? else {
            return Ok(Vec::new());
        };
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
    })?;
    for no in held {
        release(store, no, now)?;
    }
    store.wake_workers();
    Ok(())
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
