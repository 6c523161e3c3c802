//! The batch interface of a store.

use std::sync::Arc;

use crate::base::brief::Bytes;
use crate::base::{Error, JobId, ProcessId, Timestamp};
use crate::queue::job::JobStatus;

use super::{ClaimedJob, JobLane, WorkerId};

/// Batches of jobs that workers submit to a provider. A part of [`JobStore`](super::JobStore).
pub trait BatchStore: Send + Sync {
    /// The waiting jobs of a kind at the first step, by process and lane, in the order of claims: first the groups with
    /// due jobs, by the highest priority among their first due jobs, then the oldest; after them the groups without due
    /// jobs, by the next due time. Limited to these processes; all processes if the list is empty. Excludes cancelled
    /// jobs, and processes with a pending chore. Reads one key of every waiting job of the kind, and nothing else.
    /// the kind that waits, and no other.
    fn waiting_jobs(
        &self,
        kind: &str,
        processes: &[ProcessId],
        now: Timestamp,
    ) -> Result<Vec<WaitingJobs>, Error>;

    /// Creates an empty batch that belongs to the worker. Fails if the worker is not registered or the process does not
    /// exist.
    fn open_batch(
        &self,
        worker: WorkerId,
        process: ProcessId,
        lane: &JobLane,
        record: &str,
        now: Timestamp,
    ) -> Result<BatchNo, Error>;

    /// Moves due jobs of the batch's process and lane into it, by ascending key after `after`, in one transaction: at
    /// most this number of jobs and this number of payload bytes, but at least one job if the batch is empty and a job
    /// is due. So the batch is full if and only if a position to continue from is returned. Cancelled jobs are not
    /// moved. The number of each claim increases.
    ///
    /// If the batch does not belong to this worker (any more), this fails with an error [that says
    /// so](crate::Error::with_claim_lost), like all methods with a worker and a batch. After any other failure the
    /// batch still belongs to the worker.
    fn fill_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        after: Option<i64>,
        most: usize,
        bytes: u64,
        now: Timestamp,
    ) -> Result<BatchFill, Error>;

    /// Up to `most` jobs of a batch, by ascending key after `after`, with about `bytes` bytes of payload at most; at
    /// least one if there is any. Their receipts settle them.
    fn batch_jobs(
        &self,
        batch: BatchNo,
        after: Option<i64>,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<ClaimedJob>, Error>;

    /// The jobs with these [numbers](crate::queue::JobReceipt::number) that are in a batch, in the order of the
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

    /// Moves the jobs with keys below `at` to a new batch of the same process, lane and worker, and replaces the record
    /// of the old batch, in one transaction.
    fn split_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        at: i64,
        new_record: &str,
        old_record: &str,
        now: Timestamp,
    ) -> Result<BatchNo, Error>;

    /// Returns the jobs of a batch with keys above `after` to the queue as untried, due at `due` or at their earlier
    /// due time. Jobs of a cancelled process are cancelled instead. Uses short transactions; after a failure, call it
    /// again. Returns the number of jobs.
    fn give_back(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        after: Option<i64>,
        due: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<u64, Error>;

    /// Returns the remaining jobs of a batch to the queue, and deletes the batch. Their part of what it
    /// [holds](super::BudgetStore::hold_batch) counts as spent; the rest is released.
    fn close_batch(&self, worker: WorkerId, batch: BatchNo, now: Timestamp) -> Result<(), Error>;

    /// Leaves a batch without an owner, so that another worker can take it over.
    fn leave_batch(&self, worker: WorkerId, batch: BatchNo) -> Result<(), Error>;

    /// The batches of a process and of its descendants, oldest first. Without a process: all batches, including those
    /// whose process no longer exists.
    fn batches(&self, process: Option<ProcessId>) -> Result<Vec<StoredBatch>, Error>;

    /// Assigns batches without an owner to a worker if `mine` accepts them: those of these processes, or of all
    /// processes if the list is empty, then including batches whose process no longer exists. Oldest first. The
    /// callback runs outside of the transaction; batches that another worker took in the meantime are left out.
    fn adopt_batches(
        &self,
        worker: WorkerId,
        mine: &mut dyn FnMut(&StoredBatch) -> bool,
        processes: &[ProcessId],
        now: Timestamp,
    ) -> Result<Vec<StoredBatch>, Error>;
}

/// The number of a batch. Numbers increase and are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchNo(pub i64);

/// Jobs of one process and lane that are at a provider together. A batch belongs to a worker, or has no owner after
/// that worker has ended.
#[derive(Clone, PartialEq, Eq, derive_more::Debug)]
pub struct StoredBatch {
    /// Its number.
    pub no: BatchNo,
    /// The process of its jobs; `None` once the process was deleted, or all its results were consumed.
    pub process_id: Option<ProcessId>,
    /// The lane of its jobs.
    pub lane: Arc<JobLane>,
    /// Its owner, until the worker's OS process ends.
    pub worker: Option<WorkerId>,
    /// Whether its process was cancelled or no longer exists: unanswered jobs are not sent again.
    pub is_stopped: bool,
    /// When it was last cancelled, if ever; the latest possible time if its process no longer exists.
    pub stopped_at: Option<Timestamp>,
    /// Number of jobs that are still in it.
    pub jobs: u64,
    /// The record that its owner last saved. Stores do not read it.
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
    /// Number of its jobs.
    pub all: u64,
    /// Number of due jobs.
    pub due: u64,
    /// When the next of the other jobs is due.
    pub next: Option<Timestamp>,
}

/// The result of filling a batch once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchFill {
    /// Number of jobs.
    pub jobs: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Position to continue from; `None` if no due job is left.
    pub next: Option<i64>,
}

/// The parts of a job that identify it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSummary {
    /// Its id.
    pub job_id: JobId,
    /// The caller's name for it.
    pub item_id: Option<String>,
    /// The caller's hash of the request.
    pub request_hash: Option<String>,
    /// Its state.
    pub status: JobStatus,
    /// Whether it is in a batch.
    pub at_provider: bool,
}
