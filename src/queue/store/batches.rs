//! Batches: their rows, their owners, and the jobs that move into them, are in them, and return from them.

use std::collections::HashSet;

use const_format::formatcp;

use super::budgets::{self, BUDGET, CLOSED, QUEUE, not_closed};
use super::claim::{WHOLE, read_claimed};
use super::counters::CounterChanges;
use super::lineage::{PROCESS, Standing, lock, owned, scope};
use super::results::within;
use super::rows::{
    AT_PROVIDER, CANCELLED, DELETING, NO_CHORE, PENDING, key, keys_after, process_no,
};
use super::statements::{Fault, Queries as _, Row, Sql, all, by, count, limit, list};
use super::{
    BatchFill, BatchNo, ClaimedJob, Db, JobLane, Mode, Store, StoredBatch, WaitingJobs, WorkerId,
};
use crate::base::{Error, ErrorKind, ProcessId, Timestamp};

impl Store {
    /// Creates an empty batch that belongs to the worker. Fails if the worker is not registered or the process does not
    /// exist.
    pub(crate) fn open_batch(
        &self,
        worker: WorkerId,
        process: ProcessId,
        lane: &JobLane,
        record: &str,
        now: Timestamp,
    ) -> Result<BatchNo, Error> {
        self.write_as(Mode::WriteOnce, |tx| {
            self.check_worker(tx, worker)?;
            let Some(no) = process_no(tx, process)? else {
                let why = format!("the process {process} of the batch does not exist");
                return Err(Error::new(ErrorKind::Invalid, why).into());
            };
            let lane = self.lane_no(tx, lane)?;
            tx.run(
                "INSERT INTO #batches (process, lane, worker, record, created_at) VALUES (?, ?, ?, ?, ?)",
                by![no, lane, worker.0, record.to_owned(), now.0],
            )?;
            Ok(BatchNo(tx.last_id()))
        })
    }

    /// Moves due jobs of the batch's process and lane into it, by ascending key after `after`, in one transaction: at
    /// most this number of jobs and this number of payload bytes, but at least one job if the batch is empty and a job
    /// is due. So the batch is full if and only if a position to continue from is returned. Cancelled jobs are not
    /// moved. The number of each claim increases.
    ///
    /// If the batch does not belong to this worker (any more), this fails with an error [that says
    /// so](crate::base::Mark::ClaimLost), like all methods with a worker and a batch. After any other failure the
    /// batch still belongs to the worker.
    pub(crate) fn fill_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        after: Option<i64>,
        most: usize,
        bytes: u64,
        now: Timestamp,
    ) -> Result<BatchFill, Error> {
        self.write_as(Mode::WriteOnce, |tx| {
            let (process, lane) = owned(tx, worker, batch)?;
            let any = "SELECT 1 FROM #jobs WHERE batch = ? LIMIT 1";
            let (mut has_any, mut left) = (tx.exists(any, by![batch.0])?, bytes);
            let find = formatcp!(
                "SELECT j.id, OCTET_LENGTH(p.body) FROM #jobs j FORCE INDEX (PRIMARY) CROSS JOIN #payloads p ON p.job = j.id
                 WHERE j.id > ? AND j.id <= ? AND j.status = {PENDING} AND j.lane = ? AND j.visible_at <= ?
                 ORDER BY j.id LIMIT ?"
            );
            let (start, end) = keys_after(process, after);
            // One more, to know whether more exist.
            let few = limit(most.saturating_add(1));
            let due: Vec<(i64, u64)> = tx.many(find, by![start, end, lane, now.0, few])?;
            let (mut found, mut next) = (Vec::new(), None);
            for (id, size) in due {
                if found.len() >= most || has_any && size > left {
                    next = Some(id - 1);
                    break;
                }
                (left, has_any) = (left.saturating_sub(size), true);
                found.push(id);
            }
            // Those that nobody has claimed since they were found.
            let lock_free = formatcp!(
                "SELECT id FROM #jobs FORCE INDEX (PRIMARY)
                 WHERE id IN :list AND status = {PENDING} AND lane = ? AND visible_at <= ?
                 ORDER BY id FOR UPDATE SKIP LOCKED"
            );
            let free: Vec<i64> = tx.many(lock_free, by![all(&found), lane, now.0])?;
            let standing = lock(tx, [process])?;
            if standing.get(&process).is_none_or(Standing::stops_trying) {
                return Ok(BatchFill::default());
            }
            let put = formatcp!(
                "UPDATE #jobs SET status = {AT_PROVIDER}, batch = ?, claim = claim + 1 WHERE id IN :list"
            );
            tx.defer(put, by![batch.0, all(&free)])?;
            let mut changes = CounterChanges::default();
            changes.moved_many(process, PENDING, AT_PROVIDER, limit(free.len()));
            changes.write(tx, now)?;
            let jobs = free.len() as u64;
            Ok(BatchFill { jobs, next })
        })
    }

    /// Up to `most` jobs of a batch, by ascending key after `after`, with about `bytes` bytes of payload at most; at
    /// least one if there is any. Their receipts settle them.
    pub(crate) fn batch_jobs(
        &self,
        batch: BatchNo,
        after: Option<i64>,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<ClaimedJob>, Error> {
        self.read_batch(batch, |tx, _| {
            let found = tx.many(
                "SELECT j.id, OCTET_LENGTH(p.body) FROM #jobs j FORCE INDEX (in_batch) CROSS JOIN #payloads p ON p.job = j.id
                 WHERE j.batch = ? AND j.id > ? ORDER BY j.id LIMIT ?",
                by![batch.0, after.unwrap_or(-1), limit(most)],
            )?;
            Ok(within(found, bytes))
        })
    }

    /// The jobs with these [numbers](crate::queue::JobReceipt::number) that are in a batch, in the order of the
    /// numbers.
    pub(crate) fn batch_jobs_by(
        &self,
        batch: BatchNo,
        numbers: &[u32],
    ) -> Result<Vec<ClaimedJob>, Error> {
        self.read_batch(batch, |tx, process| {
            let wanted = numbers
                .iter()
                .map(|number| key(process, i64::from(*number)));
            let mut wanted: Vec<i64> = wanted.collect();
            let find = "SELECT id FROM #jobs FORCE INDEX (PRIMARY) WHERE id IN :list AND batch = ?";
            let found: HashSet<i64> = tx
                .many(find, by![all(&wanted), batch.0])?
                .into_iter()
                .collect();
            wanted.retain(|id| found.contains(id));
            Ok(wanted)
        })
    }

    /// Reads jobs of a batch in one snapshot; none if its process no longer exists.
    fn read_batch(
        &self,
        batch: BatchNo,
        which: impl Fn(&mut dyn Sql, i64) -> Result<Vec<i64>, Fault>,
    ) -> Result<Vec<ClaimedJob>, Error> {
        self.run(Mode::Moment, |tx| {
            let find = formatcp!(
                "SELECT p.no, p.id, a.lane, {BUDGET} FROM #batches a JOIN #processes p ON p.no = a.process
                   JOIN #processes b ON b.no = IFNULL(p.root, p.no)
                 WHERE a.no = ? AND p.chore <> {DELETING}"
            );
            let Some((no, process, lane, budget)) = tx.one(find, by![batch.0])? else {
                return Ok(Vec::new());
            };
            let lane = self.lane(tx, lane)?;
            let ids = which(tx, no)?;
            let rows = tx.rows(WHOLE, by![all(&ids)])?;
            let of = |_| Some((process, budget, lane.clone()));
            let mut found = read_claimed(self, rows, of)?;
            Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
        })
    }

    /// The number of jobs of a process that are or were to be called because their batch was refused.
    pub(crate) fn called_jobs(&self, process: ProcessId) -> Result<u64, Error> {
        self.run(Mode::Moment, |tx| {
            let Some(no) = process_no(tx, process)? else {
                return Ok(0);
            };
            let find = formatcp!(
                "SELECT COUNT(*) FROM #jobs WHERE id >= ? AND id < ?
                   AND lane IN (SELECT no FROM #lanes WHERE step >= {})",
                JobLane::CALLED
            );
            let jobs: Option<i64> = tx.one(find, by![key(no, 0), key(no + 1, 0)])?;
            Ok(count(jobs.unwrap_or(0)))
        })
    }

    /// Replaces a batch's record.
    pub(crate) fn save_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        record: &str,
    ) -> Result<(), Error> {
        self.write(|tx| {
            owned(tx, worker, batch)?;
            let set = "UPDATE #batches SET record = ? WHERE no = ?";
            tx.run(set, by![record.to_owned(), batch.0]).map(drop)
        })?;
        // What may be paid for next is on record whatever becomes of the log.
        match &self.db {
            Db::Sqlite(db) => db.secure(),
            #[cfg(feature = "mysql")]
            Db::Mysql(_) => {}
        }
        Ok(())
    }

    /// Returns the jobs of a batch with keys above `after` to the queue as untried. Jobs of a cancelled process are
    /// cancelled instead. Uses short transactions; after a failure, call it again. Returns the number of jobs.
    pub(crate) fn give_back(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        after: Option<i64>,
        now: Timestamp,
    ) -> Result<u64, Error> {
        self.empty_batch(worker, batch, after, false, now)
    }

    /// Returns the remaining jobs of a batch to the queue, and deletes the batch. Their part of what it
    /// [holds](super::Store::hold_batch) counts as spent; the rest is released.
    pub(crate) fn close_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.empty_batch(worker, batch, None, true, now).map(drop)
    }

    /// Returns jobs of a batch to the queue; with `close`, deletes the batch together with the last of them. Without it,
    /// nothing was billed for them.
    fn empty_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        after: Option<i64>,
        close: bool,
        now: Timestamp,
    ) -> Result<u64, Error> {
        let mut back = 0;
        loop {
            #[cfg(test)]
            self.next_chunk()?;
            let (ids, waits) = self.write_as(Mode::WriteOnce, |tx| {
                let (process, _) = owned(tx, worker, batch)?;
                let (ids, waits) = self.unload(tx, batch, process, after)?;
                let is_last = limit(ids.len()) < self.chunk;
                let lost = if close {
                    budgets::release(tx, batch, process, ids.len(), is_last)?
                } else {
                    0
                };
                let status = if waits { PENDING } else { CANCELLED };
                let put = "UPDATE #jobs SET status = ?, batch = NULL WHERE id IN :list";
                tx.defer(put, by![status, all(&ids)])?;
                let mut changes = CounterChanges::default();
                changes.moved_many(process, AT_PROVIDER, status, limit(ids.len()));
                changes.lost(key(process, 0), lost);
                changes.write(tx, now)?;
                if close && is_last {
                    tx.run("DELETE FROM #batches WHERE no = ?", by![batch.0])?;
                }
                Ok((ids, waits))
            })?;
            if waits && !ids.is_empty() {
                self.wake_workers();
            }
            back += ids.len() as u64;
            if limit(ids.len()) < self.chunk {
                return Ok(back);
            }
        }
    }

    /// Locks a chunk of the jobs of a batch. Returns whether they wait again. Those of a deleted process are deleted with it.
    fn unload(
        &self,
        tx: &mut dyn Sql,
        batch: BatchNo,
        process: i64,
        after: Option<i64>,
    ) -> Result<(Vec<i64>, bool), Fault> {
        let find = "SELECT id FROM #jobs FORCE INDEX (in_batch) WHERE batch = ? AND id > ?
             ORDER BY id LIMIT ? FOR UPDATE";
        let ids = tx.many(find, by![batch.0, after.unwrap_or(-1), self.chunk])?;
        Ok(match lock(tx, [process])?.get(&process) {
            Some(standing) if standing.chore != DELETING => (ids, !standing.is_cancelled),
            _ => (Vec::new(), false),
        })
    }

    /// Leaves a batch without an owner, so that another worker can take it over.
    pub(crate) fn leave_batch(&self, worker: WorkerId, batch: BatchNo) -> Result<(), Error> {
        self.write(|tx| {
            let leave = "UPDATE #batches SET worker = NULL WHERE no = ? AND worker = ?";
            tx.run(leave, by![batch.0, worker.0]).map(drop)
        })
    }

    /// The batches of a process and of its descendants, oldest first. Without a process: all batches, including those
    /// whose process no longer exists.
    pub(crate) fn batches(&self, process: Option<ProcessId>) -> Result<Vec<StoredBatch>, Error> {
        self.run(Mode::Moment, |tx| {
            let scope = scope(tx, "p.no", process.as_slice())?;
            self.select_batches(tx, &format!("WHERE 1 = 1 {scope}"))
        })
    }

    /// Assigns batches without an owner to a worker if `mine` accepts them: those of these processes, or of all
    /// processes if the list is empty, then including batches whose process no longer exists. Oldest first. The
    /// callback runs outside of the transaction; batches that another worker took in the meantime are left out.
    pub(crate) fn adopt_batches(
        &self,
        worker: WorkerId,
        mine: &mut dyn FnMut(&StoredBatch) -> bool,
        processes: &[ProcessId],
    ) -> Result<Vec<StoredBatch>, Error> {
        let mut free = self.run(Mode::Moment, |tx| {
            let scope = scope(tx, "p.no", processes)?;
            self.select_batches(tx, &format!("WHERE b.worker IS NULL {scope}"))
        })?;
        free.retain(mine);
        if free.is_empty() {
            return Ok(Vec::new());
        }
        // A batch that had no owner and now has this worker was adopted by an earlier attempt whose reply was lost.
        self.write(|tx| {
            self.check_worker(tx, worker)?;
            let mut taken = Vec::new();
            for batch in &free {
                let take = "UPDATE #batches SET worker = ? WHERE no = ? AND (worker IS NULL OR worker = ?)";
                if tx.run(take, by![worker.0, batch.no.0, worker.0])? == 1 {
                    taken.extend(self.select_batches(tx, &format!("WHERE b.no = {}", batch.no.0))?);
                }
            }
            Ok(taken)
        })
    }

    /// A batch without a process is one whose process no longer exists or is being deleted.
    fn select_batches(&self, tx: &mut dyn Sql, which: &str) -> Result<Vec<StoredBatch>, Fault> {
        let sql = format!(
            "SELECT b.no, p.id, b.lane, b.worker, NULLIF(IFNULL(p.cancelled, 9223372036854775807), 0), b.record, b.created_at,
               CASE WHEN p.no IS NULL THEN 0 ELSE (SELECT COUNT(*) FROM #jobs j WHERE j.batch = b.no) END
             FROM #batches b LEFT JOIN #processes p ON p.no = b.process AND p.chore <> {DELETING}
             {which} ORDER BY b.no"
        );
        let rows = tx.rows(&sql, by![])?.into_iter();
        let read = |mut row: Row| {
            Ok(StoredBatch {
                no: row.read()?,
                process_id: row.read()?,
                lane: self.lane(tx, row.read()?)?,
                worker: row.read()?,
                stopped_at: row.read()?,
                record: row.read()?,
                created_at: row.read()?,
                jobs: row.read()?,
            })
        };
        rows.map(read).collect()
    }
}

// The jobs that batches are formed of.

impl Store {
    /// The waiting jobs of a kind at the first step, by process and lane: first the groups with due jobs, by the highest
    /// priority among their due jobs, then the oldest; after them the groups without due jobs, by the next due time.
    /// Limited to these processes; all processes if the list is empty. Excludes cancelled jobs, and processes with a
    /// pending chore. Reads one key of every waiting job of the kind, and nothing else.
    pub(crate) fn waiting_jobs(
        &self,
        kind: &str,
        processes: &[ProcessId],
        now: Timestamp,
    ) -> Result<Vec<WaitingJobs>, Error> {
        self.run(Mode::Moment, |tx| {
            let mut which = scope(tx, PROCESS, processes)?;
            let closed: Vec<i64> = tx.many(CLOSED, by![])?;
            if closed.contains(&QUEUE) {
                return Ok(Vec::new());
            }
            which += &not_closed(tx, closed)?;
            let of_kind = "SELECT no FROM #lanes WHERE kind = ? AND step = 0";
            let lanes: Vec<i64> = tx.many(of_kind, by![kind.to_owned()])?;
            // The rank of a due job is its due time, less by many years for each priority.
            let count = format!(
                "SELECT p.id, w.lane, w.jobs, w.due, w.next_at FROM (
                   SELECT {PROCESS} AS process, lane, COUNT(*) AS jobs, SUM(visible_at <= {now}) AS due,
                     MIN(CASE WHEN visible_at > {now} THEN visible_at END) AS next_at, MIN(id) AS oldest,
                     MIN(CASE WHEN visible_at <= {now} THEN visible_at - priority * 281474976710656 END) AS best
                   FROM #jobs FORCE INDEX (to_claim)
                   WHERE status = {PENDING} AND lane IN {} {which} GROUP BY {PROCESS}, lane) w
                 JOIN #processes p ON p.no = w.process WHERE p.cancelled = 0 AND p.chore = {NO_CHORE}
                 ORDER BY w.due = 0, w.best, w.next_at, w.oldest",
                list(&lanes),
                now = now.0
            );
            let groups = tx.rows(&count, by![])?.into_iter();
            let read = |mut row: Row| {
                Ok(WaitingJobs {
                    process_id: row.read()?,
                    lane: self.lane(tx, row.read()?)?,
                    all: row.read()?,
                    due: row.read()?,
                    next: row.read()?,
                })
            };
            groups.map(read).collect()
        })
    }
}
