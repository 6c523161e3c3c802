//! What a store knows of batches: jobs that are at a provider together.

use std::fmt;
use std::sync::Arc;

use crate::base::brief::Bytes;
use crate::base::clock::Timestamp;
use crate::base::id::{JobId, ProcessId};
use crate::queue::job::JobStatus;

use super::{JobLane, WorkerId};

/// A batch as its store knows it. Numbers rise and are never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchNo(pub i64);

/// Jobs of one process and lane that are at a provider together. It belongs to a worker, or to nobody
/// when that one has gone.
#[derive(Clone, PartialEq, Eq)]
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
    pub record: String,
    /// When it was opened.
    pub created_at: Timestamp,
}

impl fmt::Debug for StoredBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredBatch")
            .field("no", &self.no)
            .field("process_id", &self.process_id)
            .field("lane", &self.lane)
            .field("worker", &self.worker)
            .field("is_stopped", &self.is_stopped)
            .field("stopped_at", &self.stopped_at)
            .field("jobs", &self.jobs)
            .field("record", &Bytes(self.record.len()))
            .field("created_at", &self.created_at)
            .finish()
    }
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
