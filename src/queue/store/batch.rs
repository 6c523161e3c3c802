//! What a store knows of batches: jobs that are at a provider together.

use std::sync::Arc;

use crate::base::brief::Bytes;
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::id::{JobId, ProcessId};
use crate::queue::job::JobStatus;

use super::{ClaimedJob, JobLane, WorkerId};

/// Jobs that workers hand to a provider together. A part of [`JobStore`](super::JobStore).
pub trait BatchStore: Send + Sync {
    /// The jobs of a kind that wait at the first step, by process and lane, in the order of claims: those
    /// whose first due job has the highest priority first, then the oldest; behind them those of which
    /// nothing is due, soonest first. Only of these processes; of all when empty. Without those that were
    /// cancelled, or of which something decided is still being carried out. Reads a key of every job of
    /// the kind that waits, and no other.
    fn waiting_jobs(
        &self,
        kind: &str,
        processes: &[ProcessId],
        now: Timestamp,
    ) -> Result<Vec<WaitingJobs>, Error>;

    /// Begins a batch that belongs to the worker and holds nothing yet. An error for a worker that is
    /// on no list, or a process that does not exist.
    fn open_batch(
        &self,
        worker: WorkerId,
        process: ProcessId,
        lane: &JobLane,
        record: &str,
        now: Timestamp,
    ) -> Result<BatchNo, Error>;

    /// Puts due jobs of the batch's process and lane into it, by their keys from behind `after`: in one
    /// transaction, at most so many and no more than so many bytes of payload; always one into an empty
    /// batch if there is any. So nothing but a place to go on means that it is full. What is cancelled
    /// is not put into batches. Each claim's number rises.
    ///
    /// When the batch is not this worker's (any more) this fails, as do all methods that take a worker and a
    /// batch, with an error that [says so](crate::Error::with_claim_lost); after any other failure the batch is still
    /// the worker's.
    fn fill_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        after: Option<i64>,
        most: usize,
        bytes: u64,
        now: Timestamp,
    ) -> Result<BatchFill, Error>;

    /// Up to `most` jobs that are in a batch, by their keys from behind `after`, and no more than about
    /// `bytes` of payload; always one if there is any. Their receipts settle them.
    fn batch_jobs(
        &self,
        batch: BatchNo,
        after: Option<i64>,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<ClaimedJob>, Error>;

    /// Of the jobs with these [numbers](crate::queue::JobReceipt::number) those that are in a batch, in the order of the
    /// numbers.
    fn batch_jobs_by(&self, batch: BatchNo, numbers: &[u32]) -> Result<Vec<ClaimedJob>, Error>;

    /// Replaces a batch's record.
    fn save_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        record: &str,
        now: Timestamp,
    ) -> Result<(), Error>;

    /// Moves the jobs with keys below `at` to a new batch of the same process, lane and worker, and
    /// replaces the record of the old one. One transaction.
    fn split_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        at: i64,
        new_record: &str,
        old_record: &str,
        now: Timestamp,
    ) -> Result<BatchNo, Error>;

    /// Puts the jobs of a batch, those with keys above `after`, back to where they were, or not before
    /// `due`: as if they had not been tried. Those of a cancelled process are cancelled instead. In short
    /// transactions; after a failure, call it again. Returns how many.
    fn give_back(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        after: Option<i64>,
        due: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<u64, Error>;

    /// Gives back what is left in a batch, and deletes it.
    fn close_batch(&self, worker: WorkerId, batch: BatchNo, now: Timestamp) -> Result<(), Error>;

    /// The batches of a process and of those below it, or all of them and also those whose process is gone; oldest
    /// first.
    fn batches(&self, process: Option<ProcessId>) -> Result<Vec<StoredBatch>, Error>;

    /// Gives a worker those batches that nobody has and that are its: of these processes, or of all when
    /// empty, and then also those whose process is gone. Oldest first. Nobody is asked within a
    /// transaction; what another one has taken meanwhile is left out.
    fn adopt_batches(
        &self,
        worker: WorkerId,
        mine: &mut dyn FnMut(&StoredBatch) -> bool,
        processes: &[ProcessId],
        now: Timestamp,
    ) -> Result<Vec<StoredBatch>, Error>;
}

/// A batch as its store knows it. Numbers rise and are never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchNo(pub i64);

/// Jobs of one process and lane that are at a provider together. It belongs to a worker, or to nobody
/// when that one has gone.
#[derive(Clone, PartialEq, Eq, derive_more::Debug)]
pub struct StoredBatch {
    /// Its number.
    pub no: BatchNo,
    /// The process whose jobs it holds; `None` once that was deleted, or all its results were consumed.
    pub process_id: Option<ProcessId>,
    /// What its jobs have in common.
    pub lane: Arc<JobLane>,
    /// Whose it is. Lasts as long as the worker's process.
    pub worker: Option<WorkerId>,
    /// Its process was cancelled, or is gone: what comes back is not sent again.
    pub is_stopped: bool,
    /// When it was cancelled last, if it was. Of a process that is gone, later than anything.
    pub stopped_at: Option<Timestamp>,
    /// Jobs that are still in it.
    pub jobs: u64,
    /// What its owner wrote down last. No store looks into it.
    #[debug("{:?}", Bytes(record.len()))]
    pub record: String,
    /// When it was opened.
    pub created_at: Timestamp,
}

/// Jobs of one process and lane that wait at the first step of their route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingJobs {
    /// Their process.
    pub process_id: ProcessId,
    /// Their lane.
    pub lane: Arc<JobLane>,
    /// How many are due.
    pub due: u64,
    /// When the next of the others comes due.
    pub next: Option<Timestamp>,
}

/// What was put into a batch at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchFill {
    /// Jobs.
    pub jobs: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Where to go on; `None` when nothing due is left.
    pub next: Option<i64>,
}

/// A job as far as it takes to recognise it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSummary {
    /// Its id.
    pub job_id: JobId,
    /// The caller's name for it.
    pub item_id: Option<String>,
    /// The caller's fingerprint of it.
    pub request_hash: Option<String>,
    /// Where it stands.
    pub status: JobStatus,
    /// It is in a batch.
    pub at_provider: bool,
}
