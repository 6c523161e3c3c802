//! The interface for consuming results, and for cancelling, requeueing and deleting jobs.

use std::fs;
use std::path::PathBuf;

use crate::base::{Error, JobId, LockedFile, ProcessId, Timestamp};
use crate::queue::job::{JobReceipt, JobResult};

/// An outcome that was read, with the receipt that acknowledges it once it is saved.
#[derive(Debug)]
pub struct DeliveredResult {
    /// The receipt.
    pub receipt: JobReceipt,
    /// The outcome.
    pub result: JobResult,
}

/// While it is held, no other program on this machine consumes the outcomes of a process.
pub struct ConsumerLock {
    _file: LockedFile,
    path: PathBuf,
}

impl ConsumerLock {
    /// The lock on the file at this path.
    pub(super) fn new(file: LockedFile, path: PathBuf) -> Self {
        Self { _file: file, path }
    }
}

impl Drop for ConsumerLock {
    fn drop(&mut self) {
        // Removed while it is locked: no other program has begun to use it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Consumes outcomes, and cancels, requeues or deletes jobs. A part of [`JobStore`](super::JobStore).
pub trait ResultStore: Send + Sync {
    /// Up to `most` outcomes of a process in the order of its jobs, after the job `after`, which need not exist any
    /// more, with about `bytes` bytes at most; at least one if there is any.
    fn peek(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<DeliveredResult>, Error>;

    /// Deletes these outcomes, except of jobs that were requeued since. A sealed process is removed with its last
    /// outcome. Returns the number of deleted outcomes.
    fn ack(&self, receipts: &[JobReceipt], now: Timestamp) -> Result<u64, Error>;

    /// Makes the caller the only consumer of the outcomes of a process on this machine, until the returned value is
    /// dropped or the caller's OS process ends. If another program has the lock, fails with an error that names it; `who`
    /// is the description of this program in that error, after the number of its OS process. `None` in a store that
    /// machines share.
    fn lock_results(&self, process: ProcessId, who: &str) -> Result<Option<ConsumerLock>, Error>;

    /// Cancels the waiting jobs. Running jobs, and jobs at a provider, finish without retries, and no job can be added.
    /// Returns the number of waiting jobs. The decision is one transaction, and short transactions apply it; the same
    /// applies to [`retry_failed`](Self::retry_failed) and [`delete`](Self::delete). The three methods also
    /// succeed if the process does not exist.
    fn cancel(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error>;

    /// Cancels the jobs of this list that wait, in short transactions. Returns their number.
    fn cancel_jobs(&self, jobs: &[JobId], now: Timestamp) -> Result<u64, Error>;

    /// Requeues failed and cancelled jobs with their full number of retries, at the first step of the route and without
    /// a history. Returns their number.
    fn retry_failed(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error>;

    /// Requeues a failed or cancelled job like [`retry_failed`](Self::retry_failed), unless its process was cancelled.
    /// Its child jobs are requeued too. Returns whether it was requeued.
    fn retry_job(&self, job: JobId, now: Timestamp) -> Result<bool, Error>;

    /// Pauses or resumes the queue: while it is paused, claims and
    /// [`waiting_jobs`](super::BatchStore::waiting_jobs) return nothing.
    fn set_paused(&self, paused: bool) -> Result<(), Error>;

    /// Whether the queue is paused.
    fn is_paused(&self) -> Result<bool, Error>;

    /// Deletes a process with its jobs and results; later ends of its jobs are ignored. Returns the number of deleted
    /// jobs.
    fn delete(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error>;
}
