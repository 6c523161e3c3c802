//! Batches as rows: their owner, their record, and their division.

use std::collections::HashSet;

use crate::base::{Error, ErrorKind, ProcessId, Timestamp};
use crate::queue::store::rows::{DELETING, count, key};
use crate::queue::store::{
    BatchFill, BatchNo, BatchStore, ClaimedJob, JobLane, StoredBatch, WaitingJobs, WorkerId,
};

use super::budgets;
use super::lineage;
use super::owned::owned;
use super::provider::{READ_AT_ONCE, Wanted, empty_batch, fill, load, read_in_batch};
use super::statements::{Fault, Queries as _, Row, Statements, by, id_of, limit, list};
use super::waiting;
use super::{Again, SqlStore};

/// Adds an empty batch.
fn add(
    tx: &mut dyn Statements,
    worker: WorkerId,
    process: i64,
    lane: i64,
    record: &str,
    now: Timestamp,
) -> Result<BatchNo, Fault> {
    tx.run(
        "INSERT INTO #batches (process, lane, worker, record, created_at) VALUES (?, ?, ?, ?, ?)",
        by![process, lane, worker.0, record.to_owned(), now.0],
    )?;
    Ok(BatchNo(tx.last_id()))
}

fn set_record(tx: &mut dyn Statements, batch: BatchNo, record: &str) -> Result<(), Fault> {
    tx.run(
        "UPDATE #batches SET record = ? WHERE no = ?",
        by![record.to_owned(), batch.0],
    )?;
    Ok(())
}

impl<S: SqlStore> BatchStore for S {
    fn waiting_jobs(
        &self,
        kind: &str,
        processes: &[ProcessId],
        now: Timestamp,
    ) -> Result<Vec<WaitingJobs>, Error> {
        waiting::read_waiting(self, kind, processes, now)
    }

    fn open_batch(
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
            add(tx, worker, no, lane, record, now)
        })
    }

    /// The jobs are found without locks; only moving them is a transaction.
    fn fill_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        after: Option<i64>,
        most: usize,
        bytes: u64,
        now: Timestamp,
    ) -> Result<BatchFill, Error> {
        let wanted = Wanted { after, most, bytes };
        let load = self.read(|tx| {
            let of = owned(tx, worker, batch)?;
            load(tx, &of, &wanted, now)
        })?;
        self.write(Again::Doubtful, |tx| {
            let of = owned(tx, worker, batch)?;
            fill(tx, &of, &load, now)
        })
    }

    fn batch_jobs(
        &self,
        batch: BatchNo,
        after: Option<i64>,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<ClaimedJob>, Error> {
        let bytes = bytes as u64;
        read_in_batch(self, batch, |tx, _| {
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

    fn batch_jobs_by(&self, batch: BatchNo, numbers: &[u32]) -> Result<Vec<ClaimedJob>, Error> {
        read_in_batch(self, batch, |tx, process| {
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

    fn save_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        record: &str,
        _now: Timestamp,
    ) -> Result<(), Error> {
        self.write(Again::Harmless, |tx| {
            owned(tx, worker, batch)?;
            set_record(tx, batch, record)
        })
    }

    fn split_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        at: i64,
        new_record: &str,
        old_record: &str,
        now: Timestamp,
    ) -> Result<BatchNo, Error> {
        self.write(Again::Doubtful, |tx| {
            let old = owned(tx, worker, batch)?;
            let new = add(tx, worker, old.process, old.lane, new_record, now)?;
            let moved = tx.run(
                "UPDATE #jobs SET batch = ? WHERE batch = ? AND id < ?",
                by![new.0, batch.0, at],
            )?;
            budgets::divide(tx, batch, new, moved)?;
            set_record(tx, batch, old_record)?;
            Ok(new)
        })
    }

    fn give_back(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        after: Option<i64>,
        due: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<u64, Error> {
        empty_batch(self, worker, batch, after, due, false, now)
    }

    fn close_batch(&self, worker: WorkerId, batch: BatchNo, now: Timestamp) -> Result<(), Error> {
        empty_batch(self, worker, batch, None, None, true, now).map(drop)
    }

    fn leave_batch(&self, worker: WorkerId, batch: BatchNo) -> Result<(), Error> {
        self.write(Again::Harmless, |tx| {
            let leave = "UPDATE #batches SET worker = NULL WHERE no = ? AND worker = ?";
            tx.run(leave, by![batch.0, worker.0]).map(drop)
        })
    }

    fn batches(&self, process: Option<ProcessId>) -> Result<Vec<StoredBatch>, Error> {
        self.read_moment(|tx| {
            let scope = match process {
                Some(process) => lineage::scope(tx, &[process])?,
                None => None,
            };
            select_batches(self, tx, &of_scope(scope, "1 = 1"))
        })
    }

    /// The callback runs outside of the transaction, so the owner may have changed in the meantime.
    fn adopt_batches(
        &self,
        worker: WorkerId,
        mine: &mut dyn FnMut(&StoredBatch) -> bool,
        processes: &[ProcessId],
        _now: Timestamp,
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
    store: &impl SqlStore,
    tx: &mut dyn Statements,
    which: &str,
) -> Result<Vec<StoredBatch>, Fault> {
    let sql = format!(
        "SELECT b.no, p.id, b.lane, b.worker, IFNULL(p.cancelled, 9223372036854775807), b.record, b.created_at,
           CASE WHEN p.no IS NULL THEN 0 ELSE (SELECT COUNT(*) FROM #jobs j WHERE j.batch = b.no) END
         FROM #batches b LEFT JOIN #processes p ON p.no = b.process AND p.chore <> {DELETING}
         {which} ORDER BY b.no"
    );
    let rows = tx.rows_once(&sql)?;
    rows.into_iter()
        .map(|row| stored_batch(store, tx, row))
        .collect()
}

fn stored_batch(
    store: &impl SqlStore,
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
