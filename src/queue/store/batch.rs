//! The batch interface of a store.

use std::sync::Arc;

use crate::base::brief::Bytes;
use crate::base::{JobId, ProcessId, Timestamp};
use crate::queue::job::JobStatus;

use super::{JobLane, WorkerId};

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
