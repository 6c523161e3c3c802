//! Child processes, whose jobs a job waits for. The store knows the parent of a process, so that children end with it: they
//! are cancelled, requeued and deleted with their parent, and their cost also counts for the process of their oldest
//! ancestor, the root. The parent itself looks when they have ended.

use std::collections::{BTreeMap, BTreeSet};

use const_format::formatcp;

use super::rows::{COMPLETED, DELETING, key_of, process_no, process_of};
use super::{BatchNo, Store, WorkerId};
use crate::base::{Error, ErrorKind, JobId, Mark, ProcessId, Timestamp};

use super::statements::{Fault, FromRow, Queries as _, Row, Sql, all, by, columns, list, stored};

/// The condition that a column is the number of one of these processes or their descendants; none for all processes.
pub(crate) fn scope(tx: &mut dyn Sql, column: &str, of: &[ProcessId]) -> Result<String, Fault> {
    if of.is_empty() {
        return Ok(String::new());
    }
    let mut numbers = Vec::new();
    for id in of {
        numbers.extend(process_no(tx, *id)?);
    }
    numbers.extend(tx.many::<i64>(BELOW, by![all(&numbers)])?);
    Ok(format!(" AND {column} IN {}", list(&numbers)))
}

/// Finds the oldest ancestor of a process, which has its budget.
pub(crate) const ROOT: &str = "SELECT IFNULL(root, no) FROM #processes WHERE no = ?";

/// The descendants of processes.
pub(crate) const BELOW: &str = "SELECT no FROM #processes WHERE root IN :list";

/// The process of a job, in a statement.
pub(crate) const PROCESS: &str = "id DIV 4294967296";

/// The key of a new process's parent, which is locked as open until the transaction ends.
pub(crate) fn parent(store: &Store, tx: &mut dyn Sql, parent: JobId) -> Result<i64, Fault> {
    let id = key_of(parent);
    let job = formatcp!(
        "SELECT created_at FROM #jobs WHERE id = ? AND status < {COMPLETED} LOCK IN SHARE MODE"
    );
    let created_at: Option<Timestamp> = tx.one(job, by![id])?;
    let process = formatcp!(
        "SELECT 1 FROM #processes WHERE no = ? AND cancelled = 0 AND chore <> {DELETING} LOCK IN SHARE MODE"
    );
    let is_open = tx.exists(process, by![process_of(id)])?;
    let found = created_at.map(|at| store.job_id(id, at));
    if found != Some(parent) || !is_open {
        let why = format!("job {parent} needs no more jobs: it has ended, or was cancelled");
        return Err(Error::new(ErrorKind::Invalid, why)
            .marked(Mark::ClaimLost)
            .into());
    }
    Ok(id)
}

/// Marks the children of jobs for deletion that are completed or deleted.
pub(crate) fn delete_below(tx: &mut dyn Sql, jobs: &[i64]) -> Result<(), Fault> {
    let delete = formatcp!(
        "UPDATE #processes FORCE INDEX (by_parent) SET chore = {DELETING}
         WHERE parent IN :list AND chore <> {DELETING}"
    );
    if jobs.is_empty() {
        return Ok(());
    }
    tx.defer(delete, by![all(jobs)])
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

impl Standing {
    /// Whether its running jobs are not retried.
    pub(crate) fn stops_trying(&self) -> bool {
        self.is_cancelled || self.chore == DELETING
    }
}

/// Locks processes, lowest number first, and reads their current states.
pub(crate) fn lock(
    tx: &mut dyn Sql,
    numbers: impl IntoIterator<Item = i64>,
) -> Result<BTreeMap<i64, Standing>, Fault> {
    let numbers: BTreeSet<i64> = numbers.into_iter().collect();
    if numbers.is_empty() {
        return Ok(BTreeMap::new());
    }
    let numbers: Vec<i64> = numbers.into_iter().collect();
    let locking =
        formatcp!("{STANDING} FORCE INDEX (PRIMARY) WHERE no IN :list ORDER BY no FOR UPDATE");
    let found: Vec<(i64, Standing)> = tx.many(locking, by![all(&numbers)])?;
    Ok(found.into_iter().collect())
}

/// Locks a process, and reads its number and its current state.
pub(crate) fn lock_one(tx: &mut dyn Sql, id: ProcessId) -> Result<Option<(i64, Standing)>, Fault> {
    tx.one(
        formatcp!("{STANDING} WHERE id = ? FOR UPDATE"),
        by![stored(id)],
    )
}

const STANDING: &str =
    "SELECT no, chore, cancelled, sealed, total, pending, consumed FROM #processes";

columns!(Standing: chore, is_cancelled, sealed, total, pending, consumed);

/// Locks a batch of this worker until the transaction ends. Returns the numbers of its process and lane.
pub(super) fn owned(
    tx: &mut dyn Sql,
    worker: WorkerId,
    batch: BatchNo,
) -> Result<(i64, i64), Fault> {
    let find = "SELECT process, lane FROM #batches WHERE no = ? AND worker = ? FOR UPDATE";
    tx.one(find, by![batch.0, worker.0])?.ok_or_else(|| {
        let why = format!(
            "batch {} is not this worker's: it was closed, or others took the worker for dead",
            batch.0
        );
        Error::new(ErrorKind::Invalid, why)
            .marked(Mark::ClaimLost)
            .into()
    })
}
