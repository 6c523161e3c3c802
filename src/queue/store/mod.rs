//! The store of jobs: what a queue asks of a database.
//!
//! A store knows states and times, not what a job means. Each method is one transaction or a few
//! short ones, and what it has returned `Ok` for survives the death of the process.

mod batch;
mod claims;
mod health;
pub(crate) mod sqlite;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::id::{JobId, ProcessId};

use super::info::ProcessInfo;
use super::job::{Job, JobResult, JobState, ProcessState, QueueTotals};

pub use super::job::JobReceipt;
pub use batch::{BatchFill, BatchNo, JobSummary, StoredBatch, WaitingJobs};
pub use claims::{
    ClaimOutcome, ClaimReply, ClaimRequest, ClaimedJob, JobLane, Settlement, WorkerId,
};
pub use health::{HealthFinding, Severity};

/// A database of jobs, behind a [`JobQueue`](crate::JobQueue) and its [`Worker`](crate::Worker)s; see
/// [`JobQueue::on`](crate::JobQueue::on). **Unstable**: it may be reshaped in any release.
///
/// All methods may be called from many threads, and from many processes on one database. What a method has
/// returned `Ok` for survives the death of the process. Times are given as arguments: a store asks no clock.
/// [`testing::job_store`](crate::testing::job_store) has the rules that every store must keep, as tests.
///
/// | part | methods |
/// |---|---|
/// | the store itself | [`location`](Self::location), [`id`](Self::id), [`folder`](Self::folder), [`version`](Self::version), [`on_work`](Self::on_work), [`check`](Self::check), [`maintain`](Self::maintain) |
/// | hosts enqueue, and look | [`insert`](Self::insert), [`insert_described`](Self::insert_described), [`seal`](Self::seal), [`describe`](Self::describe), [`process`](Self::process), [`processes`](Self::processes), [`changed_processes`](Self::changed_processes), [`process_ids`](Self::process_ids), [`newest_processes`](Self::newest_processes), [`totals`](Self::totals), [`job`](Self::job), [`items`](Self::items), [`lanes`](Self::lanes), [`waiting_by_priority`](Self::waiting_by_priority) |
/// | hosts take results | [`peek`](Self::peek), [`ack`](Self::ack), [`lock_results`](Self::lock_results) |
/// | hosts decide | [`cancel`](Self::cancel), [`cancel_jobs`](Self::cancel_jobs), [`retry_failed`](Self::retry_failed), [`delete`](Self::delete) |
/// | workers claim | [`register_worker`](Self::register_worker), [`unregister_worker`](Self::unregister_worker), [`claim`](Self::claim), [`settle`](Self::settle), [`dead_workers`](Self::dead_workers), [`reclaim`](Self::reclaim), [`pull_due_times`](Self::pull_due_times) |
/// | workers keep batches | [`waiting_jobs`](Self::waiting_jobs), [`open_batch`](Self::open_batch), [`fill_batch`](Self::fill_batch), [`batch_jobs`](Self::batch_jobs), [`batch_jobs_by`](Self::batch_jobs_by), [`save_batch`](Self::save_batch), [`split_batch`](Self::split_batch), [`give_back`](Self::give_back), [`close_batch`](Self::close_batch), [`batches`](Self::batches), [`adopt_batches`](Self::adopt_batches) |
///
/// # Errors
///
/// [`ErrorKind::Transient`](crate::ErrorKind::Transient) for what may pass, such as a full disk or a lock:
/// workers go on and try again. [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for what somebody has to
/// mend, and for what is asked in vain: a worker that is on no list, a process that takes no more jobs. Of
/// these, one that says that a batch is not the worker's (any more) is marked by
/// [`Error::with_claim_lost`]: the worker forgets the batch. A call that fails has changed nothing, or has
/// been decided and is gone on with by [`maintain`](Self::maintain); it may be made again.
///
/// # What a store keeps
///
/// **A process** begins to exist with its first jobs, has a number of its own in the store, and is gone when
/// it is sealed and its last outcome was deleted. It is sealed, or has jobs that may not be claimed yet.
///
/// **A job** has a key, `process's number << 32 | place in its process`, counted from 0 and never given
/// again ([`JobReceipt::job`]), and the number of its last claim, which rises with every claim, with every
/// job put back by [`retry_failed`](Self::retry_failed), and when a success overrules a claim. It is
///
/// - *waiting*: with a due time, a lane and a priority; shown as [`JobStatus::Pending`](crate::queue::JobStatus);
/// - *running*: a worker has claimed it; or *in a batch*: both are shown as `InProgress`, and told apart in
///   [`JobCounts`](crate::queue::JobCounts);
/// - *ended*: completed, failed or cancelled, until its outcome is deleted.
///
/// **A process may have a parent**, a job of another one that waits for its jobs: the one that
/// `ProcessInfo::parent` names when the first jobs are added. Jobs are added to it only while that job is open and
/// its process is not cancelled; otherwise this fails with an error [that says so](Error::with_claim_lost). Whoever
/// asks for some processes means those below them as well. What cancels or deletes a process does so to all below
/// it, except that those which are not sealed are deleted; what puts a process back puts those below it back whose
/// parent had failed or was cancelled. When the parent is completed, or its outcome is deleted, they are deleted;
/// when it fails, those in which no job is open or completed. What they have used is counted with the parent's
/// process from then on, and no longer with them. Nobody acknowledges their outcomes.
///
/// **A success** counts as long as its job has not ended, whoever has the job by then: it was paid for.
/// **Any other end** counts only if its claim is the job's last one. Of a cancelled process nothing is put
/// back to wait: it is cancelled instead.
///
/// **The time of a process** ([`ProcessTime`](crate::queue::ProcessTime)) is what ends tell of it
/// ([`Settlement::worked`]), those that come too late included. While all of its jobs have ended it stands still: it
/// [resumes](crate::queue::ProcessTime::resume) with [`retry_failed`](Self::retry_failed).
///
/// **A worker** is one of this process, until it is unregistered or the process dies, which others must be
/// able to notice without waiting for a time-out.
pub trait JobStore: Send + Sync {
    // What the store is.

    /// Where the store is, as a path or an address without any credential.
    fn location(&self) -> String;

    /// What tells this store apart from every other one, also from one that is made anew in its place. A
    /// copy has the same.
    fn id(&self) -> Result<String, Error>;

    /// A folder beside the database for what is too long for it: the input of batches on its way out,
    /// and their results on the way in.
    fn folder(&self) -> PathBuf;

    /// A number that differs from the last one when anybody else has written in between.
    fn version(&self) -> Result<u64, Error>;

    /// Has `wake` called whenever jobs become claimable through this store, until it is dropped; not
    /// for what [`settle`](Self::settle) puts back, which its caller knows, but for a job that had waited for what
    /// it ends.
    fn on_work(&self, wake: Weak<WorkSignal>);

    /// Looks at the store's health. What callers look for has a fixed name in
    /// [`what`](HealthFinding::what): `unsealed` (with the process in [`seen`](HealthFinding::seen)), `worker`
    /// (a warning for one that died), `batches` (a note when nobody has some), and `due times` (a warning for
    /// jobs further ahead than any wait). [`Severity::Bad`] says that counters or claims are wrong.
    fn check(&self, now: Timestamp) -> Result<Vec<HealthFinding>, Error>;

    // What hosts enqueue and look at.

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

    /// Makes all that was added claimable, which is decided at once and carried out in short
    /// transactions; what a death of the process leaves to do, [`maintain`](Self::maintain) goes on with.
    /// An error when there is no such process: what was enqueued has been deleted.
    fn seal(&self, process: ProcessId, now: Timestamp) -> Result<(), Error>;

    /// Replaces what is told of a process. False when there is none.
    fn describe(
        &self,
        process: ProcessId,
        info: &ProcessInfo,
        now: Timestamp,
    ) -> Result<bool, Error>;

    /// A process, if it exists.
    fn process(&self, process: ProcessId) -> Result<Option<ProcessState>, Error>;

    /// Every process, oldest first.
    fn processes(&self) -> Result<Vec<ProcessState>, Error>;

    /// Every process that has changed at this time or later, as far as its jobs, its seal or its cancellation go;
    /// others may be among them. It is asked once a second.
    fn changed_processes(&self, _since: Timestamp) -> Result<Vec<ProcessState>, Error> {
        self.processes()
    }

    /// The ids of all processes.
    fn process_ids(&self) -> Result<HashSet<ProcessId>, Error> {
        let all = self.processes()?;
        Ok(all.iter().map(|process| process.process_id).collect())
    }

    /// Up to `most` processes with their numbers, newest first, from below the number `before`: without looking at
    /// the others.
    fn newest_processes(
        &self,
        before: Option<u64>,
        most: usize,
    ) -> Result<Vec<(u64, ProcessState)>, Error>;

    /// Where all jobs stand, and how many processes there are.
    fn totals(&self) -> Result<QueueTotals, Error>;

    /// A job, if it exists; with what acknowledges its outcome once it has one, and before with where the jobs of all
    /// processes stand whose parent it is, if any.
    fn job(&self, job: JobId) -> Result<Option<JobState>, Error>;

    /// Up to `most` jobs that are stored of a process, in the order in which they were enqueued, from
    /// behind `after`.
    fn items(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        most: usize,
    ) -> Result<Vec<JobSummary>, Error>;

    /// The lanes of the jobs that are stored of a process; at least of its first thousand.
    fn lanes(&self, _process: ProcessId) -> Result<Vec<Arc<JobLane>>, Error> {
        Ok(Vec::new())
    }

    // What hosts take.

    /// Up to `most` outcomes of a process in the order of its jobs, beginning behind `after`, which may be gone, and
    /// no more than about `bytes` of them; always one if there is any.
    fn peek(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<DeliveredResult>, Error>;

    /// Deletes these outcomes, as far as nothing has happened to their jobs since. A sealed process
    /// whose last outcome goes is gone too. Returns how many were deleted.
    fn ack(&self, receipts: &[JobReceipt], now: Timestamp) -> Result<u64, Error>;

    /// Makes the caller the only one who takes outcomes of a process, until what is returned is dropped
    /// or the caller's process ends. An error that says who takes them when somebody else does; `who` is
    /// what is said of this one, behind the number of its process. A store that is not shared need not
    /// keep anybody out.
    fn lock_results(
        &self,
        _process: ProcessId,
        _who: &str,
    ) -> Result<Box<dyn ConsumerLock>, Error> {
        Ok(Box::new(Unshared))
    }

    // What hosts decide of all jobs of a process, or of some.

    /// Cancels what waits; what runs or is at a provider is not tried again, and nothing can be added.
    /// Returns how many waited. Decided at once and carried out in short transactions, as are
    /// [`retry_failed`](Self::retry_failed) and [`delete`](Self::delete); none of the three minds a process
    /// that does not exist.
    fn cancel(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error>;

    /// Cancels those of these jobs that wait, and no other. In short transactions. Returns how many.
    fn cancel_jobs(&self, jobs: &[JobId], now: Timestamp) -> Result<u64, Error>;

    /// Puts failed and cancelled jobs back with all their retries, at the first step of the route and
    /// without a history. Returns how many.
    fn retry_failed(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error>;

    /// Deletes a process with all that belongs to it; late ends of its jobs go nowhere. Returns how
    /// many jobs were deleted.
    fn delete(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error>;

    // Workers and their claims.

    /// Registers a worker: its claims and batches last until it is
    /// [unregistered](Self::unregister_worker) or its process ends.
    fn register_worker(&self, now: Timestamp) -> Result<WorkerId, Error>;

    /// Takes a worker off the list. What it still had goes back as if it had never been claimed; its
    /// batches, with the jobs in them, are nobody's from now on.
    fn unregister_worker(&self, worker: WorkerId, now: Timestamp) -> Result<(), Error>;

    /// The workers on the list whose process has died. What they had is theirs until it is
    /// [given back](Self::reclaim).
    fn dead_workers(&self) -> Result<Vec<WorkerId>, Error>;

    /// Gives back what workers had whose process has died; their batches, with the jobs in them, are
    /// nobody's from now on. A job that was lost for the
    /// [fifth](MAX_CRASHES) time fails as [`ErrorKind::Crashed`](crate::ErrorKind::Crashed) instead.
    /// Returns how many jobs were affected.
    fn reclaim(&self, now: Timestamp) -> Result<u64, Error>;

    /// Gives a worker jobs that are due: highest priority first, oldest first within one, in the order of
    /// their keys where they came due together. Of each eight jobs that a worker is given, one is the oldest
    /// due of any priority. A job lost [twice](SUSPECT_CRASHES) is given alone, and while one is next, nothing
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

    /// How many jobs wait to be started, due or not, by priority, the highest first, without those that wait for
    /// others. Those of a process that
    /// is being cancelled or deleted may be among them. Reads a key of every job that waits, and no other.
    fn waiting_by_priority(&self) -> Result<Vec<(u8, u64)>, Error>;

    // Batches.

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
    /// batch, with an error that [says so](Error::with_claim_lost); after any other failure the batch is still
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

    // Maintenance.

    /// Does one short piece of maintenance, if there is any: goes on with what somebody left halfway,
    /// gives room back. True when more is left to do.
    fn maintain(&self, now: Timestamp) -> Result<bool, Error>;
}

/// Outcomes that were read, to be acknowledged once they are saved.
#[derive(Debug)]
pub struct DeliveredResult {
    /// What to acknowledge.
    pub receipt: JobReceipt,
    /// The outcome.
    pub result: JobResult,
}

/// Called, from any thread, when jobs may have become claimable. Must return at once.
pub type WorkSignal = dyn Fn() + Send + Sync;

/// That nobody else takes the outcomes of a process, as long as it is held.
pub trait ConsumerLock: Send {}

struct Unshared;

impl ConsumerLock for Unshared {}

/// A job whose worker died this often fails.
pub const MAX_CRASHES: u8 = 5;

/// A job that was lost this often runs only while its worker runs nothing else.
pub const SUSPECT_CRASHES: u8 = 2;
