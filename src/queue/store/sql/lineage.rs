//! Child processes, for which a job waits: they belong to its scope, and are cancelled and deleted with it. Their usage
//! is added to the job's process in the transaction that ends or deletes them.
//!
//! A child is created after its parent, so its number is higher: families are locked in the order of their numbers,
//! like all processes.

use std::collections::BTreeSet;

use const_format::formatcp;

use crate::base::{Error, ErrorKind, JobId, ProcessId, Timestamp};
use crate::queue::store::rows::{
    CANCELLED, COMPLETED, DELETING, FAILED, MOST_JOBS, PENDING, WAITING, key, key_of, process_of,
};

use super::SqlStore;
use super::statements::{Fault, Queries as _, Statements, by, id_of, list, stored};

/// The processes whose parents are these jobs, and their descendants.
pub(crate) const BELOW: &str = "WITH RECURSIVE found (no) AS (
       SELECT no FROM #processes WHERE parent BETWEEN ? AND ?
     UNION
       SELECT p.no FROM found f CROSS JOIN #processes p
       ON p.parent BETWEEN f.no * 4294967296 AND f.no * 4294967296 + 4294967295
     ) SELECT no FROM found";

/// The processes whose parents are these jobs, and their descendants, each after its parent.
fn below(tx: &mut dyn Statements, first: i64, last: i64) -> Result<Vec<i64>, Fault> {
    let mut found: Vec<i64> = tx.column(BELOW, by![first, last])?;
    found.sort_unstable();
    Ok(found)
}

/// The descendants of a process, each after its parent.
pub(crate) fn below_process(tx: &mut dyn Statements, no: i64) -> Result<Vec<i64>, Fault> {
    below(tx, key(no, 0), key(no, MOST_JOBS - 1))
}

/// The numbers of these processes and their descendants; `None` for all processes.
pub(crate) fn scope(tx: &mut dyn Statements, of: &[ProcessId]) -> Result<Option<Vec<i64>>, Fault> {
    if of.is_empty() {
        return Ok(None);
    }
    let families = any(tx)?;
    let mut all = Vec::new();
    for id in of {
        if let Some(no) = tx.process_no(*id)? {
            all.push(no);
            if families {
                all.extend(below_process(tx, no)?);
            }
        }
    }
    Ok(Some(all))
}

/// The condition that a job belongs to a scope.
pub(crate) fn in_scope(scope: Option<&Vec<i64>>) -> String {
    match scope {
        None => String::new(),
        Some(scope) => format!("AND id DIV 4294967296 IN {}", list(scope.iter().copied())),
    }
}

/// The descendants of these jobs that are requeued with them, deepest first: those whose parent job is requeued.
pub(crate) fn to_retry(
    tx: &mut dyn Statements,
    first: i64,
    last: i64,
) -> Result<Vec<ProcessId>, Fault> {
    let mut found = Vec::new();
    for no in below(tx, first, last)?.into_iter().rev() {
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

/// Makes a job claimable that waits for others. Returns false if it does not wait.
pub(crate) fn wake(tx: &mut dyn Statements, job: i64, now: Timestamp) -> Result<bool, Fault> {
    let woken = tx.run(
        &format!(
            "UPDATE #jobs SET status = {PENDING}, visible_at = ? WHERE id = ? AND status = {WAITING}"
        ),
        by![now.0, job],
    )?;
    Ok(woken > 0)
}

/// Whether a process has open jobs.
pub(crate) fn is_open(tx: &mut dyn Statements, id: ProcessId) -> Result<bool, Fault> {
    let find = format!(
        "SELECT 1 FROM #processes WHERE id = ? AND chore <> {DELETING}
           AND pending + in_progress + at_provider > 0"
    );
    tx.exists(&find, by![stored(id)])
}

/// Finds a row if any process has a parent.
pub(crate) const ANY: &str = "SELECT 1 FROM #processes WHERE parent IS NOT NULL LIMIT 1";

/// Whether any process has a parent; if none has, no further lookups are needed.
pub(crate) fn any(tx: &mut dyn Statements) -> Result<bool, Fault> {
    tx.exists(ANY, Vec::new())
}

/// Rejects consuming outcomes that a parent job collects.
pub(crate) fn are_hosts(
    tx: &mut dyn Statements,
    numbers: impl IntoIterator<Item = i64>,
) -> Result<(), Fault> {
    let numbers: BTreeSet<i64> = numbers.into_iter().collect();
    let numbers: Vec<i64> = numbers.into_iter().collect();
    let sql = "SELECT id FROM #processes WHERE no IN :list AND parent IS NOT NULL LIMIT 1";
    match tx.rows_in(sql, &numbers)?.pop() {
        None => Ok(()),
        Some(mut row) => {
            let id = id_of(&row.at::<Vec<u8>>(0)?)?;
            let why = format!("a job waits for the results of process {id} and collects them");
            Err(Error::new(ErrorKind::Invalid, why).into())
        }
    }
}

/// The key of a new process's parent, which is locked as open until the transaction ends.
pub(crate) fn parent(
    store: &impl SqlStore,
    tx: &mut dyn Statements,
    parent: JobId,
) -> Result<i64, Fault> {
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
        Some(created_at) if process && store.job_id(id, Timestamp(created_at)) == parent => Ok(id),
        _ => {
            let why = format!("job {parent} needs no more jobs: it has ended, or was cancelled");
            Err(Error::new(ErrorKind::Invalid, why).with_claim_lost().into())
        }
    }
}

/// Whether the outcomes of a job's children may still be needed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The job is completed or deleted: its children are deleted.
    ForGood,
    /// The job failed and may be requeued: its children are kept, unless all of them must run again.
    MayBeRetried,
}

/// The children of a job that has ended: the job, how it ended, and the families, each a process with its descendants.
pub(crate) struct EndedFamilies {
    job: i64,
    ended: Ended,
    pub(crate) families: Vec<Vec<i64>>,
}

/// The families of a job, read before any of their rows is locked.
pub(crate) fn ended_families(
    tx: &mut dyn Statements,
    job: i64,
    ended: Ended,
) -> Result<EndedFamilies, Fault> {
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
    Ok(EndedFamilies {
        job,
        ended,
        families,
    })
}

/// Adds the usage of a job's children to its process and deletes them, when the job has its outcome or is deleted.
pub(crate) fn job_ended(
    tx: &mut dyn Statements,
    ended_families: &EndedFamilies,
    now: Timestamp,
) -> Result<(), Fault> {
    for family in &ended_families.families {
        move_usage(tx, family, process_of(ended_families.job), now)?;
        let kept = "SELECT 1 FROM #processes
             WHERE no IN :list AND completed + pending + in_progress + at_provider > 0 LIMIT 1";
        if ended_families.ended == Ended::ForGood || tx.rows_in(kept, family)?.is_empty() {
            delete(tx, family)?;
        }
    }
    Ok(())
}

/// Marks processes for deletion.
pub(crate) fn delete(tx: &mut dyn Statements, processes: &[i64]) -> Result<(), Fault> {
    let sql = formatcp!(
        "UPDATE #processes SET chore = {DELETING}, progress = 0 WHERE no IN :list AND chore <> {DELETING}"
    );
    tx.run_in(sql, processes).map(drop)
}

/// Marks those of these processes for deletion whose enqueueing is not complete.
pub(crate) fn delete_unsealed(tx: &mut dyn Statements, processes: &[i64]) -> Result<(), Fault> {
    let sql = formatcp!(
        "UPDATE #processes SET chore = {DELETING}, progress = 0
         WHERE no IN :list AND chore <> {DELETING} AND sealed < total"
    );
    tx.run_in(sql, processes).map(drop)
}

/// Adds the usage of processes that are being deleted to the process of their parent.
pub(crate) fn add_usage_to_parent(
    tx: &mut dyn Statements,
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
        move_usage(tx, processes, process_of(parent), now)?;
    }
    Ok(parent)
}

/// Moves the usage of processes to another process.
fn move_usage(tx: &mut dyn Statements, from: &[i64], to: i64, now: Timestamp) -> Result<(), Fault> {
    let living =
        format!("SELECT 1 FROM #processes WHERE no = ? AND chore <> {DELETING} FOR UPDATE");
    if !tx.exists(&living, by![to])? {
        return Ok(());
    }
    for no in from {
        let used = tx.first(
            "SELECT input_tokens, output_tokens, cost_picos, unpriced FROM #processes WHERE no = ? FOR UPDATE",
            by![*no],
        )?;
        let Some(mut used) = used else { continue };
        let (input, output): (i64, i64) = (used.at(0)?, used.at(1)?);
        let (cost, unpriced): (i64, i64) = (used.at(2)?, used.at(3)?);
        if (input, output, cost, unpriced) == (0, 0, 0, 0) {
            continue;
        }
        tx.run(
            "UPDATE #processes SET input_tokens = 0, output_tokens = 0, cost_picos = 0, unpriced = 0 WHERE no = ?",
            by![*no],
        )?;
        tx.run(
            "UPDATE #processes SET input_tokens = LEAST(input_tokens + ?, 4611686018427387903),
               output_tokens = LEAST(output_tokens + ?, 4611686018427387903),
               cost_picos = LEAST(cost_picos + ?, 4611686018427387903), unpriced = unpriced + ?, changed_at = GREATEST(changed_at, ?)
             WHERE no = ?",
            by![input, output, cost, unpriced, now.0, to],
        )?;
    }
    Ok(())
}
