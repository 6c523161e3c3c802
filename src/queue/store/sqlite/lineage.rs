//! Processes that a job waits for, its children: in its scope, cancelled and deleted with it, and what they have used
//! counted with it in the transaction that ends or deletes them.

use std::ops::RangeInclusive;

use const_format::formatcp;
use rusqlite::{Connection, OptionalExtension, params};

use crate::base::clock::Timestamp;
use crate::base::error::{Error, ErrorKind};
use crate::base::id::{JobId, ProcessId};

use super::SqliteStore;
use super::rows::{
    CANCELLED, COMPLETED, DELETING, FAILED, MOST_JOBS, PENDING, WAITING, id_of, key, key_of,
    process_no, process_of,
};
use super::writer::Fault;

/// The processes whose parents are these jobs, and those below them, each behind its own parent.
pub(super) const BELOW: &str = "WITH RECURSIVE found (no) AS (
       SELECT no FROM processes WHERE parent BETWEEN ?1 AND ?2
     UNION
       SELECT p.no FROM found f CROSS JOIN processes p
       ON p.parent BETWEEN f.no << 32 AND (f.no << 32) + 4294967295
     ) SELECT no FROM found";

fn below(conn: &Connection, jobs: RangeInclusive<i64>) -> Result<Vec<i64>, Fault> {
    let mut find = conn.prepare_cached(BELOW)?;
    let found = find.query_map([jobs.start(), jobs.end()], |row| row.get(0))?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// The processes below a process, each behind its own parent.
pub(super) fn below_process(conn: &Connection, no: i64) -> Result<Vec<i64>, Fault> {
    below(conn, key(no, 0)..=key(no, MOST_JOBS - 1))
}

/// The numbers of these processes and of all below them, as a list in JSON; `None` when every process is meant.
pub(super) fn scope(conn: &Connection, of: &[ProcessId]) -> Result<Option<String>, Fault> {
    if of.is_empty() {
        return Ok(None);
    }
    let mut all = Vec::new();
    for id in of {
        if let Some(no) = process_no(conn, *id)? {
            all.push(no);
            all.extend(below_process(conn, no)?);
        }
    }
    Ok(Some(serde_json::to_string(&all).unwrap_or_default()))
}

/// The processes below one that begin anew when its failed and cancelled jobs do, deepest first: those whose own
/// parent is put back.
pub(super) fn to_retry(conn: &Connection, no: i64) -> Result<Vec<ProcessId>, Fault> {
    let mut find = conn.prepare_cached(formatcp!(
        "SELECT p.id FROM processes p JOIN jobs j ON j.id = p.parent
         WHERE p.no = ?1 AND j.status IN ({FAILED}, {CANCELLED})"
    ))?;
    let mut found = Vec::new();
    for no in below_process(conn, no)?.into_iter().rev() {
        let id = find.query_row([no], |row| row.get::<_, Vec<u8>>(0));
        if let Some(id) = id.optional()? {
            found.push(id_of(&id)?);
        }
    }
    Ok(found)
}

/// Makes a job claimable that waits for others. False when it does not.
pub(super) fn wake(conn: &Connection, job: i64, now: Timestamp) -> Result<bool, Fault> {
    let mut wake = conn.prepare_cached(formatcp!(
        "UPDATE jobs SET status = {PENDING}, visible_at = ?2 WHERE id = ?1 AND status = {WAITING}"
    ))?;
    Ok(wake.execute([job, now.0])? > 0)
}

/// Whether a process has open jobs.
pub(super) fn is_open(conn: &Connection, id: ProcessId) -> Result<bool, Fault> {
    let mut find = conn.prepare_cached(formatcp!(
        "SELECT 1 FROM processes WHERE id = ?1 AND chore <> {DELETING}
           AND pending + in_progress + at_provider > 0"
    ))?;
    Ok(find.exists([&id.0.as_bytes()[..]])?)
}

/// Whether any process has a parent: where none has, nothing more needs to be looked up.
pub(super) fn any(conn: &Connection) -> Result<bool, Fault> {
    let mut find =
        conn.prepare_cached("SELECT 1 FROM processes WHERE parent IS NOT NULL LIMIT 1")?;
    Ok(find.exists([])?)
}

/// Refuses to have outcomes taken that a job collects.
pub(super) fn are_hosts(conn: &Connection, no: i64) -> Result<(), Fault> {
    let mut find =
        conn.prepare_cached("SELECT id FROM processes WHERE no = ?1 AND parent IS NOT NULL")?;
    let of_a_job = find
        .query_row([no], |row| row.get::<_, Vec<u8>>(0))
        .optional()?;
    match of_a_job {
        None => Ok(()),
        Some(id) => {
            let id = id_of(&id)?;
            let why = format!("a job waits for the results of process {id} and collects them");
            Err(Error::new(ErrorKind::Invalid, why).into())
        }
    }
}

impl SqliteStore {
    /// The key of a new process's parent.
    pub(super) fn parent(&self, conn: &Connection, parent: JobId) -> Result<i64, Fault> {
        let mut find = conn.prepare_cached(formatcp!(
            "SELECT j.created_at FROM jobs j JOIN processes p ON p.no = j.id >> 32
             WHERE j.id = ?1 AND j.status < {COMPLETED} AND p.cancelled = 0 AND p.chore <> {DELETING}"
        ))?;
        let id = key_of(parent);
        let created_at = find.query_row([id], |row| row.get(0).map(Timestamp));
        match created_at.optional()? {
            Some(created_at) if self.job_id(id, created_at) == parent => Ok(id),
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

/// A job has its outcome, or is gone: what its children have used is counted with it, and they go.
pub(super) fn job_ended(
    conn: &Connection,
    job: i64,
    ended: Ended,
    now: Timestamp,
) -> Result<(), Fault> {
    let mut families = Vec::new();
    match ended {
        Ended::ForGood => families.push(below(conn, job..=job)?),
        Ended::MayBeRetried => {
            let mut find = conn.prepare_cached("SELECT no FROM processes WHERE parent = ?1")?;
            let children = find.query_map([job], |row| row.get(0))?;
            for child in children.collect::<Result<Vec<i64>, _>>()? {
                let mut family = vec![child];
                family.extend(below_process(conn, child)?);
                families.push(family);
            }
        }
    }
    let mut kept = conn.prepare_cached(
        "SELECT 1 FROM processes WHERE no = ?1 AND completed + pending + in_progress + at_provider > 0",
    )?;
    for family in families.iter().filter(|family| !family.is_empty()) {
        hand_on(conn, family, process_of(job), now)?;
        let mut goes = true;
        if ended == Ended::MayBeRetried {
            for no in family {
                goes &= !kept.exists([no])?;
            }
        }
        if goes {
            delete(conn, family)?;
        }
    }
    Ok(())
}

/// Has processes deleted, soon.
pub(super) fn delete(conn: &Connection, processes: &[i64]) -> Result<(), Fault> {
    let mut delete = conn.prepare_cached(formatcp!(
        "UPDATE processes SET chore = {DELETING}, cursor = 0 WHERE no = ?1 AND chore <> {DELETING}"
    ))?;
    for no in processes {
        delete.execute([no])?;
    }
    Ok(())
}

/// Has those of these processes deleted that are still being enqueued.
pub(super) fn delete_unsealed(conn: &Connection, processes: &[i64]) -> Result<(), Fault> {
    let mut unsealed =
        conn.prepare_cached("SELECT 1 FROM processes WHERE no = ?1 AND sealed < total")?;
    for no in processes {
        if unsealed.exists([no])? {
            delete(conn, &[*no])?;
        }
    }
    Ok(())
}

/// Counts what processes that are on their way out have used with the process of their parent.
pub(super) fn hand_on_to_parent(
    conn: &Connection,
    processes: &[i64],
    now: Timestamp,
) -> Result<Option<i64>, Fault> {
    let Some(first) = processes.first() else {
        return Ok(None);
    };
    let mut find = conn.prepare_cached("SELECT parent FROM processes WHERE no = ?1")?;
    let parent: Option<i64> = find
        .query_row([first], |row| row.get(0))
        .optional()?
        .flatten();
    if let Some(parent) = parent {
        hand_on(conn, processes, process_of(parent), now)?;
    }
    Ok(parent)
}

/// Counts what processes have used with another one, and no longer with them.
fn hand_on(conn: &Connection, from: &[i64], to: i64, now: Timestamp) -> Result<(), Fault> {
    let mut find = conn.prepare_cached(formatcp!(
        "SELECT 1 FROM processes WHERE no = ?1 AND chore <> {DELETING}"
    ))?;
    if !find.exists([to])? {
        return Ok(());
    }
    let mut read = conn.prepare_cached(
        "SELECT input_tokens, output_tokens, cost_usd, unpriced FROM processes WHERE no = ?1",
    )?;
    let mut clear = conn.prepare_cached(
        "UPDATE processes SET input_tokens = 0, output_tokens = 0, cost_usd = 0, unpriced = 0
         WHERE no = ?1",
    )?;
    let mut add = conn.prepare_cached(
        "UPDATE processes SET input_tokens = min(input_tokens + ?2, 4611686018427387903),
           output_tokens = min(output_tokens + ?3, 4611686018427387903),
           cost_usd = cost_usd + ?4, unpriced = unpriced + ?5, changed_at = max(changed_at, ?6)
         WHERE no = ?1",
    )?;
    for no in from {
        let used = read.query_row([no], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        });
        let used: Option<(i64, i64, f64, i64)> = used.optional()?;
        let Some((input, output, usd, unpriced)) = used.filter(|used| *used != (0, 0, 0.0, 0))
        else {
            continue;
        };
        clear.execute([no])?;
        add.execute(params![to, input, output, usd, unpriced, now.0])?;
    }
    Ok(())
}
