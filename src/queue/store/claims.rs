//! What a worker and its store say to each other: which jobs it may have, which it has, what came of them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::base::brief::{Bytes, Many, Name};
use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::id::{JobId, ProcessId};
use crate::engine::time_split::TimeSplit;
use crate::queue::job::{JobReceipt, ProcessState, Spent};

use super::worker_info::{WorkerInfo, WorkerStatus};

/// Workers and their claims. A part of [`JobStore`](super::JobStore).
pub trait ClaimStore: Send + Sync {
    /// Registers a worker: its claims and batches last until it is
    /// [unregistered](Self::unregister_worker) or its process ends.
    fn register_worker(&self, now: Timestamp) -> Result<WorkerId, Error>;

    /// Takes a worker off the list. What it still had goes back as if it had never been claimed; its
    /// batches, with the jobs in them, are nobody's from now on.
    fn unregister_worker(&self, worker: WorkerId, now: Timestamp) -> Result<(), Error>;

    /// Gives a worker jobs that are due: highest priority first, oldest first within one, in the order of
    /// their keys where they came due together. Of each eight jobs that a worker is given, one is the oldest
    /// due of any priority. A job lost [twice](super::SUSPECT_CRASHES) is given alone, and while one is next, nothing
    /// is given behind it. An error for a worker that is on no list.
    fn claim(
        &self,
        worker: WorkerId,
        wanted: ClaimRequest<'_>,
        now: Timestamp,
    ) -> Result<ClaimReply, Error>;

    /// Records ends of jobs that run or are in a batch, all in one transaction. A success counts while its
    /// job has not ended; any other end only if its claim is the last one. An end that does not count is no
    /// error. Returns the processes that changed, as they are now.
    fn settle(&self, ends: &[Settlement], now: Timestamp) -> Result<Vec<ProcessState>, Error>;

    /// Keeps what a worker reports about itself. Nothing depends on it: a store may write it later, and forgets it with
    /// the worker. Does nothing for a worker that is not on the list.
    fn report_worker(&self, worker: WorkerId, status: &WorkerStatus) -> Result<(), Error>;

    /// All workers on the list, oldest first, with what they hold and their last report.
    fn workers(&self) -> Result<Vec<WorkerInfo>, Error>;

    /// The workers on the list whose process has died. What they had is theirs until it is
    /// [given back](Self::reclaim).
    fn dead_workers(&self) -> Result<Vec<WorkerId>, Error>;

    /// Gives back what workers had whose process has died; their batches, with the jobs in them, are
    /// nobody's from now on. A job that was lost for the
    /// [fifth](super::MAX_CRASHES) time fails as [`ErrorKind::Crashed`](crate::ErrorKind::Crashed) instead.
    /// Returns how many jobs were affected.
    fn reclaim(&self, now: Timestamp) -> Result<u64, Error>;

    /// Pulls due times nearer that lie ahead because the clock was set back, by `back` while this worker
    /// watched. What was never put off, and has been enqueued at a time that is still to come, is due now.
    /// What was put off comes due `back` sooner, and after `longest` at the latest; a prompt that would come due later
    /// than that, and what was enqueued and put off at times that are still to come while nobody watched, is due now. Of all workers on the
    /// list the oldest alone takes `back` into account: once is enough. Returns how many were changed.
    fn pull_due_times(
        &self,
        worker: WorkerId,
        back: Duration,
        longest: Duration,
        now: Timestamp,
    ) -> Result<u64, Error>;
}

/// What shares a quota: the kind, the job's [lane](crate::Job::lane), and the step of the route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobLane {
    /// The jobs' kind.
    pub kind: String,
    /// What the jobs named, such as a model.
    pub name: Option<String>,
    /// The step of the route they have come to.
    pub step: u8,
}

/// A worker as its store knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub i64);

/// What a worker asks for.
pub struct ClaimRequest<'a> {
    /// The most jobs.
    pub most: usize,
    /// The worker runs nothing: only then may it be given a job that was lost by two workers
    /// already, and it is given that job alone.
    pub idle: bool,
    /// Only jobs of these processes, and of those that their jobs wait for; of all when empty.
    pub processes: &'a [ProcessId],
    /// Those that [wait for others](ClaimOutcome::Wait) may be given too, so that they look again.
    pub look_again: bool,
    /// The most jobs that could be started of a lane now; 0 when it is closed. Asked once a lane for
    /// each claim, within its transaction: it must not ask the store.
    pub open: &'a mut dyn FnMut(&Arc<JobLane>) -> usize,
}

/// What a worker was given.
#[derive(Default, derive_more::Debug)]
pub struct ClaimReply {
    /// Jobs, in the order in which they are to be started.
    #[debug("{:?}", Many(jobs.len()))]
    pub jobs: Vec<ClaimedJob>,
    /// When the next job of an open lane comes due, or one that waits for others looks again; only told when there
    /// were fewer than wanted.
    pub next: Option<Timestamp>,
    /// True when more jobs wait than those given out, in any lane, due or not.
    pub more: bool,
}

/// A job that a worker was given. Its `Debug` shows nothing of the payload.
// More than 15 fields: all columns that a worker reads of a job, public for other stores.
#[derive(derive_more::Debug)]
pub struct ClaimedJob {
    /// The claim on it.
    pub receipt: JobReceipt,
    /// Its id.
    pub job_id: JobId,
    /// The process it belongs to.
    pub process_id: ProcessId,
    /// Kind, name and step.
    pub lane: Arc<JobLane>,
    /// The caller's name for it.
    #[debug("{:?}", item_id.as_deref().map(Name))]
    pub item_id: Option<String>,
    /// The caller's fingerprint of it.
    #[debug(skip)]
    pub request_hash: Option<String>,
    /// What its handler is to work on.
    #[debug("{:?}", Bytes(payload.get().len()))]
    pub payload: Box<RawValue>,
    /// 1 to 10.
    pub priority: u8,
    /// Its own number of retries.
    pub max_retries: Option<u8>,
    /// Failed attempts at this step, as the last [`ClaimOutcome::Retry`] told.
    pub attempt: u8,
    /// Calls made for it so far, as its last [`Settlement`] told.
    pub calls: u32,
    /// Claims that ended with their worker's death.
    pub crashes: u8,
    /// A claim ended so since it was last tried to an end: the call may have been made.
    pub lost: bool,
    /// The next call may repeat one that was carried out, as the last [`ClaimOutcome::Retry`] told.
    pub in_doubt: bool,
    /// When it came due.
    pub due_at: Timestamp,
    /// What the last [`ClaimOutcome::Retry`] left.
    #[debug("{:?}", history.as_ref().map(|history| Bytes(history.len())))]
    pub history: Option<String>,
}

impl ClaimOutcome {
    /// Of an end for good: why the job failed, if it did.
    pub(crate) fn error_of_end(&self) -> Option<Option<&Error>> {
        match self {
            Self::Completed { .. } => Some(None),
            Self::Failed { error, .. } => Some(Some(error)),
            Self::Retry { .. } | Self::Snooze { .. } | Self::Wait { .. } => None,
        }
    }
}

impl ClaimedJob {
    /// The caller's name for the job, else its id.
    pub fn name(&self) -> String {
        let own = self.item_id.clone();
        own.unwrap_or_else(|| self.job_id.to_string())
    }
}

/// A worker is done with a job it was given: which claim ends, and what came of it.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The claim that ends.
    pub receipt: JobReceipt,
    /// Calls made for the job so far.
    pub calls: u32,
    /// What came of it.
    pub outcome: ClaimOutcome,
    /// Where the worker's time went since it was given its first job of the same process, or last told of its time;
    /// one end of those recorded together tells it. See [`ProcessTime`](crate::queue::ProcessTime).
    pub worked: Option<Box<TimeSplit>>,
}

impl ClaimOutcome {
    /// What its calls used, if that is known.
    pub(crate) fn spent(&self) -> Option<&Spent> {
        match self {
            Self::Completed { spent, .. }
            | Self::Failed { spent, .. }
            | Self::Retry { spent, .. } => spent.as_ref(),
            Self::Snooze { .. } | Self::Wait { .. } => None,
        }
    }
}

/// What came of a claim on a job; not every one is the end of the job. Its `Debug` shows no result.
#[derive(Clone, derive_more::Debug)]
pub enum ClaimOutcome {
    /// It has its result. Accepted while the job has no outcome, whatever its claim: it was paid for.
    Completed {
        /// JSON.
        #[debug("{:?}", Bytes(result.get().len()))]
        result: Box<RawValue>,
        /// What it used; `None` for work that costs nothing.
        spent: Option<Spent>,
    },
    /// It finally failed.
    Failed {
        /// Why.
        error: Error,
        /// JSON, where a failure has something to hand over.
        #[debug("{:?}", result.as_ref().map(|result| Bytes(result.get().len())))]
        result: Option<Box<RawValue>>,
        /// What it used.
        spent: Option<Spent>,
    },
    /// It is tried again, not before then.
    Retry {
        /// When.
        due_at: Timestamp,
        /// The step of the route it goes on with.
        step: u8,
        /// Failed attempts at that step.
        attempt: u8,
        /// The next call may repeat one that was carried out.
        in_doubt: bool,
        /// What the failed call used, if it was paid for all the same.
        spent: Option<Spent>,
        /// JSON, handed out with the next claim. At most 64 KiB are sensible. Why earlier attempts
        /// failed belongs in its member `errors`, a list of [`AttemptError`](crate::queue::AttemptError):
        /// [`job`](crate::unstable::EnqueueStore::job) shows them.
        #[debug("{:?}", Bytes(history.len()))]
        history: String,
    },
    /// It was not tried: back to where it was, or not before then.
    Snooze {
        /// When; `None` keeps its place.
        due_at: Option<Timestamp>,
    },
    /// It waits until one of these processes has no open job any more, or is gone, and is due then; at once if that
    /// is so already. Until then it does not count as a job that waits to be claimed.
    Wait {
        /// What it waits for.
        processes: Vec<ProcessId>,
        /// When it looks again all the same.
        due_at: Timestamp,
    },
}
