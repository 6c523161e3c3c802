//! Batches as rows: whose they are, what their owner wrote down, and how they are divided.

use const_format::formatcp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::base::clock::Timestamp;
use crate::base::error::{Error, ErrorKind};
use crate::base::id::ProcessId;
use crate::queue::store::{
    BatchFill, BatchNo, BatchStore, ClaimedJob, JobLane, StoredBatch, WaitingJobs, WorkerId,
};

use super::SqliteStore;
use super::claim::known;
use super::lineage;
use super::rows::{DELETING, count, id_of, lane_no, process_no};
use super::writer::{Fault, Sync};

/// A batch without its process is one whose process is gone, or is being deleted.
const BATCH: &str =
    formatcp!("SELECT b.no, p.id, b.lane, b.worker, ifnull(p.cancelled, 9223372036854775807), b.record, b.created_at,
       iif(p.no IS NULL, 0, (SELECT count(*) FROM jobs WHERE batch = b.no))
     FROM batches b LEFT JOIN processes p ON p.no = b.process AND p.chore <> {DELETING}");

/// Those of the processes in a [scope](lineage::scope).
const OF_SCOPE: &str = "WHERE p.no IN (SELECT value FROM json_each(?1)) ORDER BY b.no";

/// What a batch tells its owner.
pub(super) struct Owned {
    pub process: i64,
    pub lane: i64,
    /// Whether its process was cancelled; `None` when that is gone.
    pub cancelled: Option<bool>,
}

/// A batch of this worker.
pub(super) fn owned(conn: &Connection, worker: WorkerId, batch: BatchNo) -> Result<Owned, Fault> {
    let mut find = conn.prepare_cached(formatcp!(
        "SELECT b.process, b.lane, p.cancelled
         FROM batches b LEFT JOIN processes p ON p.no = b.process AND p.chore <> {DELETING}
         WHERE b.no = ?1 AND b.worker = ?2"
    ))?;
    let found = find.query_row([batch.0, worker.0], |row| {
        Ok(Owned {
            process: row.get(0)?,
            lane: row.get(1)?,
            cancelled: row.get(2)?,
        })
    });
    found.optional()?.ok_or_else(|| {
        let why = format!(
            "batch {} is not this worker's: it was closed, or others took the worker for dead",
            batch.0
        );
        Error::new(ErrorKind::Invalid, why).with_claim_lost().into()
    })
}

/// Adds a batch that holds nothing yet.
fn add(
    conn: &Connection,
    (process, lane): (i64, i64),
    worker: WorkerId,
    record: &str,
    now: Timestamp,
) -> Result<BatchNo, Fault> {
    conn.prepare_cached(
        "INSERT INTO batches (process, lane, worker, record, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![process, lane, worker.0, record, now.0])?;
    Ok(BatchNo(conn.last_insert_rowid()))
}

fn set_record(conn: &Connection, batch: BatchNo, record: &str) -> Result<(), Fault> {
    conn.prepare_cached("UPDATE batches SET record = ?2 WHERE no = ?1")?
        .execute(params![batch.0, record])?;
    Ok(())
}

impl SqliteStore {
    pub(super) fn add_batch(
        &self,
        worker: WorkerId,
        process: ProcessId,
        lane: &JobLane,
        record: &str,
        now: Timestamp,
    ) -> Result<BatchNo, Error> {
        self.write(Sync::AsSet, |conn| {
            known(conn, worker)?;
            let Some(no) = process_no(conn, process)? else {
                let why = format!("the process {process} of the batch does not exist");
                return Err(Error::new(ErrorKind::Invalid, why).into());
            };
            let lane = lane_no(conn, &lane.kind, lane.name.as_deref(), lane.step)?;
            add(conn, (no, lane), worker, record, now)
        })
    }

    pub(super) fn write_record(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        record: &str,
    ) -> Result<(), Error> {
        self.write(Sync::AsSet, |conn| {
            owned(conn, worker, batch)?;
            set_record(conn, batch, record)
        })
    }

    pub(super) fn read_batches(
        &self,
        process: Option<ProcessId>,
    ) -> Result<Vec<StoredBatch>, Error> {
        self.read(|conn| {
            let Some(process) = process else {
                return self.select(conn, "ORDER BY b.no", []);
            };
            let scope = lineage::scope(conn, &[process])?;
            self.select(conn, OF_SCOPE, [scope])
        })
    }

    /// Nobody is asked within the transaction, so what is taken may have changed hands since.
    pub(super) fn take_over(
        &self,
        worker: WorkerId,
        mine: &mut dyn FnMut(&StoredBatch) -> bool,
        processes: &[ProcessId],
    ) -> Result<Vec<StoredBatch>, Error> {
        let mut free = self.read(|conn| match lineage::scope(conn, processes)? {
            Some(scope) => self.select(conn, OF_SCOPE, [scope]),
            None => self.select(conn, "WHERE b.worker IS NULL ORDER BY b.no", []),
        })?;
        free.retain(|batch| batch.worker.is_none() && mine(batch));
        if free.is_empty() {
            return Ok(Vec::new());
        }
        self.write(Sync::AsSet, |conn| {
            known(conn, worker)?;
            let mut take = conn.prepare_cached(
                "UPDATE batches SET worker = ?2 WHERE no = ?1 AND worker IS NULL",
            )?;
            let mut taken = Vec::new();
            for batch in &free {
                if take.execute([batch.no.0, worker.0])? == 1 {
                    taken.extend(self.select(conn, "WHERE b.no = ?1", [batch.no.0])?);
                }
            }
            Ok(taken)
        })
    }

    pub(super) fn divide_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        at: i64,
        (new_record, old_record): (&str, &str),
        now: Timestamp,
    ) -> Result<BatchNo, Error> {
        self.write(Sync::AsSet, |conn| {
            let old = owned(conn, worker, batch)?;
            let new = add(conn, (old.process, old.lane), worker, new_record, now)?;
            conn.prepare_cached("UPDATE jobs SET batch = ?2 WHERE batch = ?1 AND id < ?3")?
                .execute([batch.0, new.0, at])?;
            set_record(conn, batch, old_record)?;
            Ok(new)
        })
    }

    fn select(
        &self,
        conn: &Connection,
        which: &str,
        by: impl rusqlite::Params,
    ) -> Result<Vec<StoredBatch>, Fault> {
        let mut read = conn.prepare_cached(&format!("{BATCH} {which}"))?;
        let mut rows = read.query(by)?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            all.push(self.batch(conn, row)?);
        }
        Ok(all)
    }

    fn batch(&self, conn: &Connection, row: &Row<'_>) -> Result<StoredBatch, Fault> {
        let process: Option<Vec<u8>> = row.get(1)?;
        let stopped_at: i64 = row.get(4)?;
        Ok(StoredBatch {
            no: BatchNo(row.get(0)?),
            process_id: process.map(|id| id_of(&id)).transpose()?,
            lane: self.lane(conn, row.get(2)?)?,
            worker: row.get::<_, Option<i64>>(3)?.map(WorkerId),
            is_stopped: stopped_at != 0,
            stopped_at: (stopped_at != 0).then_some(Timestamp(stopped_at)),
            record: row.get(5)?,
            created_at: Timestamp(row.get(6)?),
            jobs: count(row.get(7)?),
        })
    }
}

impl BatchStore for SqliteStore {
    fn waiting_jobs(
        &self,
        kind: &str,
        processes: &[ProcessId],
        now: Timestamp,
    ) -> Result<Vec<WaitingJobs>, Error> {
        self.read_waiting(kind, processes, now)
    }

    fn open_batch(
        &self,
        worker: WorkerId,
        process: ProcessId,
        lane: &JobLane,
        record: &str,
        now: Timestamp,
    ) -> Result<BatchNo, Error> {
        self.add_batch(worker, process, lane, record, now)
    }

    fn fill_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        after: Option<i64>,
        most: usize,
        bytes: u64,
        now: Timestamp,
    ) -> Result<BatchFill, Error> {
        self.load_batch(worker, batch, after, (most, bytes), now)
    }

    fn batch_jobs(
        &self,
        batch: BatchNo,
        after: Option<i64>,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<ClaimedJob>, Error> {
        self.read_batch_jobs(batch, after, most, bytes)
    }

    fn batch_jobs_by(&self, batch: BatchNo, numbers: &[u32]) -> Result<Vec<ClaimedJob>, Error> {
        self.find_batch_jobs(batch, numbers)
    }

    fn save_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        record: &str,
        _now: Timestamp,
    ) -> Result<(), Error> {
        self.write_record(worker, batch, record)
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
        self.divide_batch(worker, batch, at, (new_record, old_record), now)
    }

    fn give_back(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        after: Option<i64>,
        due: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<u64, Error> {
        self.empty_batch(worker, batch, after, due, false, now)
    }

    fn close_batch(&self, worker: WorkerId, batch: BatchNo, now: Timestamp) -> Result<(), Error> {
        self.empty_batch(worker, batch, None, None, true, now)
            .map(drop)
    }

    fn batches(&self, process: Option<ProcessId>) -> Result<Vec<StoredBatch>, Error> {
        self.read_batches(process)
    }

    fn adopt_batches(
        &self,
        worker: WorkerId,
        mine: &mut dyn FnMut(&StoredBatch) -> bool,
        processes: &[ProcessId],
        _now: Timestamp,
    ) -> Result<Vec<StoredBatch>, Error> {
        self.take_over(worker, mine, processes)
    }
}
