//! Child processes, whose jobs a job waits for. The store knows the parent of a process, so that children end with it: they
//! are cancelled, requeued and deleted with their parent, and their cost also counts for the process of their oldest
//! ancestor, the root. The parent itself looks when they have ended.

use std::collections::{BTreeMap, BTreeSet};

use const_format::formatcp;

use crate::base::{Error, ErrorKind, JobId, ProcessId, Timestamp};
use crate::queue::store::Store;
use crate::queue::store::rows::{CANCELLED, COMPLETED, DELETING, FAILED, key_of, process_of};

use super::statements::{Fault, Queries as _, Row, Statements, by, id_of, list, stored};

/// The numbers of these processes and their descendants; `None` for all processes.
pub(crate) fn scope(tx: &mut dyn Statements, of: &[ProcessId]) -> Result<Option<Vec<i64>>, Fault> {
    if of.is_empty() {
        return Ok(None);
    }
    let mut all = Vec::new();
    for id in of {
        all.extend(tx.process_no(*id)?);
    }
    for mut row in tx.rows_in(BELOW, &all)? {
        all.push(row.at(0)?);
    }
    Ok(Some(all))
}

/// The descendants of processes.
pub(crate) const BELOW: &str = "SELECT no FROM #processes WHERE root IN :list";

/// The condition that a job belongs to a scope.
pub(crate) fn in_scope(scope: Option<&Vec<i64>>) -> String {
    match scope {
        None => String::new(),
        Some(scope) => format!("AND id DIV 4294967296 IN {}", list(scope.iter().copied())),
    }
}

/// The children of these jobs that are requeued with them: those whose parent job is requeued.
pub(crate) fn to_retry(
    tx: &mut dyn Statements,
    first: i64,
    last: i64,
) -> Result<Vec<ProcessId>, Fault> {
    let find = formatcp!(
        "SELECT p.id FROM #processes p JOIN #jobs j ON j.id = p.parent
         WHERE p.parent BETWEEN ? AND ? AND j.status IN ({FAILED}, {CANCELLED}) ORDER BY p.no"
    );
    let ids: Vec<Vec<u8>> = tx.column(find, by![first, last])?;
    ids.iter().map(|id| id_of(id)).collect()
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
pub(crate) fn parent(store: &Store, tx: &mut dyn Statements, parent: JobId) -> Result<i64, Fault> {
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

/// Marks the children of jobs for deletion that are completed or deleted.
pub(crate) fn delete_below(tx: &mut dyn Statements, jobs: &[i64]) -> Result<(), Fault> {
    let delete = formatcp!(
        "UPDATE #processes FORCE INDEX (by_parent) SET chore = {DELETING}
         WHERE parent IN :list AND chore <> {DELETING}"
    );
    tx.defer_in(delete, jobs)
}

// The state of processes; their rows are locked in the order of their numbers.

/// The state of a process that limits changes to its jobs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Standing {
    pub chore: i64,
    pub is_cancelled: bool,
    pub sealed: i64,
    pub total: i64,
    pub pending: i64,
    pub consumed: i64,
}

/// Whether a chore prevents the start of jobs.
pub(crate) fn stops_starting(chore: i64) -> bool {
    chore == crate::queue::store::rows::CANCELLING || chore == DELETING
}

impl Standing {
    /// Whether its running jobs are not retried.
    pub(crate) fn stops_trying(&self) -> bool {
        self.is_cancelled || self.chore == DELETING
    }
}

/// Locks processes, lowest number first, and reads their current states.
pub(crate) fn lock(
    tx: &mut dyn Statements,
    numbers: impl IntoIterator<Item = i64>,
) -> Result<BTreeMap<i64, Standing>, Fault> {
    let numbers: BTreeSet<i64> = numbers.into_iter().collect();
    if numbers.is_empty() {
        return Ok(BTreeMap::new());
    }
    let numbers: Vec<i64> = numbers.into_iter().collect();
    let locking =
        formatcp!("{STANDING} FORCE INDEX (PRIMARY) WHERE no IN :list ORDER BY no FOR UPDATE");
    let rows = tx.rows_in(locking, &numbers)?;
    rows.into_iter().map(standing).collect()
}

/// Locks a process, and reads its number and its current state.
pub(crate) fn lock_one(
    tx: &mut dyn Statements,
    id: ProcessId,
) -> Result<Option<(i64, Standing)>, Fault> {
    let found = tx.first(
        formatcp!("{STANDING} WHERE id = ? FOR UPDATE"),
        by![stored(id)],
    )?;
    found.map(standing).transpose()
}

const STANDING: &str =
    "SELECT no, chore, cancelled, sealed, total, pending, consumed FROM #processes";

fn standing(mut row: Row) -> Result<(i64, Standing), Fault> {
    let standing = Standing {
        chore: row.at(1)?,
        is_cancelled: row.at::<i64>(2)? != 0,
        sealed: row.at(3)?,
        total: row.at(4)?,
        pending: row.at(5)?,
        consumed: row.at(6)?,
    };
    Ok((row.at(0)?, standing))
}
