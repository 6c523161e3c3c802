//! The store of jobs: what a queue asks of a database.
//!
//! A store knows states and times, not what a job means. Each method is one transaction or a few
//! short ones, and what it has returned `Ok` for survives the death of the process.

mod batch;
pub(crate) mod sqlite;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::value::RawValue;

use crate::base::brief::{Bytes, FieldIf, Many, Name};
use crate::base::clock::Timestamp;
use crate::base::error::Error;

use super::info::ProcessInfo;
use super::job::{Job, JobResult, JobState, ProcessState, Spent};
use crate::base::id::{JobId, ProcessId};

pub use batch::{BatchFill, BatchNo, JobSummary, StoredBatch, WaitingJobs};

/// What shares a quota: the kind, the job's [lane](Job::lane), and the step of the route.
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

/// A claim on a job. Whatever happens to the job raises the number, so an old receipt fences
/// nothing but itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct JobReceipt {
    /// The job's place in its store.
    pub job: i64,
    /// The number of the claim.
    pub claim: i64,
}

impl JobReceipt {
    /// The job's place in its process: what tells it apart from the others there for as long as it is
    /// stored.
    pub fn number(&self) -> u32 {
        (self.job & i64::from(u32::MAX)) as u32
    }
}

/// What a worker asks for.
pub struct ClaimRequest<'a> {
    /// The most jobs.
    pub most: usize,
    /// The worker runs nothing: only then may it be given a job that was lost by two workers
    /// already, and it is given that job alone.
    pub idle: bool,
    /// Only jobs of these processes; of all when empty.
    pub processes: &'a [ProcessId],
    /// The most jobs that could be started of a lane now; 0 when it is closed. Asked once a lane for
    /// each claim, within its transaction: it must not ask the store.
    pub open: &'a mut dyn FnMut(&Arc<JobLane>) -> usize,
}

/// What a worker was given.
#[derive(Default)]
pub struct ClaimReply {
    /// Jobs, in the order in which they are to be started.
    pub jobs: Vec<ClaimedJob>,
    /// When the next job of an open lane comes due; only told when there were fewer than wanted.
    pub next: Option<Timestamp>,
    /// True when more jobs wait than those given out, in any lane, due or not.
    pub more: bool,
}

/// A job that a worker was given. Its `Debug` shows nothing of the payload.
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
    pub item_id: Option<String>,
    /// The caller's fingerprint of it.
    pub request_hash: Option<String>,
    /// What its handler is to work on.
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
    pub history: Option<String>,
}

impl fmt::Debug for ClaimReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimReply")
            .field("jobs", &Many(self.jobs.len()))
            .field("next", &self.next)
            .field("more", &self.more)
            .finish()
    }
}

impl fmt::Debug for ClaimedJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let history = self.history.as_ref();
        f.debug_struct("ClaimedJob")
            .field("receipt", &self.receipt)
            .field("job_id", &self.job_id)
            .field("process_id", &self.process_id)
            .field("lane", &self.lane)
            .field_if("item_id", self.item_id.as_deref().map(Name))
            .field("payload", &Bytes(self.payload.get().len()))
            .field("attempt", &self.attempt)
            .field("calls", &self.calls)
            .field("crashes", &self.crashes)
            .field("lost", &self.lost)
            .field("in_doubt", &self.in_doubt)
            .field_if("history", history.map(|history| Bytes(history.len())))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ClaimOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = |result: &RawValue| Bytes(result.get().len());
        match self {
            Self::Completed { result, spent } => f
                .debug_struct("Completed")
                .field("result", &length(result))
                .field("spent", spent)
                .finish(),
            Self::Failed {
                error,
                result,
                spent,
            } => f
                .debug_struct("Failed")
                .field("error", error)
                .field_if("result", result.as_deref().map(length))
                .field("spent", spent)
                .finish(),
            Self::Retry {
                due_at,
                step,
                attempt,
                in_doubt,
                spent,
                history,
            } => f
                .debug_struct("Retry")
                .field("due_at", due_at)
                .field("step", step)
                .field("attempt", attempt)
                .field("in_doubt", in_doubt)
                .field("spent", spent)
                .field("history", &Bytes(history.len()))
                .finish(),
            Self::Snooze { due_at } => f.debug_struct("Snooze").field("due_at", due_at).finish(),
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
}

/// What came of a claim on a job; not every one is the end of the job. Its `Debug` shows no result.
#[derive(Clone)]
pub enum ClaimOutcome {
    /// It has its result. Accepted while the job has no outcome, whatever its claim: it was paid for.
    Completed {
        /// JSON.
        result: Box<RawValue>,
        /// What it used; `None` for work that costs nothing.
        spent: Option<Spent>,
    },
    /// It finally failed.
    Failed {
        /// Why.
        error: Error,
        /// JSON, where a failure has something to hand over.
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
        /// [`job`](JobStore::job) shows them.
        history: String,
    },
    /// It was not tried: back to where it was, or not before then.
    Snooze {
        /// When; `None` keeps its place.
        due_at: Option<Timestamp>,
    },
}

/// Outcomes that were read, to be acknowledged once they are saved.
#[derive(Debug)]
pub struct DeliveredResult {
    /// What to acknowledge.
    pub receipt: JobReceipt,
    /// The outcome.
    pub result: JobResult,
}

/// What one look at a store's health found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct HealthFinding {
    /// What was looked at, in a word or two.
    pub what: String,
    /// How bad it is.
    pub verdict: Severity,
    /// What was seen, for people.
    pub seen: String,
    /// What to do about it.
    pub advice: Option<String>,
}

impl HealthFinding {
    /// Something that was seen, with what to do about it.
    pub fn new(what: &str, verdict: Severity, seen: String, advice: Option<&str>) -> Self {
        Self {
            what: what.to_owned(),
            verdict,
            seen,
            advice: advice.map(str::to_owned),
        }
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Good,
    /// Worth knowing.
    Note,
    /// Something is wrong that costs time or room.
    Warning,
    /// The queue cannot be trusted or used.
    Bad,
}

/// Called, from any thread, when jobs may have become claimable. Must return at once.
pub type WorkSignal = dyn Fn() + Send + Sync;

/// A database of jobs. Unstable: it may be reshaped. Outside of this crate it can be wrapped, to count
/// or to fail calls in a test; a store from scratch has to be part of the crate, where the suite that
/// states its contract is.
///
/// All methods may be called from many threads, and from many processes on one database.
pub trait JobStore: Send + Sync {
    /// Adds jobs to a process, which begins to exist with its first ones: all of them in one
    /// transaction. With `sealed` they can be claimed at once, unless an unsealed part precedes them.
    /// Without it the process is unsealed from now on, and none of what is added is claimable before
    /// [`seal`](Self::seal). A process that was cancelled or is being deleted takes no more. No jobs
    /// change nothing. What is told of the process replaces what was told before; `None` leaves that.
    fn insert_described(
        &self,
        process: ProcessId,
        info: Option<&ProcessInfo>,
        jobs: Vec<Job>,
        sealed: bool,
        now: Timestamp,
    ) -> Result<Vec<JobId>, Error>;

    /// Where the store is, as a path or an address without any credential.
    fn location(&self) -> String;

    /// What tells this store apart from every other one, also from one that is made anew in its place. A
    /// copy has the same.
    fn id(&self) -> Result<String, Error>;

    /// The same as [`insert_described`](Self::insert_described), with nothing told of the process.
    fn insert(
        &self,
        process: ProcessId,
        jobs: Vec<Job>,
        sealed: bool,
        now: Timestamp,
    ) -> Result<Vec<JobId>, Error> {
        self.insert_described(process, None, jobs, sealed, now)
    }

    /// Replaces what is told of a process. False when there is none.
    fn describe(
        &self,
        process: ProcessId,
        info: &ProcessInfo,
        now: Timestamp,
    ) -> Result<bool, Error>;

    /// Makes all that was added claimable, which is decided at once and carried out in short
    /// transactions; what a death of the process leaves to do, [`chore`](Self::chore) goes on with.
    /// An error when there is no such process: what was enqueued has been deleted.
    fn seal(&self, process: ProcessId, now: Timestamp) -> Result<(), Error>;

    /// A process, if it exists.
    fn process(&self, process: ProcessId) -> Result<Option<ProcessState>, Error>;

    /// Every process, oldest first.
    fn processes(&self) -> Result<Vec<ProcessState>, Error>;

    /// A job, if it exists.
    fn job(&self, job: JobId) -> Result<Option<JobState>, Error>;

    /// Up to `most` outcomes of a process in the order of its jobs, beginning behind `after`, and no
    /// more than about `bytes` of them; always one if there is any.
    fn peek(
        &self,
        process: ProcessId,
        after: Option<JobReceipt>,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<DeliveredResult>, Error>;

    /// Makes the caller the only one who takes outcomes of a process, until what is returned is dropped
    /// or the caller's process ends. An error that says who takes them when somebody else does; `who` is
    /// what is said of this one, behind the number of its process. A store that is not shared need not
    /// keep anybody out.
    fn take_alone(&self, _process: ProcessId, _who: &str) -> Result<Box<dyn ConsumerLock>, Error> {
        Ok(Box::new(Unshared))
    }

    /// The lanes of the jobs that are stored of a process; at least of its first thousand.
    fn lanes(&self, _process: ProcessId) -> Result<Vec<Arc<JobLane>>, Error> {
        Ok(Vec::new())
    }

    /// Deletes these outcomes, as far as nothing has happened to their jobs since. A sealed process
    /// whose last outcome goes is gone too. Returns how many were deleted.
    fn ack(&self, receipts: &[JobReceipt], now: Timestamp) -> Result<u64, Error>;

    /// Cancels what waits; what runs or is at a provider is not tried again, and nothing can be added. Returns how many
    /// waited. Decided at once and carried out in short transactions, as are the next two; none of the
    /// three minds a process that does not exist.
    fn cancel(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error>;

    /// Puts failed and cancelled jobs back with all their retries, at the first step of the route and
    /// without a history. Returns how many.
    fn retry_failed(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error>;

    /// Deletes a process with all that belongs to it; late ends of its jobs go nowhere. Returns how
    /// many jobs were deleted.
    fn delete(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error>;

    /// Registers a worker: its claims and batches last until it [retires](Self::retire) or its process ends.
    fn enlist(&self, now: Timestamp) -> Result<WorkerId, Error>;

    /// Takes a worker off the list. What it still had goes back as if it had never been claimed; its
    /// batches, with the jobs in them, are nobody's from now on.
    fn retire(&self, worker: WorkerId, now: Timestamp) -> Result<(), Error>;

    /// Gives a worker jobs: highest priority first, oldest first within one. Of each eight jobs that
    /// a worker is given, one is the oldest due of any priority.
    fn claim(
        &self,
        worker: WorkerId,
        wanted: ClaimRequest<'_>,
        now: Timestamp,
    ) -> Result<ClaimReply, Error>;

    /// Records ends of jobs that run or are in a batch, all in one transaction. All but a success need their claim to be the last one.
    /// Returns the processes that changed, as they are now.
    fn settle(&self, ends: &[Settlement], now: Timestamp) -> Result<Vec<ProcessState>, Error>;

    /// Gives back what workers had whose process has died; their batches, with the jobs in them, are
    /// nobody's from now on. A job that was lost for the
    /// [fifth](MAX_CRASHES) time fails as [`ErrorKind::Crashed`](crate::ErrorKind::Crashed) instead.
    /// Returns how many jobs were affected.
    fn reclaim(&self, now: Timestamp) -> Result<u64, Error>;

    /// Pulls due times nearer that lie ahead because the clock was set back, by `back` while this worker
    /// watched. What was never put off, and has been enqueued at a time that is still to come, is due now.
    /// What was put off comes due `back` sooner, and after `longest` at the latest. Of all workers on the
    /// list the oldest alone takes `back` into account: once is enough. Returns how many were changed.
    fn pull_due_times(
        &self,
        worker: WorkerId,
        back: Duration,
        longest: Duration,
        now: Timestamp,
    ) -> Result<u64, Error>;

    /// The workers on the list whose process has died. What they had is theirs until it is
    /// [given back](Self::reclaim).
    fn dead(&self) -> Result<Vec<WorkerId>, Error>;

    /// The jobs of a kind that wait at the first step, by process and lane, in the order of claims: those
    /// whose first due job has the highest priority first, then the oldest; behind them those of which
    /// nothing is due, soonest first. Only of these processes; of all when empty. Without those that were
    /// cancelled, or of which something decided is still being carried out. Reads a key of every job of
    /// the kind that waits, and no other.
    fn waiting(
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
    /// is not put into batches. Each claim's number rises. When the batch is not this worker's (any more) this fails, as do
    /// all that follow, with an error that [says so](Error::is_claim_lost); after any other failure the
    /// batch is still the worker's.
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

    /// Of the jobs with these [numbers](JobReceipt::number) those that are in a batch, in the order of the
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

    /// The batches of a process, or all of them and also those whose process is gone; oldest first.
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

    /// Up to `most` jobs that are stored of a process, in the order in which they were enqueued, from
    /// behind `after`.
    fn items(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        most: usize,
    ) -> Result<Vec<JobSummary>, Error>;

    /// Cancels those of these jobs that wait, and no other. In short transactions. Returns how many.
    fn cancel_jobs(&self, jobs: &[JobId], now: Timestamp) -> Result<u64, Error>;

    /// Does one short piece of maintenance, if there is any: goes on with what somebody left halfway,
    /// gives room back. True when more is left to do.
    fn chore(&self, now: Timestamp) -> Result<bool, Error>;

    /// A folder beside the database for what is too long for it: the input of batches on its way out,
    /// and their results on the way in.
    fn folder(&self) -> PathBuf;

    /// A number that differs from the last one when anybody else has written in between.
    fn version(&self) -> Result<u64, Error>;

    /// Has `wake` called whenever jobs become claimable through this store, until it is dropped; not
    /// for what [`settle`](Self::settle) puts back, which its caller knows.
    fn on_work(&self, wake: Weak<WorkSignal>);

    /// Looks at the store's health.
    fn check(&self, now: Timestamp) -> Result<Vec<HealthFinding>, Error>;
}

/// That nobody else takes the outcomes of a process, as long as it is held.
pub trait ConsumerLock: Send {}

struct Unshared;

impl ConsumerLock for Unshared {}

/// A job whose worker died this often fails.
pub const MAX_CRASHES: u8 = 5;

/// A job that was lost this often runs only while its worker runs nothing else.
pub const SUSPECT_CRASHES: u8 = 2;
