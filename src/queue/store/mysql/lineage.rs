//! Processes that a job waits for, its children: in its scope, cancelled and deleted with it, and what they have used
//! counted with it in the transaction that ends or deletes them.
//!
//! A child is made after its parent, so its number is higher: families are locked parents first, as all processes are.

use crate::base::clock::Timestamp;
use crate::base::error::{Error, ErrorKind};
use crate::base::id::{JobId, ProcessId};

use super::MysqlStore;
use super::rows::{
    CANCELLED, COMPLETED, DELETING, FAILED, MOST_JOBS, PENDING, WAITING, id_of, key, key_of,
    process_no, process_of,
};
use super::writer::{Fault, Tx, by, list};

/// The processes whose parents are these jobs, and those below them, each behind its own parent.
fn below(tx: &mut Tx<'_>, first: i64, last: i64) -> Result<Vec<i64>, Fault> {
    tx.column(
        "WITH RECURSIVE found (no) AS (
           SELECT no FROM #processes WHERE parent BETWEEN ? AND ?
         UNION
           SELECT p.no FROM found f JOIN #processes p
           ON p.parent BETWEEN f.no * 4294967296 AND f.no * 4294967296 + 4294967295
         ) SELECT no FROM found ORDER BY no",
        by![first, last],
    )
}

/// The processes below a process, each behind its own parent.
pub(super) fn below_process(tx: &mut Tx<'_>, no: i64) -> Result<Vec<i64>, Fault> {
    below(tx, key(no, 0), key(no, MOST_JOBS - 1))
}

/// The numbers of these processes and of all below them; `None` when every process is meant.
pub(super) fn scope(tx: &mut Tx<'_>, of: &[ProcessId]) -> Result<Option<Vec<i64>>, Fault> {
    if of.is_empty() {
        return Ok(None);
    }
    let families = any(tx)?;
    let mut all = Vec::new();
    for id in of {
        if let Some(no) = process_no(tx, *id)? {
            all.push(no);
            if families {
                all.extend(below_process(tx, no)?);
            }
        }
    }
    Ok(Some(all))
}

/// The condition that a job is one of a scope's.
pub(super) fn in_scope(scope: Option<&Vec<i64>>) -> String {
    match scope {
        None => String::new(),
        Some(scope) => format!("AND id DIV 4294967296 IN {}", list(scope.iter().copied())),
    }
}

/// The processes below one that begin anew when its failed and cancelled jobs do, deepest first: those whose own
/// parent is put back.
pub(super) fn to_retry(tx: &mut Tx<'_>, no: i64) -> Result<Vec<ProcessId>, Fault> {
    let mut found = Vec::new();
    for no in below_process(tx, no)?.into_iter().rev() {
        let id: Option<Vec<u8>> = tx.one(
            &format!(
                "SELECT p.id FROM #processes p JOIN #jobs j ON j.id = p.parent
                 WHERE p.no = ? AND j.status IN ({FAILED}, {CANCELLED})"
            ),
            by![no],
        )?;
        if let Some(id) = id {
            found.push(id_of(&id)?);
        }
    }
    Ok(found)
}

/// Makes a job claimable that waits for others. False when it does not.
pub(super) fn wake(tx: &mut Tx<'_>, job: i64, now: Timestamp) -> Result<bool, Fault> {
    let woken = tx.run(
        &format!(
            "UPDATE #jobs SET status = {PENDING}, visible_at = ? WHERE id = ? AND status = {WAITING}"
        ),
        by![now.0, job],
    )?;
    Ok(woken > 0)
}

/// Finds a row if any process has a parent.
pub(super) const ANY: &str = "SELECT 1 FROM #processes WHERE parent IS NOT NULL LIMIT 1";

/// Whether any process has a parent: where none has, nothing more needs to be looked up.
pub(super) fn any(tx: &mut Tx<'_>) -> Result<bool, Fault> {
    tx.exists(ANY, Vec::new())
}

/// Refuses to have outcomes taken that a job collects.
pub(super) fn are_hosts(
    tx: &mut Tx<'_>,
    numbers: impl IntoIterator<Item = i64>,
) -> Result<(), Fault> {
    let sql = format!(
        "SELECT id FROM #processes WHERE no IN {} AND parent IS NOT NULL LIMIT 1",
        list(numbers)
    );
    match tx.one::<Vec<u8>>(&sql, Vec::new())? {
        None => Ok(()),
        Some(id) => {
            let id = id_of(&id)?;
            let why = format!("a job waits for the results of process {id} and collects them");
            Err(Error::new(ErrorKind::Invalid, why).into())
        }
    }
}

impl MysqlStore {
    /// The key of a new process's parent, which stays open until the transaction ends.
    pub(super) fn parent(&self, tx: &mut Tx<'_>, parent: JobId) -> Result<i64, Fault> {
        let id = key_of(parent);
        let job = tx.one::<i64>(
            &format!(
                "SELECT created_at FROM #jobs WHERE id = ? AND status < {COMPLETED} LOCK IN SHARE MODE"
            ),
            by![id],
        )?;
        let process = tx.exists(
            &format!(
                "SELECT 1 FROM #processes WHERE no = ? AND cancelled = 0 AND chore <> {DELETING} LOCK IN SHARE MODE"
            ),
            by![process_of(id)],
        )?;
        match job {
            Some(created_at) if process && self.job_id(id, Timestamp(created_at)) == parent => {
                Ok(id)
            }
            _ => {
                let why =
                    format!("job {parent} needs no more jobs: it has ended, or was cancelled");
                Err(Error::new(ErrorKind::Invalid, why).with_claim_lost().into())
            }
        }
    }
}

/// Somebody may still want what the children of a job have come to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// It is completed, or gone: they go.
    ForGood,
    /// It failed, and may be tried again: what came of them stays, unless all of it has to be done again.
    MayBeRetried,
}

/// What a job that has ended leaves behind: its job, how it ended, and its families, each a process with all below it.
pub(super) struct Heirs {
    job: i64,
    ended: Ended,
    pub(super) families: Vec<Vec<i64>>,
}

/// The families of a job, before anything is locked that concerns them.
pub(super) fn heirs(tx: &mut Tx<'_>, job: i64, ended: Ended) -> Result<Heirs, Fault> {
    let mut families = Vec::new();
    match ended {
        Ended::ForGood => families.push(below(tx, job, job)?),
        Ended::MayBeRetried => {
            let children: Vec<i64> =
                tx.column("SELECT no FROM #processes WHERE parent = ?", by![job])?;
            for child in children {
                let mut family = vec![child];
                family.extend(below_process(tx, child)?);
                families.push(family);
            }
        }
    }
    families.retain(|family| !family.is_empty());
    Ok(Heirs {
        job,
        ended,
        families,
    })
}

/// A job has its outcome, or is gone: what its children have used is counted with it, and they go.
pub(super) fn job_ended(tx: &mut Tx<'_>, heirs: &Heirs, now: Timestamp) -> Result<(), Fault> {
    for family in &heirs.families {
        hand_on(tx, family, process_of(heirs.job), now)?;
        let kept = format!(
            "SELECT 1 FROM #processes WHERE no IN {} AND completed + pending + in_progress + at_provider > 0 LIMIT 1",
            list(family.iter().copied())
        );
        if heirs.ended == Ended::ForGood || !tx.exists(&kept, Vec::new())? {
            delete(tx, family)?;
        }
    }
    Ok(())
}

/// Has processes deleted, soon.
pub(super) fn delete(tx: &mut Tx<'_>, processes: &[i64]) -> Result<(), Fault> {
    let sql = format!(
        "UPDATE #processes SET chore = {DELETING}, progress = 0 WHERE no IN {} AND chore <> {DELETING}",
        list(processes.iter().copied())
    );
    tx.run(&sql, Vec::new())?;
    Ok(())
}

/// Has those of these processes deleted that are still being enqueued.
pub(super) fn delete_unsealed(tx: &mut Tx<'_>, processes: &[i64]) -> Result<(), Fault> {
    let sql = format!(
        "UPDATE #processes SET chore = {DELETING}, progress = 0
         WHERE no IN {} AND chore <> {DELETING} AND sealed < total",
        list(processes.iter().copied())
    );
    tx.run(&sql, Vec::new())?;
    Ok(())
}

/// Counts what processes that are on their way out have used with the process of their parent.
pub(super) fn hand_on_to_parent(
    tx: &mut Tx<'_>,
    processes: &[i64],
    now: Timestamp,
) -> Result<Option<i64>, Fault> {
    let Some(first) = processes.first() else {
        return Ok(None);
    };
    let parent: Option<i64> = tx
        .one("SELECT parent FROM #processes WHERE no = ?", by![*first])?
        .flatten();
    if let Some(parent) = parent {
        hand_on(tx, processes, process_of(parent), now)?;
    }
    Ok(parent)
}

/// Counts what processes have used with another one, and no longer with them.
fn hand_on(tx: &mut Tx<'_>, from: &[i64], to: i64, now: Timestamp) -> Result<(), Fault> {
    let living =
        format!("SELECT 1 FROM #processes WHERE no = ? AND chore <> {DELETING} FOR UPDATE");
    if !tx.exists(&living, by![to])? {
        return Ok(());
    }
    for no in from {
        let used = tx.first(
            "SELECT input_tokens, output_tokens, cost_usd, unpriced FROM #processes WHERE no = ? FOR UPDATE",
            by![*no],
        )?;
        let Some(mut used) = used else { continue };
        let (input, output): (i64, i64) = (used.at(0)?, used.at(1)?);
        let (usd, unpriced): (f64, i64) = (used.at(2)?, used.at(3)?);
        if (input, output, usd, unpriced) == (0, 0, 0.0, 0) {
            continue;
        }
        tx.run(
            "UPDATE #processes SET input_tokens = 0, output_tokens = 0, cost_usd = 0, unpriced = 0 WHERE no = ?",
            by![*no],
        )?;
        tx.run(
            "UPDATE #processes SET input_tokens = LEAST(input_tokens + ?, 4611686018427387903),
               output_tokens = LEAST(output_tokens + ?, 4611686018427387903),
               cost_usd = cost_usd + ?, unpriced = unpriced + ?, changed_at = GREATEST(changed_at, ?)
             WHERE no = ?",
            by![input, output, usd, unpriced, now.0, to],
        )?;
    }
    Ok(())
}
