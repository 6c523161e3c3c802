//! The store of jobs: what a queue asks of a database.
//!
//! A store knows states and times, not what a job means. Each method is one transaction or a few
//! short ones, and what it has returned `Ok` for survives the death of the process.

mod batch;
mod claims;
mod counters;
mod database;
mod enqueue;
mod group_commit;
mod guard;
mod health;
pub(crate) mod moving;
#[cfg(feature = "mysql")]
pub(crate) mod mysql;
mod results;
mod rows;
mod sql;
pub(crate) mod sqlite;
mod worker_info;

pub use super::job::JobReceipt;
pub use batch::{BatchFill, BatchNo, BatchStore, JobSummary, StoredBatch, WaitingJobs};
pub use claims::{
    ClaimOutcome, ClaimReply, ClaimRequest, ClaimStore, ClaimedJob, JobLane, Settlement, WorkerId,
};
pub use database::{StoreDatabase, WorkSignal};
pub use enqueue::EnqueueStore;
pub use guard::{InsertGuard, SqlValue};
pub use health::{HealthFinding, Severity};
pub use results::{ConsumerLock, DeliveredResult, ResultStore};
pub use worker_info::{WorkerInfo, WorkerStatus};

/// A database of jobs, behind a [`JobQueue`](crate::JobQueue) and its [`Worker`](crate::Worker)s; see
/// [`JobQueue::on`](crate::JobQueue::on). **Unstable**: it may be reshaped in any release.
///
/// All methods may be called from many threads, and from many processes on one database. What a method has
/// returned `Ok` for survives the death of the process. Times are given as arguments: a store asks no clock.
/// It is the sum of five traits by topic; whatever implements them is a store.
/// [`testing::job_store`](crate::testing::job_store) has the rules that every store must keep, as tests.
///
/// | part | methods |
/// |---|---|
/// | [`StoreDatabase`]: the store itself | [`location`](StoreDatabase::location), [`id`](StoreDatabase::id), [`folder`](StoreDatabase::folder), [`version`](StoreDatabase::version), [`on_work`](StoreDatabase::on_work), [`check`](StoreDatabase::check), [`maintain`](StoreDatabase::maintain) |
/// | [`EnqueueStore`]: hosts enqueue, and look | [`insert`](EnqueueStore::insert), [`insert_described`](EnqueueStore::insert_described), [`insert_guarded`](EnqueueStore::insert_guarded), [`seal`](EnqueueStore::seal), [`describe`](EnqueueStore::describe), [`process`](EnqueueStore::process), [`processes`](EnqueueStore::processes), [`changed_processes`](EnqueueStore::changed_processes), [`process_ids`](EnqueueStore::process_ids), [`newest_processes`](EnqueueStore::newest_processes), [`totals`](EnqueueStore::totals), [`job`](EnqueueStore::job), [`items`](EnqueueStore::items), [`lanes`](EnqueueStore::lanes), [`waiting_by_priority`](EnqueueStore::waiting_by_priority) |
/// | [`ResultStore`]: hosts fetch results | [`peek`](ResultStore::peek), [`ack`](ResultStore::ack), [`lock_results`](ResultStore::lock_results) |
/// | [`ResultStore`]: hosts decide | [`cancel`](ResultStore::cancel), [`cancel_jobs`](ResultStore::cancel_jobs), [`retry_failed`](ResultStore::retry_failed), [`delete`](ResultStore::delete) |
/// | [`ClaimStore`]: workers claim | [`register_worker`](ClaimStore::register_worker), [`unregister_worker`](ClaimStore::unregister_worker), [`claim`](ClaimStore::claim), [`settle`](ClaimStore::settle), [`report_worker`](ClaimStore::report_worker), [`workers`](ClaimStore::workers), [`dead_workers`](ClaimStore::dead_workers), [`reclaim`](ClaimStore::reclaim), [`pull_due_times`](ClaimStore::pull_due_times) |
/// | [`BatchStore`]: workers keep batches | [`waiting_jobs`](BatchStore::waiting_jobs), [`open_batch`](BatchStore::open_batch), [`fill_batch`](BatchStore::fill_batch), [`batch_jobs`](BatchStore::batch_jobs), [`batch_jobs_by`](BatchStore::batch_jobs_by), [`save_batch`](BatchStore::save_batch), [`split_batch`](BatchStore::split_batch), [`give_back`](BatchStore::give_back), [`close_batch`](BatchStore::close_batch), [`batches`](BatchStore::batches), [`adopt_batches`](BatchStore::adopt_batches) |
///
/// # Errors
///
/// [`ErrorKind::Transient`](crate::ErrorKind::Transient) for what may pass, such as a full disk or a lock:
/// workers go on and try again. [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for what somebody has to
/// mend, and for what is asked in vain: a worker that is on no list, a process that takes no more jobs. Of
/// these, one that says that a batch is not the worker's (any more) is marked by
/// [`Error::with_claim_lost`](crate::Error::with_claim_lost): the worker forgets the batch. A call that fails has changed nothing, or has
/// been decided and is gone on with by [`maintain`](StoreDatabase::maintain); it may be made again.
///
/// # What a store keeps
///
/// **A process** begins to exist with its first jobs, has a number of its own in the store, and is gone when
/// it is sealed and its last outcome was deleted. It is sealed, or has jobs that may not be claimed yet.
///
/// **A job** has a key, `process's number << 32 | place in its process`, counted from 0 and never given
/// again ([`JobReceipt::job`]), and the number of its last claim, which rises with every claim, with every
/// job put back by [`retry_failed`](ResultStore::retry_failed), and when a success overrules a claim. It is
///
/// - *waiting*: with a due time, a lane and a priority; shown as [`JobStatus::Pending`](crate::queue::JobStatus);
/// - *running*: a worker has claimed it; or *in a batch*: both are shown as `InProgress`, and told apart in
///   [`JobCounts`](crate::queue::JobCounts);
/// - *ended*: completed, failed or cancelled, until its outcome is deleted.
///
/// **A process may have a parent**, a job of another one that waits for its jobs: the one that
/// `ProcessInfo::parent` names when the first jobs are added. Jobs are added to it only while that job is open and
/// its process is not cancelled; otherwise this fails with an error [that says so](crate::Error::with_claim_lost). Whoever
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
/// [resumes](crate::queue::ProcessTime::resume) with [`retry_failed`](ResultStore::retry_failed).
///
/// **A worker** is one of this process, until it is unregistered or the process dies. On one machine the others
/// notice that at once; a store for many machines may need the time of a lease.
pub trait JobStore: StoreDatabase + EnqueueStore + ResultStore + ClaimStore + BatchStore {}

impl<Store> JobStore for Store where
    Store: StoreDatabase + EnqueueStore + ResultStore + ClaimStore + BatchStore + ?Sized
{
}

/// A job whose worker died this often fails.
pub const MAX_CRASHES: u8 = 5;

/// A job that was lost this often runs only while its worker runs nothing else.
pub const SUSPECT_CRASHES: u8 = 2;
