//! The interface between a worker and its store: claims, and how they end.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::base::brief::{Bytes, Many, Name};
use crate::base::{Charge, Error, ErrorKind, JobId, LockedFile, ProcessId, Timestamp};
use crate::queue::job::{JobReceipt, JobStatus, Spent};

use super::statements::{Fault, FromRow, Row, columns};

/// Jobs with the same lane share a quota: the kind, the job's [lane](crate::Job::lane), and the step of the route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobLane {
    /// The kind of the jobs.
    pub kind: String,
    /// The lane that the jobs named, for example a model.
    pub name: Option<String>,
    /// The current step of the route.
    pub step: u8,
}

impl JobLane {
    /// This bit of the step marks jobs that a provider refused in a batch without naming them: they are called one by
    /// one, at the step of the other bits.
    pub(crate) const CALLED: u8 = 0x80;

    /// The step of the route.
    pub(crate) fn route_step(&self) -> u8 {
        self.step & !Self::CALLED
    }

    /// The number of this lane in all stores: most bits of a hash.
    pub(super) fn number(&self) -> i64 {
        let all = serde_json::to_vec(&(&self.kind, &self.name, self.step));
        let hash = Sha256::digest(all.unwrap_or_default());
        let first = hash.first_chunk::<8>().copied().unwrap_or_default();
        i64::from_le_bytes(first) & (i64::MAX >> 1)
    }

    /// The same lane's number of a step of the route. A job that is called instead of going into a batch stays so.
    pub(crate) fn at_step(&self, step: u8) -> u8 {
        if step == self.route_step() {
            self.step
        } else {
            step
        }
    }
}

/// The number of a worker in its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub i64);

impl WorkerId {
    /// The query that finds its row and locks it until the transaction ends.
    pub(super) fn keeping(self) -> String {
        let no = self.0;
        format!("SELECT 1 FROM #workers WHERE no = {no} LOCK IN SHARE MODE")
    }

    pub(super) fn unknown(self) -> Error {
        let why = "the worker is not registered in this OS process";
        Error::new(ErrorKind::Invalid, why)
    }
}

/// A locked file, with which a worker shows other OS processes that it is alive.
pub(crate) type Sign = (LockedFile, PathBuf);

/// The registered workers at a moment.
#[derive(Default)]
pub struct Workers {
    /// Those that are alive, with the quotas that they have listed.
    pub live: Vec<(WorkerId, Vec<u64>)>,
    /// Those whose OS process has ended. They keep their jobs and batches until [`reclaim`](super::Store::reclaim).
    /// As long as the locked file of one is held, no other OS process finds it dead.
    pub(crate) dead: Vec<(DeadWorker, Option<Sign>)>,
    /// The [version](super::Store::version) of the store.
    pub version: u64,
    /// The version of its tables.
    pub schema: i64,
    /// Whether [`maintain`](super::Store::maintain) continues an interrupted chore.
    pub has_chores: bool,
}

/// A worker whose OS process has ended.
pub struct DeadWorker {
    /// Its number.
    pub no: WorkerId,
    /// The number of its OS process.
    pub pid: i64,
    /// Its machine.
    pub host: String,
}

columns!(DeadWorker: no, pid, host);

/// A worker's request for jobs.
pub struct ClaimRequest<'a> {
    /// Maximum number of calls for the jobs.
    pub most: usize,
    /// Whether the worker runs no job. Only then a job can be claimed whose worker crashed twice, and it is claimed by
    /// itself.
    pub idle: bool,
    /// Only jobs of these processes and of the processes that these jobs wait for; all processes if the list is empty.
    pub processes: &'a [ProcessId],
    /// Maximum number of jobs of a lane that can start now, 0 if the lane is closed; and how many of them one call
    /// takes, at least 1. Called once per lane within each attempt of the claim's transaction, so it must not use the store.
    pub open: &'a mut dyn FnMut(&Arc<JobLane>) -> (usize, usize),
}

/// The result of a claim.
#[derive(Default, derive_more::Debug)]
pub struct ClaimReply {
    /// The claimed jobs, in the order in which they should start.
    #[debug("{:?}", Many(jobs.len()))]
    pub jobs: Vec<ClaimedJob>,
    /// When the next job of an open lane comes due; only set if fewer jobs were claimed
    /// than requested.
    pub next: Option<Timestamp>,
}

/// A claimed job. Its `Debug` output omits the payload.
// More than 15 fields: all columns that a worker reads of a job, public for other stores.
#[derive(derive_more::Debug)]
pub struct ClaimedJob {
    /// The receipt of the claim.
    pub receipt: JobReceipt,
    /// Its id.
    pub job_id: JobId,
    /// The process it belongs to.
    pub process_id: ProcessId,
    /// The budget of this process, or of its oldest ancestor.
    pub budget: Option<JobBudget>,
    /// Kind, name and step.
    pub lane: Arc<JobLane>,
    /// The caller's name for it.
    #[debug("{:?}", item_id.as_deref().map(Name))]
    pub item_id: Option<String>,
    /// The caller's hash of the request.
    #[debug(skip)]
    pub request_hash: Option<String>,
    /// The input of its handler.
    #[debug("{:?}", Bytes(payload.get().len()))]
    pub payload: Box<RawValue>,
    /// 1 to 10.
    pub priority: u8,
    /// Its own number of retries.
    pub max_retries: Option<u8>,
    /// Failed attempts at this step, according to the last [`ClaimOutcome::Retry`].
    pub attempt: u8,
    /// Calls made for it so far, according to its last [`Settlement`].
    pub calls: u32,
    /// Number of claims that ended because the worker crashed.
    pub crashes: u8,
    /// Whether such a crash was the last event before this claim: the call may have been made.
    pub lost: bool,
    /// Whether the next call may repeat one that was processed, according to the last [`ClaimOutcome::Retry`].
    pub in_doubt: bool,
    /// When it came due.
    pub due_at: Timestamp,
    /// The history that the last [`ClaimOutcome::Retry`] stored.
    #[debug("{:?}", history.as_ref().map(|history| Bytes(history.len())))]
    pub history: Option<String>,
}

impl ClaimOutcome {
    /// The error of a final end, if the job failed; `None` if the end is not final.
    pub(crate) fn error_of_end(&self) -> Option<Option<&Error>> {
        match self {
            Self::Completed { .. } => Some(None),
            Self::Failed { error, .. } => Some(Some(error)),
            Self::Retry { .. } | Self::Snooze { .. } => None,
        }
    }
}

impl ClaimedJob {
    /// The caller's name for the job; if there is none, its id.
    pub fn name(&self) -> String {
        let own = self.item_id.clone();
        own.unwrap_or_else(|| self.job_id.to_string())
    }
}

/// The end of a claim: its receipt, and its outcome.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The receipt of the ended claim.
    pub receipt: JobReceipt,
    /// Calls made for the job so far.
    pub calls: u32,
    /// The outcome.
    pub outcome: ClaimOutcome,
    /// What the last call was billed. The store adds the tokens and the cost that the outcome reports as `spent` to what was
    /// spent on this model, see `Store::spent_since`.
    pub charge: Option<Box<Charge>>,
    /// What its last call may have cost beyond that, in picodollars, if it is unknown. It counts in the budget of the process.
    pub lost: u64,
}

impl Settlement {
    /// An end without a charge.
    pub fn new(receipt: JobReceipt, calls: u32, outcome: ClaimOutcome) -> Self {
        Self {
            receipt,
            calls,
            outcome,
            charge: None,
            lost: 0,
        }
    }
}

impl ClaimOutcome {
    /// Reported usage of its calls.
    pub(crate) fn spent(&self) -> Option<&Spent> {
        match self {
            Self::Completed { spent, .. }
            | Self::Failed { spent, .. }
            | Self::Retry { spent, .. } => spent.as_ref(),
            Self::Snooze { .. } => None,
        }
    }
}

/// The outcome of a claim; not every outcome ends the job. Its `Debug` output omits results.
#[derive(Clone, derive_more::Debug)]
pub enum ClaimOutcome {
    /// The job has its result. Accepted while the job has no outcome, whatever its claim, because the result was
    /// billed.
    Completed {
        /// The result, in JSON.
        #[debug("{:?}", Bytes(result.get().len()))]
        result: Box<RawValue>,
        /// Usage; `None` for work that is not billed.
        spent: Option<Spent>,
    },
    /// The job failed permanently.
    Failed {
        /// The reason.
        error: Error,
        /// The result line of the failure in JSON, for kinds that have one.
        #[debug("{:?}", result.as_ref().map(|result| Bytes(result.get().len())))]
        result: Option<Box<RawValue>>,
        /// Usage of its calls.
        spent: Option<Spent>,
    },
    /// The job is retried, not before `due_at`.
    Retry {
        /// Time of the retry.
        due_at: Timestamp,
        /// The step of the route at which it continues.
        step: u8,
        /// Failed attempts at that step.
        attempt: u8,
        /// Whether the next call may repeat one that was processed.
        in_doubt: bool,
        /// Usage of the failed call, if it was billed.
        spent: Option<Spent>,
        /// Returned with the next claim, in JSON of at most about 64 KiB. Errors of earlier attempts belong into its
        /// member `errors`, a list of [`AttemptError`](crate::queue::AttemptError), which
        /// [`job`](crate::queue::Store::job) returns.
        #[debug("{:?}", Bytes(history.len()))]
        history: String,
    },
    /// The job was not tried and returns to the queue, due at `due_at`.
    Snooze {
        /// New due time; `None` keeps its position.
        due_at: Option<Timestamp>,
    },
}

/// The budget that limits the calls of a job, as its claim has read it. Amounts are in picodollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobBudget {
    /// The process that has the budget.
    pub process: ProcessId,
    /// The limit.
    pub limit: u64,
    /// What is spent or lost. It never falls.
    pub used: u64,
    /// The most that open batches can cost.
    pub held: u64,
    /// The highest cost of a call of the process that a worker has recorded.
    pub most: u64,
}

// The batch interface of a store.

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
    /// When its process was cancelled, so that unanswered jobs are not sent again; the latest possible time if the process
    /// no longer exists.
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
