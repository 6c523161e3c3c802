//! Batches as rows: their owner, their record, and their division.

use std::collections::HashSet;

use crate::base::{Error, ErrorKind, ProcessId, Timestamp};
use crate::queue::store::rows::{DELETING, count, key};
use crate::queue::store::{BatchFill, BatchNo, ClaimedJob, JobLane, Store, StoredBatch, WorkerId};

use super::owned::owned;
use super::provider::{empty_batch, fill, load, read_in_batch};
use super::statements::{Fault, Queries as _, Row, Statements, by, id_of, limit, list};
use super::{Again, lineage};

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
        self.make_lane(lane)?;
        self.write(Again::Doubtful, |tx| {
            self.check_worker(tx, worker)?;
            let Some(no) = tx.process_no(process)? else {
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
    /// so](crate::Error::with_claim_lost), like all methods with a worker and a batch. After any other failure the
    /// batch still belongs to the worker.
    ///
    /// The jobs are found without locks; only moving them is a transaction.
    pub(crate) fn fill_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        after: Option<i64>,
        most: usize,
        bytes: u64,
        now: Timestamp,
    ) -> Result<BatchFill, Error> {
        let load = self.read(|tx| {
            let of = owned(tx, worker, batch)?;
            load(tx, &of, after, most, bytes, now)
        })?;
        self.write(Again::Doubtful, |tx| {
            let of = owned(tx, worker, batch)?;
            fill(tx, &of, &load, now)
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
        let bytes = bytes as u64;
        read_in_batch(self, batch, |tx, _| {
            let (mut ids, mut size) = (Vec::new(), 0_u64);
            let rows = tx.rows(
                "SELECT j.id, OCTET_LENGTH(p.body) FROM #jobs j FORCE INDEX (in_batch) CROSS JOIN #payloads p ON p.job = j.id
                 WHERE j.batch = ? AND j.id > ? ORDER BY j.id LIMIT ?",
                by![batch.0, after.unwrap_or(-1), limit(most)],
            )?;
            for mut row in rows {
                size = size.saturating_add(count(row.at(1)?));
                if size > bytes && !ids.is_empty() {
                    break;
                }
                ids.push(row.at(0)?);
            }
            Ok(ids)
        })
    }

    /// The jobs with these [numbers](crate::queue::JobReceipt::number) that are in a batch, in the order of the
    /// numbers.
    pub(crate) fn batch_jobs_by(
        &self,
        batch: BatchNo,
        numbers: &[u32],
    ) -> Result<Vec<ClaimedJob>, Error> {
        read_in_batch(self, batch, |tx, process| {
            let wanted: Vec<i64> = numbers
                .iter()
                .map(|number| key(process, i64::from(*number)))
                .collect();
            let sql = format!(
                "SELECT id FROM #jobs FORCE INDEX (PRIMARY) WHERE id IN :list AND batch = {}",
                batch.0
            );
            let found: HashSet<i64> = tx.column_in(&sql, &wanted)?.into_iter().collect();
            Ok(wanted.into_iter().filter(|id| found.contains(id)).collect())
        })
    }

    /// Replaces a batch's record.
    pub(crate) fn save_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        record: &str,
    ) -> Result<(), Error> {
        self.write(Again::Harmless, |tx| {
            owned(tx, worker, batch)?;
            let set = "UPDATE #batches SET record = ? WHERE no = ?";
            tx.run(set, by![record.to_owned(), batch.0]).map(drop)
        })
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
        empty_batch(self, worker, batch, after, false, now)
    }

    /// Returns the remaining jobs of a batch to the queue, and deletes the batch. Their part of what it
    /// [holds](super::Store::hold_batch) counts as spent; the rest is released.
    pub(crate) fn close_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        now: Timestamp,
    ) -> Result<(), Error> {
        empty_batch(self, worker, batch, None, true, now).map(drop)
    }

    /// Leaves a batch without an owner, so that another worker can take it over.
    pub(crate) fn leave_batch(&self, worker: WorkerId, batch: BatchNo) -> Result<(), Error> {
        self.write(Again::Harmless, |tx| {
            let leave = "UPDATE #batches SET worker = NULL WHERE no = ? AND worker = ?";
            tx.run(leave, by![batch.0, worker.0]).map(drop)
        })
    }

    /// The batches of a process and of its descendants, oldest first. Without a process: all batches, including those
    /// whose process no longer exists.
    pub(crate) fn batches(&self, process: Option<ProcessId>) -> Result<Vec<StoredBatch>, Error> {
        self.read_moment(|tx| {
            let scope = match process {
                Some(process) => lineage::scope(tx, &[process])?,
                None => None,
            };
            select_batches(self, tx, &of_scope(scope, "1 = 1"))
        })
    }

    /// Assigns batches without an owner to a worker if `mine` accepts them: those of these processes, or of all
    /// processes if the list is empty, then including batches whose process no longer exists. Oldest first. The
    /// callback runs outside of the transaction; batches that another worker took in the meantime are left out.
    ///
    /// The callback runs outside of the transaction, so the owner may have changed in the meantime.
    pub(crate) fn adopt_batches(
        &self,
        worker: WorkerId,
        mine: &mut dyn FnMut(&StoredBatch) -> bool,
        processes: &[ProcessId],
    ) -> Result<Vec<StoredBatch>, Error> {
        let mut free = self.read_moment(|tx| {
            let scope = lineage::scope(tx, processes)?;
            select_batches(self, tx, &of_scope(scope, "b.worker IS NULL"))
        })?;
        free.retain(|batch| batch.worker.is_none() && mine(batch));
        if free.is_empty() {
            return Ok(Vec::new());
        }
        // A batch that had no owner and now has this worker was adopted by an earlier attempt whose reply was lost.
        self.write(Again::Harmless, |tx| {
            self.check_worker(tx, worker)?;
            let mut taken = Vec::new();
            for batch in &free {
                let take = "UPDATE #batches SET worker = ? WHERE no = ? AND (worker IS NULL OR worker = ?)";
                if tx.run(take, by![worker.0, batch.no.0, worker.0])? == 1 {
                    taken.extend(select_batches(self, tx, &format!("WHERE b.no = {}", batch.no.0))?);
                }
            }
            Ok(taken)
        })
    }
}

/// Batches of the processes in a scope, or those among all batches for which a condition holds.
fn of_scope(scope: Option<Vec<i64>>, of_all: &str) -> String {
    match scope {
        Some(scope) => format!("WHERE p.no IN {}", list(scope)),
        None => format!("WHERE {of_all}"),
    }
}

/// A batch without a process is one whose process no longer exists or is being deleted.
fn select_batches(
    store: &Store,
    tx: &mut dyn Statements,
    which: &str,
) -> Result<Vec<StoredBatch>, Fault> {
    let sql = format!(
        "SELECT b.no, p.id, b.lane, b.worker, IFNULL(p.cancelled, 9223372036854775807), b.record, b.created_at,
           CASE WHEN p.no IS NULL THEN 0 ELSE (SELECT COUNT(*) FROM #jobs j WHERE j.batch = b.no) END
         FROM #batches b LEFT JOIN #processes p ON p.no = b.process AND p.chore <> {DELETING}
         {which} ORDER BY b.no"
    );
    let rows = tx.rows(&sql, Vec::new())?;
    rows.into_iter()
        .map(|row| stored_batch(store, tx, row))
        .collect()
}

fn stored_batch(
    store: &Store,
    tx: &mut dyn Statements,
    mut row: Row,
) -> Result<StoredBatch, Fault> {
    let process: Option<Vec<u8>> = row.at(1)?;
    let stopped_at: i64 = row.at(4)?;
    Ok(StoredBatch {
        no: BatchNo(row.at(0)?),
        process_id: process.map(|id| id_of(&id)).transpose()?,
        lane: store.lane(tx, row.at(2)?)?,
        worker: row.at::<Option<i64>>(3)?.map(WorkerId),
        is_stopped: stopped_at != 0,
        stopped_at: (stopped_at != 0).then_some(Timestamp(stopped_at)),
        record: row.at(5)?,
        created_at: Timestamp(row.at(6)?),
        jobs: count(row.at(7)?),
    })
}
