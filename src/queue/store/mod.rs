//! The store of jobs: the interface between the queue and a database.
//!
//! A store knows states and times, not the meaning of a job. Each method is one transaction or a few short ones. Once
//! it returns `Ok`, its change survives a crash of the OS process.

mod batch;
pub(crate) mod budgets;
mod claims;
mod counters;
mod database;
mod enqueue;
mod group_commit;
mod health;
#[cfg(feature = "mysql")]
pub(crate) mod mysql;
mod results;
mod rows;
mod sql;
pub(crate) mod sqlite;
#[cfg(test)]
mod tests;

pub use super::job::JobReceipt;
pub use batch::{BatchFill, BatchNo, BatchStore, JobSummary, StoredBatch, WaitingJobs};
pub use budgets::{BudgetStore, JobBudget};
pub use claims::{
    ClaimOutcome, ClaimReply, ClaimRequest, ClaimStore, ClaimedJob, JobLane, Settlement, WorkerId,
    Workers,
};
use database::Wakes;
pub use database::{StoreDatabase, WorkSignal};
pub use enqueue::EnqueueStore;
pub use health::{HealthFinding, Severity};
pub use results::{ConsumerLock, DeliveredResult, ResultStore};

/// A database of jobs, used by a [`JobQueue`](crate::JobQueue) and its [`Worker`](crate::Worker)s; see
/// [`JobQueue::on`](crate::JobQueue::on). **Unstable**: it may change in any release.
///
/// All methods can be called from several threads, and from several OS processes on one database. Once a method returns
/// `Ok`, its change survives a crash of the OS process. Times are arguments: a store reads no clock. The trait combines
/// six traits by topic; a type that implements all six is a store.
///
/// | part | methods |
/// |---|---|
/// | [`StoreDatabase`]: the store itself | [`location`](StoreDatabase::location), [`id`](StoreDatabase::id), [`folder`](StoreDatabase::folder), [`version`](StoreDatabase::version), [`on_work`](StoreDatabase::on_work), [`check`](StoreDatabase::check), [`maintain`](StoreDatabase::maintain) |
/// | [`EnqueueStore`]: hosts enqueue, and look | [`insert`](EnqueueStore::insert), [`insert_described`](EnqueueStore::insert_described), [`seal`](EnqueueStore::seal), [`describe`](EnqueueStore::describe), [`process`](EnqueueStore::process), [`processes`](EnqueueStore::processes), [`changed_processes`](EnqueueStore::changed_processes), [`process_ids`](EnqueueStore::process_ids), [`newest_processes`](EnqueueStore::newest_processes), [`totals`](EnqueueStore::totals), [`job`](EnqueueStore::job), [`find`](EnqueueStore::find), [`payload`](EnqueueStore::payload), [`items`](EnqueueStore::items), [`lanes`](EnqueueStore::lanes), [`waiting_by_priority`](EnqueueStore::waiting_by_priority) |
/// | [`ResultStore`]: hosts fetch results | [`peek`](ResultStore::peek), [`ack`](ResultStore::ack), [`lock_results`](ResultStore::lock_results) |
/// | [`ResultStore`]: hosts decide | [`cancel`](ResultStore::cancel), [`cancel_jobs`](ResultStore::cancel_jobs), [`retry_failed`](ResultStore::retry_failed), [`retry_job`](ResultStore::retry_job), [`set_paused`](ResultStore::set_paused), [`is_paused`](ResultStore::is_paused), [`delete`](ResultStore::delete) |
/// | [`ClaimStore`]: workers claim | [`register_worker`](ClaimStore::register_worker), [`unregister_worker`](ClaimStore::unregister_worker), [`claim`](ClaimStore::claim), [`settle`](ClaimStore::settle), [`workers`](ClaimStore::workers), [`list_quotas`](ClaimStore::list_quotas), [`dead_workers`](ClaimStore::dead_workers), [`reclaim`](ClaimStore::reclaim), [`make_due`](ClaimStore::make_due) |
/// | [`BatchStore`]: workers keep batches | [`waiting_jobs`](BatchStore::waiting_jobs), [`open_batch`](BatchStore::open_batch), [`fill_batch`](BatchStore::fill_batch), [`batch_jobs`](BatchStore::batch_jobs), [`batch_jobs_by`](BatchStore::batch_jobs_by), [`save_batch`](BatchStore::save_batch), [`split_batch`](BatchStore::split_batch), [`give_back`](BatchStore::give_back), [`close_batch`](BatchStore::close_batch), [`leave_batch`](BatchStore::leave_batch), [`batches`](BatchStore::batches), [`adopt_batches`](BatchStore::adopt_batches) |
/// | [`BudgetStore`]: limits of what processes spend | [`set_budget`](BudgetStore::set_budget), [`hold_batch`](BudgetStore::hold_batch), [`note_refused`](BudgetStore::note_refused), [`note_most`](BudgetStore::note_most), [`closed_processes`](BudgetStore::closed_processes) |
///
/// # Errors
///
/// [`ErrorKind::Transient`](crate::ErrorKind::Transient) for temporary problems such as a full disk or a lock: workers
/// retry. [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for problems that a person must solve, and for invalid
/// requests: a worker that is not registered, a process that accepts no more jobs. If a batch does not belong to the
/// worker (any more), the error is marked by [`Error::with_claim_lost`](crate::Error::with_claim_lost), and the worker
/// forgets the batch. A failed call has changed nothing, or has stored a decision that
/// [`maintain`](StoreDatabase::maintain) completes; it can be repeated.
///
/// # What a store keeps
///
/// **A process** is created with its first jobs, has a number in the store, and is removed when it is sealed and its
/// last outcome was deleted. It is sealed, or has jobs that cannot be claimed yet.
///
/// **A job** has a key, `number of the process << 32 | index in the process`, with the index counted from 0 and never
/// reused ([`JobReceipt::job`]), and the number of its last claim. That number increases with every claim, with every
/// requeue by [`retry_failed`](ResultStore::retry_failed), and when a success overrules a claim. A job is
///
/// - *waiting*: with a due time, a lane and a priority; shown as [`JobStatus::Pending`](crate::queue::JobStatus);
/// - *running*: a worker has claimed it; or *in a batch*. Both are shown as `InProgress`, and are counted separately in
///   [`JobCounts`](crate::queue::JobCounts);
/// - *ended*: completed, failed or cancelled, until its outcome is deleted.
///
/// **A process may have a parent**, a job of another process that waits for its jobs: the job that
/// `ProcessInfo::parent` names when the first jobs are added. Jobs can be added only while the parent is open and its
/// process is not cancelled; otherwise this fails with an error [that says so](crate::Error::with_claim_lost). A filter
/// by a process that has no parent includes the descendants. Cancelling or deleting a process does the same to its
/// descendants, except that unsealed descendants are deleted. Requeueing a process also requeues the descendants whose
/// parent had failed or was cancelled. When the parent is completed, or its outcome is deleted, its child processes are
/// deleted. What they use also counts for the process of their oldest ancestor. Hosts cannot acknowledge outcomes of child
/// jobs.
///
/// **A success** counts as long as its job has not ended, even if another worker has claimed the job since, because it
/// was billed. **Any other end** counts only if its claim is the job's last one. Jobs of a cancelled process do not
/// return to the queue; they are cancelled instead.
///
/// **A worker** belongs to this OS process until it is unregistered or the OS process ends. On one machine, other
/// workers notice that immediately; a store for several machines may need the duration of a lease.
pub trait JobStore:
    StoreDatabase + EnqueueStore + ResultStore + ClaimStore + BatchStore + BudgetStore
{
}

impl<Store> JobStore for Store where
    Store:
        StoreDatabase + EnqueueStore + ResultStore + ClaimStore + BatchStore + BudgetStore + ?Sized
{
}

/// A job fails after this number of worker crashes.
pub const MAX_CRASHES: u8 = 5;

/// After this number of crashes, a job runs only while its worker runs no other job.
pub const SUSPECT_CRASHES: u8 = 2;
