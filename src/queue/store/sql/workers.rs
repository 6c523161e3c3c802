//! How the jobs and batches of an unregistered worker are returned.

use std::collections::BTreeMap;

use crate::base::{Error, ErrorKind, Timestamp};
use crate::queue::store::counters::CounterChanges;
use crate::queue::store::rows::{CANCELLED, FAILED, IN_PROGRESS, PENDING, process_of, small};
use crate::queue::store::{MAX_CRASHES, WorkerId};

use super::standing::lock;
use super::statements::{Fault, RESULTS, Statements, by, error_text};

/// The query that finds a registered worker and locks its row until the transaction ends.
pub(crate) fn keeping(worker: WorkerId) -> String {
    let no = worker.0;
    format!("SELECT 1 FROM #workers WHERE no = {no} LOCK IN SHARE MODE")
}

/// Why a worker is unregistered, which decides about its remaining jobs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Departure {
    /// It ended: its jobs were not started.
    Retired,
    /// The ends of its jobs could not be recorded.
    Unsaved,
    /// It crashed: its jobs may be the cause.
    Died,
}

/// Returns a worker's jobs to the queue and unregisters it. Returns `None` if it was not registered.
pub(crate) fn give_back(
    tx: &mut dyn Statements,
    worker: i64,
    departure: Departure,
    now: Timestamp,
) -> Result<Option<u64>, Fault> {
    let (died, lost) = (
        departure == Departure::Died,
        departure != Departure::Retired,
    );
    if tx.run("DELETE FROM #workers WHERE no = ?", by![worker])? == 0 {
        return Ok(None);
    }
    tx.run(
        "UPDATE #batches SET worker = NULL WHERE worker = ?",
        by![worker],
    )?;
    let rows = tx.rows(
        "SELECT id, crashes FROM #jobs WHERE worker = ? ORDER BY id FOR UPDATE",
        by![worker],
    )?;
    let mut held = Vec::with_capacity(rows.len());
    for mut row in rows {
        held.push((row.at::<i64>(0)?, row.at::<i64>(1)?));
    }
    let standing = lock(tx, held.iter().map(|(id, _)| process_of(*id)))?;
    let mut changes = CounterChanges::default();
    let mut by_status: [Vec<i64>; 3] = Default::default();
    let mut errors = Vec::new();
    for (id, crashes) in &held {
        let crashes = crashes + i64::from(died);
        let process = standing.get(&process_of(*id));
        let (at, status) = if process.is_none_or(|process| process.stops_trying()) {
            (0, CANCELLED)
        } else if died && small(crashes) >= MAX_CRASHES {
            let why = format!("its worker died while it ran, for the {MAX_CRASHES}th time");
            let error = Error::new(ErrorKind::Crashed, why);
            errors.push(by![*id, error_text(&error)?, None::<String>]);
            (1, FAILED)
        } else {
            (2, PENDING)
        };
        by_status[at].push(*id);
        changes.moved(*id, IN_PROGRESS, status);
    }
    for (status, jobs) in [CANCELLED, FAILED, PENDING].into_iter().zip(by_status) {
        if !jobs.is_empty() {
            let update = format!(
                "UPDATE #jobs SET status = {status}, worker = NULL, crashes = crashes + {}, lost = GREATEST(lost, {})
                 WHERE id IN :list",
                i64::from(died),
                i64::from(lost),
            );
            tx.run_in(&update, &jobs)?;
        }
    }
    tx.upsert_rows(&RESULTS, &mut errors.into_iter())?;
    if lost {
        let mut jobs = BTreeMap::new();
        for (id, _) in &held {
            *jobs.entry(process_of(*id)).or_insert(0) += 1;
        }
        changes.lost_with_worker(tx, &jobs)?;
    }
    changes.write(tx, now)?;
    Ok(Some(held.len() as u64))
}
