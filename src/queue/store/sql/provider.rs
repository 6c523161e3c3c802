//! Jobs on their way into a batch, while they are in it, and back.

use std::collections::HashSet;

use crate::base::clock::Timestamp;
use crate::base::error::{Error, ErrorKind};
use crate::queue::store::counters::CounterChanges;
use crate::queue::store::rows::{AT_PROVIDER, CANCELLED, DELETING, MOST_JOBS, PENDING, count, key};
use crate::queue::store::{BatchFill, BatchNo, ClaimedJob, WorkerId};

use super::claimed::claimed;
use super::standing::lock;
use super::statements::{Fault, Queries as _, Statements, by, id_of, limit, list};
use super::{Again, SqlStore};

/// What a batch tells its owner.
pub(super) struct Owned {
    pub process: i64,
    pub lane: i64,
    /// Whether its process was cancelled; `None` when that is gone.
    pub cancelled: Option<bool>,
}

/// A batch of this worker, locked until the transaction ends.
pub(super) fn owned(
    tx: &mut dyn Statements,
    worker: WorkerId,
    batch: BatchNo,
) -> Result<Owned, Fault> {
    let found = tx.first(
        "SELECT process, lane FROM #batches WHERE no = ? AND worker = ? FOR UPDATE",
        by![batch.0, worker.0],
    )?;
    let Some(mut row) = found else {
        let why = format!(
            "batch {} is not this worker's: it was closed, or others took the worker for dead",
            batch.0
        );
        return Err(Error::new(ErrorKind::Invalid, why).with_claim_lost().into());
    };
    let process: i64 = row.at(0)?;
    let cancelled: Option<i64> = tx.one(
        &format!("SELECT cancelled FROM #processes WHERE no = ? AND chore <> {DELETING}"),
        by![process],
    )?;
    Ok(Owned {
        process,
        lane: row.at(1)?,
        cancelled: cancelled.map(|at| at != 0),
    })
}

/// Jobs to be put into a batch, by key with the bytes of their payloads.
#[derive(Default)]
struct Load {
    jobs: Vec<(i64, u64)>,
    next: Option<i64>,
}

/// Keys that are read at a time.
const READ_AT_ONCE: usize = 1_000;

fn load(
    tx: &mut dyn Statements,
    (batch, of): (BatchNo, &Owned),
    after: Option<i64>,
    (most, bytes): (usize, u64),
    now: Timestamp,
) -> Result<Load, Fault> {
    let mut has_any = tx.exists("SELECT 1 FROM #jobs WHERE batch = ? LIMIT 1", by![batch.0])?;
    let (first, last) = (key(of.process, 0), key(of.process, MOST_JOBS - 1));
    let mut start = after.unwrap_or(first - 1).max(first - 1);
    let mut load = Load::default();
    let mut left = bytes;
    loop {
        // One more, which tells whether there is more.
        let few = (most - load.jobs.len()).min(READ_AT_ONCE) + 1;
        let sql = format!(
            "SELECT j.id, OCTET_LENGTH(p.body) FROM #jobs j FORCE INDEX (PRIMARY) CROSS JOIN #payloads p ON p.job = j.id
             WHERE j.id > ? AND j.id <= ? AND j.status = {PENDING} AND j.lane = ? AND j.visible_at <= ?
             ORDER BY j.id LIMIT ?"
        );
        let rows = tx.rows(&sql, by![start, last, of.lane, now.0, limit(few)])?;
        let is_last = rows.len() < few;
        for mut row in rows {
            let (id, size): (i64, u64) = (row.at(0)?, count(row.at(1)?));
            if load.jobs.len() >= most || has_any && size > left {
                load.next = Some(id - 1);
                return Ok(load);
            }
            left = left.saturating_sub(size);
            has_any = true;
            load.jobs.push((id, size));
            start = id;
        }
        if is_last {
            return Ok(load);
        }
    }
}

/// The jobs are found without locks; only moving them is a transaction.
pub(super) fn load_batch(
    store: &impl SqlStore,
    worker: WorkerId,
    batch: BatchNo,
    after: Option<i64>,
    (most, bytes): (usize, u64),
    now: Timestamp,
) -> Result<BatchFill, Error> {
    let load = store.read(|tx| {
        let of = owned(tx, worker, batch)?;
        load(tx, (batch, &of), after, (most, bytes), now)
    })?;
    store.write(Again::Doubtful, |tx| {
        let of = owned(tx, worker, batch)?;
        let mut filled = BatchFill {
            next: load.next,
            ..BatchFill::default()
        };
        if of.cancelled != Some(false) {
            return Ok(BatchFill::default());
        }
        // Somebody may have been quicker.
        let mut free = HashSet::new();
        for jobs in load.jobs.chunks(READ_AT_ONCE) {
            let sql = format!(
                "SELECT id FROM #jobs FORCE INDEX (PRIMARY)
                 WHERE id IN {} AND status = {PENDING} AND lane = {} AND visible_at <= {}
                 ORDER BY id FOR UPDATE SKIP LOCKED",
                list(jobs.iter().map(|(id, _)| *id)),
                of.lane,
                now.0
            );
            free.extend(tx.column_once::<i64>(&sql)?);
        }
        let standing = lock(tx, [of.process])?;
        if standing.get(&of.process).is_none_or(|process| process.stops_trying()) {
            return Ok(BatchFill::default());
        }
        let put: Vec<(i64, u64)> =
            load.jobs.iter().filter(|(id, _)| free.contains(id)).copied().collect();
        for jobs in put.chunks(READ_AT_ONCE) {
            let put = format!(
                "UPDATE #jobs SET status = {AT_PROVIDER}, batch = {}, claim = claim + 1 WHERE id IN {}",
                batch.0,
                list(jobs.iter().map(|(id, _)| *id))
            );
            tx.run_once(&put)?;
        }
        for (_, size) in &put {
            filled.jobs += 1;
            filled.bytes += size;
        }
        let moved = i64::try_from(filled.jobs).unwrap_or(0);
        if moved > 0 {
            let mut changes = CounterChanges::default();
            changes.moved_many(of.process, PENDING, AT_PROVIDER, moved);
            tx.count(&changes, now)?;
        }
        Ok(filled)
    })
}

pub(super) fn read_batch_jobs(
    store: &impl SqlStore,
    batch: BatchNo,
    after: Option<i64>,
    most: usize,
    bytes: usize,
) -> Result<Vec<ClaimedJob>, Error> {
    let bytes = bytes as u64;
    read_in_batch(store, batch, |tx, _| {
        let (mut ids, mut size) = (Vec::new(), 0_u64);
        let mut start = after.unwrap_or(-1);
        while ids.len() < most {
            let few = READ_AT_ONCE.min(most - ids.len());
            let rows = tx.rows(
                "SELECT j.id, OCTET_LENGTH(p.body) FROM #jobs j FORCE INDEX (in_batch) CROSS JOIN #payloads p ON p.job = j.id
                 WHERE j.batch = ? AND j.id > ? ORDER BY j.id LIMIT ?",
                by![batch.0, start, limit(few)],
            )?;
            let is_last = rows.len() < few;
            for mut row in rows {
                size = size.saturating_add(count(row.at(1)?));
                if size > bytes && !ids.is_empty() {
                    return Ok(ids);
                }
                start = row.at(0)?;
                ids.push(start);
            }
            if is_last {
                break;
            }
        }
        Ok(ids)
    })
}

pub(super) fn find_batch_jobs(
    store: &impl SqlStore,
    batch: BatchNo,
    numbers: &[u32],
) -> Result<Vec<ClaimedJob>, Error> {
    read_in_batch(store, batch, |tx, process| {
        let wanted: Vec<i64> = numbers
            .iter()
            .map(|number| key(process, i64::from(*number)))
            .collect();
        let mut found = HashSet::new();
        for some in wanted.chunks(READ_AT_ONCE) {
            let sql = format!(
                "SELECT id FROM #jobs FORCE INDEX (PRIMARY) WHERE id IN {} AND batch = {}",
                list(some.iter().copied()),
                batch.0
            );
            found.extend(tx.column_once::<i64>(&sql)?);
        }
        Ok(wanted.into_iter().filter(|id| found.contains(id)).collect())
    })
}

/// Reads jobs of a batch, all of one moment; none when its process is gone.
fn read_in_batch(
    store: &impl SqlStore,
    batch: BatchNo,
    which: impl Fn(&mut dyn Statements, i64) -> Result<Vec<i64>, Fault>,
) -> Result<Vec<ClaimedJob>, Error> {
    store.read_moment(|tx| {
        let found = tx.first(
            &format!(
                "SELECT p.no, p.id, b.lane FROM #batches b JOIN #processes p ON p.no = b.process
                 WHERE b.no = ? AND p.chore <> {DELETING}"
            ),
            by![batch.0],
        )?;
        let Some(mut row) = found else {
            return Ok(Vec::new());
        };
        let (no, process) = (row.at(0)?, id_of(&row.at::<Vec<u8>>(1)?)?);
        let lane = store.lane(tx, row.at(2)?)?;
        let ids = which(tx, no)?;
        let mut jobs = Vec::with_capacity(ids.len());
        let mut rest = &ids[..];
        while !rest.is_empty() {
            // Whoever asks for a job twice gets it twice.
            let mut seen = HashSet::new();
            let some = rest.iter().take(READ_AT_ONCE);
            let (now, later) = rest.split_at(some.take_while(|id| seen.insert(**id)).count());
            jobs.extend(claimed(store, tx, now, |_| Some((process, lane.clone())))?);
            rest = later;
        }
        Ok(jobs)
    })
}

/// Puts jobs of a batch back, and with `close` deletes it together with the last of them.
pub(super) fn empty_batch(
    store: &impl SqlStore,
    worker: WorkerId,
    batch: BatchNo,
    after: Option<i64>,
    due: Option<Timestamp>,
    close: bool,
    now: Timestamp,
) -> Result<u64, Error> {
    let mut back = 0;
    loop {
        store.next_chunk()?;
        let (changed, more, waits) = store.write(Again::Doubtful, |tx| {
            let of = owned(tx, worker, batch)?;
            let (mut changed, mut more, mut waits) = (0, false, false);
            // Those of a deleted process are deleted with it.
            if of.cancelled.is_some() {
                (changed, more, waits) = unload(store, tx, batch, &of, after, due, now)?;
            }
            if close && !more {
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

/// Puts a chunk of jobs back. Returns how many, whether there are more, and whether they wait again.
fn unload(
    store: &impl SqlStore,
    tx: &mut dyn Statements,
    batch: BatchNo,
    of: &Owned,
    after: Option<i64>,
    due: Option<Timestamp>,
    now: Timestamp,
) -> Result<(u64, bool, bool), Fault> {
    let most = usize::try_from(store.chunk()).unwrap_or(1);
    let mut ids: Vec<i64> = tx.column(
        "SELECT id FROM #jobs WHERE batch = ? AND id > ? ORDER BY id LIMIT ?",
        by![batch.0, after.unwrap_or(-1), limit(most + 1)],
    )?;
    let more = ids.len() > most;
    ids.truncate(most);
    // Some may have ended since.
    let sql = format!(
        "SELECT id FROM #jobs FORCE INDEX (PRIMARY) WHERE id IN {} AND batch = {} ORDER BY id FOR UPDATE",
        list(ids),
        batch.0
    );
    let ids: Vec<i64> = tx.column_once(&sql)?;
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
        let due = due.map_or("visible_at".to_owned(), |due| due.0.to_string());
        let put = format!(
            "UPDATE #jobs SET status = {status}, batch = NULL, visible_at = {due} WHERE id IN {}",
            list(ids.iter().copied())
        );
        tx.run_once(&put)?;
        let changed = i64::try_from(ids.len()).unwrap_or(0);
        let mut changes = CounterChanges::default();
        changes.moved_many(of.process, AT_PROVIDER, status, changed);
        tx.count(&changes, now)?;
    }
    Ok((ids.len() as u64, more, waits))
}
