//! Jobs that move into a batch, are in it, and return from it.

use std::collections::HashSet;

use crate::base::{Error, Timestamp};
use crate::queue::store::counters::CounterChanges;
use crate::queue::store::rows::{AT_PROVIDER, CANCELLED, DELETING, MOST_JOBS, PENDING, count, key};
use crate::queue::store::{BatchFill, BatchNo, ClaimedJob, Store, WorkerId};

use super::Again;
use super::budgets::{self, BUDGET, job_budget};
use super::claim::claimed;
use super::lineage::lock;
use super::owned::Owned;
use super::owned::owned;
use super::statements::{Fault, Queries as _, Statements, by, id_of, limit};

/// Jobs to move into a batch, by key.
#[derive(Default)]
pub(super) struct Load {
    jobs: Vec<i64>,
    next: Option<i64>,
}

/// The jobs that an owner wants in its batch.
pub(super) fn load(
    tx: &mut dyn Statements,
    of: &Owned,
    after: Option<i64>,
    most: usize,
    bytes: u64,
    now: Timestamp,
) -> Result<Load, Fault> {
    let mut has_any = tx.exists("SELECT 1 FROM #jobs WHERE batch = ? LIMIT 1", by![of.no.0])?;
    let (first, last) = (key(of.process, 0), key(of.process, MOST_JOBS - 1));
    let start = after.unwrap_or(first - 1).max(first - 1);
    let mut load = Load::default();
    let mut left = bytes;
    let sql = format!(
        "SELECT j.id, OCTET_LENGTH(p.body) FROM #jobs j FORCE INDEX (PRIMARY) CROSS JOIN #payloads p ON p.job = j.id
         WHERE j.id > ? AND j.id <= ? AND j.status = {PENDING} AND j.lane = ? AND j.visible_at <= ?
         ORDER BY j.id LIMIT ?"
    );
    // One more, to know whether more exist.
    let few = limit(most.saturating_add(1));
    for mut row in tx.rows(&sql, by![start, last, of.lane, now.0, few])? {
        let (id, size): (i64, u64) = (row.at(0)?, count(row.at(1)?));
        if load.jobs.len() >= most || has_any && size > left {
            load.next = Some(id - 1);
            break;
        }
        left = left.saturating_sub(size);
        has_any = true;
        load.jobs.push(id);
    }
    Ok(load)
}

/// Moves those jobs into a batch that were not claimed since they were found.
pub(super) fn fill(
    tx: &mut dyn Statements,
    of: &Owned,
    load: &Load,
    now: Timestamp,
) -> Result<BatchFill, Fault> {
    if of.cancelled != Some(false) {
        return Ok(BatchFill::default());
    }
    let sql = format!(
        "SELECT id FROM #jobs FORCE INDEX (PRIMARY)
         WHERE id IN :list AND status = {PENDING} AND lane = {} AND visible_at <= {}
         ORDER BY id FOR UPDATE SKIP LOCKED",
        of.lane, now.0
    );
    let free: HashSet<i64> = tx.column_in(&sql, &load.jobs)?.into_iter().collect();
    let standing = lock(tx, [of.process])?;
    let process = standing.get(&of.process);
    if process.is_none_or(|process| process.stops_trying()) {
        return Ok(BatchFill::default());
    }
    let found = load.jobs.iter().filter(|id| free.contains(id));
    let put: Vec<i64> = found.copied().collect();
    if !put.is_empty() {
        let update = format!(
            "UPDATE #jobs SET status = {AT_PROVIDER}, batch = {}, claim = claim + 1 WHERE id IN :list",
            of.no.0
        );
        tx.run_in(&update, &put)?;
        let moved = i64::try_from(put.len()).unwrap_or(0);
        let mut changes = CounterChanges::default();
        changes.moved_many(of.process, PENDING, AT_PROVIDER, moved);
        changes.write(tx, now)?;
    }
    Ok(BatchFill {
        jobs: put.len() as u64,
        next: load.next,
    })
}

/// Reads jobs of a batch in one snapshot; none if its process no longer exists.
pub(super) fn read_in_batch(
    store: &Store,
    batch: BatchNo,
    which: impl Fn(&mut dyn Statements, i64) -> Result<Vec<i64>, Fault>,
) -> Result<Vec<ClaimedJob>, Error> {
    store.read_moment(|tx| {
        let found = tx.first(
            &format!(
                "SELECT p.no, p.id, a.lane, {BUDGET} FROM #batches a JOIN #processes p ON p.no = a.process
                   JOIN #processes b ON b.no = IFNULL(p.root, p.no)
                 WHERE a.no = ? AND p.chore <> {DELETING}"
            ),
            by![batch.0],
        )?;
        let Some(mut row) = found else {
            return Ok(Vec::new());
        };
        let (no, process) = (row.at(0)?, id_of(&row.at::<Vec<u8>>(1)?)?);
        let lane = store.lane(tx, row.at(2)?)?;
        let budget = job_budget(&mut row, 3)?;
        let ids = which(tx, no)?;
        claimed(store, tx, &ids, |_| Some((process, budget, lane.clone())))
    })
}

/// Returns jobs of a batch to the queue; with `close`, deletes the batch together with the last of them.
pub(super) fn empty_batch(
    store: &Store,
    worker: WorkerId,
    batch: BatchNo,
    after: Option<i64>,
    close: bool,
    now: Timestamp,
) -> Result<u64, Error> {
    let mut back = 0;
    loop {
        store.next_chunk()?;
        let (changed, more, waits) = store.write(Again::Doubtful, |tx| {
            let of = owned(tx, worker, batch)?;
            let (mut changed, mut more, mut waits) = (0, false, false);
            // Jobs of a deleted process are deleted with it.
            if of.cancelled.is_some() {
                (changed, more, waits) = unload_jobs(store, tx, &of, after, close, now)?;
            }
            if close && !more {
                budgets::release_rest(tx, batch, of.process)?;
                tx.run("DELETE FROM #batches WHERE no = ?", by![batch.0])?;
            }
            Ok((changed, more, waits))
        })?;
        if changed > 0 && waits {
            store.wake_workers();
        }
        back += changed;
        if !more {
            return Ok(back);
        }
    }
}

/// Returns a chunk of jobs to the queue. Without `close`, nothing was billed for them. Returns their number, whether more
/// are left, and whether they wait again.
fn unload_jobs(
    store: &Store,
    tx: &mut dyn Statements,
    of: &Owned,
    after: Option<i64>,
    close: bool,
    now: Timestamp,
) -> Result<(u64, bool, bool), Fault> {
    let most = usize::try_from(store.chunk).unwrap_or(1);
    let mut ids: Vec<i64> = tx.column(
        "SELECT id FROM #jobs WHERE batch = ? AND id > ? ORDER BY id LIMIT ?",
        by![of.no.0, after.unwrap_or(-1), limit(most + 1)],
    )?;
    let more = ids.len() > most;
    ids.truncate(most);
    // Some may have ended in the meantime.
    let sql = format!(
        "SELECT id FROM #jobs FORCE INDEX (PRIMARY) WHERE id IN :list AND batch = {} ORDER BY id FOR UPDATE",
        of.no.0
    );
    let ids: Vec<i64> = tx.column_in(&sql, &ids)?;
    let standing = lock(tx, [of.process])?;
    let Some(process) = standing
        .get(&of.process)
        .filter(|process| process.chore != DELETING)
    else {
        return Ok((0, more, false));
    };
    let (status, waits) = if !process.is_cancelled {
        (PENDING, true)
    } else {
        (CANCELLED, false)
    };
    if !ids.is_empty() {
        let put = format!("UPDATE #jobs SET status = {status}, batch = NULL WHERE id IN :list");
        tx.run_in(&put, &ids)?;
        let changed = i64::try_from(ids.len()).unwrap_or(0);
        let mut changes = CounterChanges::default();
        changes.moved_many(of.process, AT_PROVIDER, status, changed);
        if close {
            budgets::release(tx, of.no, of.process, ids.len(), &mut changes)?;
        }
        changes.write(tx, now)?;
    }
    Ok((ids.len() as u64, more, waits))
}
