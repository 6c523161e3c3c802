//! Jobs on their way into a batch, while they are in it, and back.

use const_format::formatcp;
use rusqlite::{Connection, OptionalExtension, params};

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::queue::store::{BatchFill, BatchNo, ClaimedJob, WorkerId};

use super::SqliteStore;
use super::batches::{Owned, owned};
use super::counters::CounterChanges;
use super::rows::{AT_PROVIDER, CANCELLED, DELETING, MOST_JOBS, PENDING, count, id_of, key};
use super::writer::{Fault, Sync};

/// Keys, so that nothing is sorted: what has ended is passed over.
pub(super) const DUE: &str = formatcp!(
    "SELECT j.id, octet_length(p.body) \
     FROM jobs j NOT INDEXED CROSS JOIN payloads p ON p.job = j.id \
     WHERE j.id > ?1 AND j.id <= ?2 AND j.status = {PENDING} AND j.lane = ?3 AND j.visible_at <= ?4 \
     ORDER BY j.id LIMIT ?5"
);

pub(super) const IN_BATCH: &str = "SELECT j.id, octet_length(p.body) \
     FROM jobs j INDEXED BY jobs_in_batch CROSS JOIN payloads p ON p.job = j.id \
     WHERE j.batch = ?1 AND j.id > ?2 ORDER BY j.id LIMIT ?3";

/// Jobs to be put into a batch, by key with the bytes of their payloads.
#[derive(Default)]
struct Load {
    jobs: Vec<(i64, u64)>,
    next: Option<i64>,
}

fn load(
    conn: &Connection,
    (batch, of): (BatchNo, &Owned),
    after: Option<i64>,
    (most, bytes): (usize, u64),
    now: Timestamp,
) -> Result<Load, Fault> {
    let mut any = conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM jobs WHERE batch = ?1)")?;
    let mut has_any: bool = any.query_row([batch.0], |row| row.get(0))?;
    let (first, last) = (key(of.process, 0), key(of.process, MOST_JOBS - 1));
    // One more, which tells whether there is more.
    let limit = i64::try_from(most).unwrap_or(i64::MAX).saturating_add(1);
    let start = after.unwrap_or(first - 1).max(first - 1);
    let mut find = conn.prepare_cached(DUE)?;
    let mut rows = find.query(params![start, last, of.lane, now.0, limit])?;
    let mut load = Load::default();
    let mut left = bytes;
    while let Some(row) = rows.next()? {
        let (id, size): (i64, u64) = (row.get(0)?, count(row.get(1)?));
        if load.jobs.len() >= most || has_any && size > left {
            load.next = Some(id - 1);
            break;
        }
        left = left.saturating_sub(size);
        has_any = true;
        load.jobs.push((id, size));
    }
    Ok(load)
}

impl SqliteStore {
    /// The jobs are found beside whatever is written; only moving them is a transaction.
    pub(super) fn load_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        after: Option<i64>,
        (most, bytes): (usize, u64),
        now: Timestamp,
    ) -> Result<BatchFill, Error> {
        let load = self.read(|conn| {
            let of = owned(conn, worker, batch)?;
            load(conn, (batch, &of), after, (most, bytes), now)
        })?;
        self.write(Sync::AsSet, |conn| {
            let of = owned(conn, worker, batch)?;
            if of.cancelled != Some(false) {
                return Ok(BatchFill::default());
            }
            let mut put = conn.prepare_cached(formatcp!(
                "UPDATE jobs SET status = {AT_PROVIDER}, batch = ?2, claim = claim + 1
                 WHERE id = ?1 AND status = {PENDING} AND lane = ?3 AND visible_at <= ?4"
            ))?;
            let mut filled = BatchFill {
                next: load.next,
                ..BatchFill::default()
            };
            for (id, size) in &load.jobs {
                // Somebody may have been quicker.
                if put.execute(params![id, batch.0, of.lane, now.0])? == 1 {
                    filled.jobs += 1;
                    filled.bytes += size;
                }
            }
            let moved = i64::try_from(filled.jobs).unwrap_or(0);
            if moved > 0 {
                let mut changes = CounterChanges::default();
                changes.moved_many(of.process, PENDING, AT_PROVIDER, moved);
                changes.write(conn, now)?;
            }
            Ok(filled)
        })
    }

    pub(super) fn read_batch_jobs(
        &self,
        batch: BatchNo,
        after: Option<i64>,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<ClaimedJob>, Error> {
        let (most, bytes) = (i64::try_from(most).unwrap_or(i64::MAX), bytes as u64);
        self.read_in_batch(batch, |conn, _| {
            let mut find = conn.prepare_cached(IN_BATCH)?;
            let mut rows = find.query(params![batch.0, after.unwrap_or(-1), most])?;
            let (mut ids, mut size) = (Vec::new(), 0_u64);
            while let Some(row) = rows.next()? {
                size = size.saturating_add(count(row.get(1)?));
                if size > bytes && !ids.is_empty() {
                    break;
                }
                ids.push(row.get(0)?);
            }
            Ok(ids)
        })
    }

    pub(super) fn find_batch_jobs(
        &self,
        batch: BatchNo,
        numbers: &[u32],
    ) -> Result<Vec<ClaimedJob>, Error> {
        self.read_in_batch(batch, |conn, process| {
            let mut find =
                conn.prepare_cached("SELECT 1 FROM jobs WHERE id = ?1 AND batch = ?2")?;
            let mut ids = Vec::new();
            for number in numbers {
                let id = key(process, i64::from(*number));
                if find.exists([id, batch.0])? {
                    ids.push(id);
                }
            }
            Ok(ids)
        })
    }

    /// Reads jobs of a batch; none when its process is gone.
    fn read_in_batch(
        &self,
        batch: BatchNo,
        which: impl FnOnce(&Connection, i64) -> Result<Vec<i64>, Fault>,
    ) -> Result<Vec<ClaimedJob>, Error> {
        self.read(|conn| {
            // All of one moment.
            let conn = &*conn.unchecked_transaction()?;
            let mut find = conn.prepare_cached(formatcp!(
                "SELECT p.no, p.id, b.lane FROM batches b JOIN processes p ON p.no = b.process
                 WHERE b.no = ?1 AND p.chore <> {DELETING}"
            ))?;
            let found = find.query_row([batch.0], |row| {
                Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?, row.get(2)?))
            });
            let Some((no, process, lane)) = found.optional()? else {
                return Ok(Vec::new());
            };
            let (process, lane) = (id_of(&process)?, self.lane(conn, lane)?);
            let ids = which(conn, no)?;
            let jobs = ids
                .into_iter()
                .map(|id| self.claimed(conn, id, process, &lane));
            jobs.collect()
        })
    }

    /// Puts jobs of a batch back, and with `close` deletes it together with the last of them.
    pub(super) fn empty_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        after: Option<i64>,
        due: Option<Timestamp>,
        close: bool,
        now: Timestamp,
    ) -> Result<u64, Error> {
        let mut back = 0;
        loop {
            self.next_chunk()?;
            let (changed, more, waits) = self.write(Sync::AsSet, |conn| {
                let of = owned(conn, worker, batch)?;
                let (mut changed, mut more) = (0, false);
                // Those of a deleted process are deleted with it.
                if of.cancelled.is_some() {
                    (changed, more) = self.unload(conn, batch, &of, after, due, now)?;
                }
                if close && !more {
                    conn.prepare_cached("DELETE FROM batches WHERE no = ?1")?
                        .execute([batch.0])?;
                }
                Ok((changed, more, of.cancelled == Some(false)))
            })?;
            if changed > 0 && waits {
                self.wake();
            }
            back += changed;
            if !more {
                return Ok(count(back));
            }
        }
    }

    /// Puts a chunk of jobs back. Returns how many, and whether there are more.
    fn unload(
        &self,
        conn: &Connection,
        batch: BatchNo,
        of: &Owned,
        after: Option<i64>,
        due: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(i64, bool), Fault> {
        let after = after.unwrap_or(-1);
        let mut find = conn.prepare_cached(
            "SELECT id FROM jobs WHERE batch = ?1 AND id > ?2 ORDER BY id LIMIT 1 OFFSET ?3",
        )?;
        let next: Option<i64> = find
            .query_row([batch.0, after, self.chunk], |row| row.get(0))
            .optional()?;
        let status = match of.cancelled {
            Some(false) => PENDING,
            _ => CANCELLED,
        };
        let mut put = conn.prepare_cached(
            "UPDATE jobs SET status = ?4, batch = NULL, visible_at = ifnull(?5, visible_at)
             WHERE batch = ?1 AND id > ?2 AND id < ?3",
        )?;
        let range = (batch.0, after, next.unwrap_or(i64::MAX));
        let due = due.map(|due| due.0);
        let changed = put.execute(params![range.0, range.1, range.2, status, due])?;
        let changed = i64::try_from(changed).unwrap_or(0);
        if changed > 0 {
            let mut changes = CounterChanges::default();
            changes.moved_many(of.process, AT_PROVIDER, status, changed);
            changes.write(conn, now)?;
        }
        Ok((changed, next.is_some()))
    }
}
