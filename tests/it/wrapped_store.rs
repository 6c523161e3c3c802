//! A store in SQLite that counts the claims of jobs, and rejects outcomes of jobs on demand.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use batchwright::progress::Timestamp;
use batchwright::provider::{Charge, Day, LedgerQuery, LedgerRow};
use batchwright::queue::{
    DeliveredResult, HealthFinding, JobFilter, JobLane, JobPage, JobReceipt, JobState, JobSummary,
    Pause, ProcessBudget, ProcessInfo, ProcessState, QueueTotals, SqliteOptions, SqliteStore,
    WorkerInfo, WorkerStatus,
};
use batchwright::unstable::{
    BatchFill, BatchNo, BatchStore, BudgetDraw, BudgetStore, ClaimReply, ClaimRequest, ClaimStore,
    ClaimedJob, ConsumerLock, EnqueueStore, InsertGuard, JobBudget, ResultStore, Settlement,
    StoreDatabase, StoredBatch, WaitingJobs, WorkSignal, WorkerId,
};
use batchwright::{Amount, Error, ErrorKind, Job, JobId, ProcessId};
use serde_json::value::RawValue;
use tempfile::TempDir;

/// A handle on the database in a folder.
pub struct WrappedStore {
    store: SqliteStore,
    /// Exists at least as long as the handle.
    _folder: Arc<TempDir>,
    /// Number of claims by workers.
    pub(crate) claims: AtomicUsize,
    /// Rejects outcomes, like a full disk.
    pub(crate) is_full: AtomicBool,
}

impl WrappedStore {
    pub fn open(folder: &Arc<TempDir>) -> Self {
        let path = folder.path().join("jobs.db");
        Self {
            store: SqliteStore::open(path, SqliteOptions::default()).unwrap(),
            _folder: folder.clone(),
            claims: AtomicUsize::new(0),
            is_full: AtomicBool::new(false),
        }
    }
}

impl StoreDatabase for WrappedStore {
    fn location(&self) -> String {
        self.store.location()
    }

    fn id(&self) -> Result<String, Error> {
        self.store.id()
    }

    fn folder(&self) -> PathBuf {
        self.store.folder()
    }

    fn version(&self) -> Result<u64, Error> {
        self.store.version()
    }

    fn on_work(&self, wake: Weak<WorkSignal>) {
        self.store.on_work(wake)
    }

    fn check(&self) -> Result<Vec<HealthFinding>, Error> {
        self.store.check()
    }

    fn maintain(&self, now: Timestamp) -> Result<bool, Error> {
        self.store.maintain(now)
    }
}

impl EnqueueStore for WrappedStore {
    fn charges(
        &self,
        since: Option<Day>,
        until: Option<Day>,
        each: &mut dyn FnMut(Charge),
    ) -> Result<(), Error> {
        self.store.charges(since, until, each)
    }

    fn charge_sums(&self, query: &LedgerQuery) -> Result<Vec<LedgerRow>, Error> {
        self.store.charge_sums(query)
    }

    fn due_lanes(&self, now: Timestamp) -> Result<Vec<Arc<JobLane>>, Error> {
        self.store.due_lanes(now)
    }

    fn insert_described(
        &self,
        process: ProcessId,
        info: Option<&ProcessInfo>,
        jobs: Vec<Job>,
        sealed: bool,
        now: Timestamp,
        guard: Option<&InsertGuard>,
    ) -> Result<Vec<JobId>, Error> {
        self.store
            .insert_described(process, info, jobs, sealed, now, guard)
    }

    fn seal(&self, process: ProcessId, now: Timestamp) -> Result<(), Error> {
        self.store.seal(process, now)
    }

    fn describe(
        &self,
        process: ProcessId,
        info: &ProcessInfo,
        now: Timestamp,
    ) -> Result<bool, Error> {
        self.store.describe(process, info, now)
    }

    fn process(&self, process: ProcessId) -> Result<Option<ProcessState>, Error> {
        self.store.process(process)
    }

    fn processes(&self) -> Result<Vec<ProcessState>, Error> {
        self.store.processes()
    }

    fn newest_processes(
        &self,
        before: Option<u64>,
        finished: Option<bool>,
        most: usize,
    ) -> Result<Vec<(u64, ProcessState)>, Error> {
        self.store.newest_processes(before, finished, most)
    }

    fn totals(&self) -> Result<QueueTotals, Error> {
        self.store.totals()
    }

    fn job(&self, job: JobId) -> Result<Option<JobState>, Error> {
        self.store.job(job)
    }

    fn find(
        &self,
        filter: &JobFilter,
        after: Option<JobId>,
        most: usize,
    ) -> Result<JobPage, Error> {
        self.store.find(filter, after, most)
    }

    fn payload(&self, job: JobId) -> Result<Option<Box<RawValue>>, Error> {
        self.store.payload(job)
    }

    fn items(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        most: usize,
    ) -> Result<Vec<JobSummary>, Error> {
        self.store.items(process, after, most)
    }

    fn lanes(&self, process: ProcessId) -> Result<Vec<Arc<JobLane>>, Error> {
        self.store.lanes(process)
    }

    fn waiting_by_priority(&self) -> Result<Vec<(u8, u64)>, Error> {
        self.store.waiting_by_priority()
    }
}

impl ResultStore for WrappedStore {
    fn peek(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<DeliveredResult>, Error> {
        self.store.peek(process, after, most, bytes)
    }

    fn ack(&self, receipts: &[JobReceipt], now: Timestamp) -> Result<u64, Error> {
        self.store.ack(receipts, now)
    }

    fn lock_results(&self, process: ProcessId, who: &str) -> Result<Box<dyn ConsumerLock>, Error> {
        self.store.lock_results(process, who)
    }

    fn cancel(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error> {
        self.store.cancel(process, now)
    }

    fn cancel_jobs(&self, jobs: &[JobId], now: Timestamp) -> Result<u64, Error> {
        self.store.cancel_jobs(jobs, now)
    }

    fn retry_failed(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error> {
        self.store.retry_failed(process, now)
    }

    fn retry_jobs(&self, jobs: &[JobId], now: Timestamp) -> Result<u64, Error> {
        self.store.retry_jobs(jobs, now)
    }

    fn pause(&self, pause: &Pause) -> Result<bool, Error> {
        self.store.pause(pause)
    }

    fn resume(&self, pause: &Pause, now: Timestamp) -> Result<(), Error> {
        self.store.resume(pause, now)
    }

    fn pauses(&self) -> Result<Vec<Pause>, Error> {
        self.store.pauses()
    }

    fn delete(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error> {
        self.store.delete(process, now)
    }
}

impl ClaimStore for WrappedStore {
    fn register_worker(&self, now: Timestamp) -> Result<WorkerId, Error> {
        self.store.register_worker(now)
    }

    fn unregister_worker(&self, worker: WorkerId, now: Timestamp) -> Result<(), Error> {
        self.store.unregister_worker(worker, now)
    }

    fn claim(
        &self,
        worker: WorkerId,
        wanted: ClaimRequest<'_>,
        now: Timestamp,
    ) -> Result<ClaimReply, Error> {
        self.claims.fetch_add(1, Ordering::SeqCst);
        self.store.claim(worker, wanted, now)
    }

    fn settle(&self, ends: &[Settlement], now: Timestamp) -> Result<Vec<ProcessState>, Error> {
        if self.is_full.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Transient, "the disk is full"));
        }
        self.store.settle(ends, now)
    }

    fn report_worker(&self, worker: WorkerId, status: &WorkerStatus) -> Result<(), Error> {
        self.store.report_worker(worker, status)
    }

    fn workers(&self) -> Result<Vec<WorkerInfo>, Error> {
        self.store.workers()
    }

    fn dead_workers(&self) -> Result<Vec<WorkerId>, Error> {
        self.store.dead_workers()
    }

    fn reclaim(&self, now: Timestamp) -> Result<u64, Error> {
        self.store.reclaim(now)
    }

    fn pull_due_times(
        &self,
        worker: WorkerId,
        back: Duration,
        longest: Duration,
        now: Timestamp,
    ) -> Result<u64, Error> {
        self.store.pull_due_times(worker, back, longest, now)
    }
}

impl BatchStore for WrappedStore {
    fn waiting_jobs(
        &self,
        kind: &str,
        processes: &[ProcessId],
        now: Timestamp,
    ) -> Result<Vec<WaitingJobs>, Error> {
        self.store.waiting_jobs(kind, processes, now)
    }

    fn open_batch(
        &self,
        worker: WorkerId,
        process: ProcessId,
        lane: &JobLane,
        record: &str,
        now: Timestamp,
    ) -> Result<BatchNo, Error> {
        self.store.open_batch(worker, process, lane, record, now)
    }

    fn fill_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        after: Option<i64>,
        most: usize,
        bytes: u64,
        now: Timestamp,
    ) -> Result<BatchFill, Error> {
        self.store
            .fill_batch(worker, batch, after, most, bytes, now)
    }

    fn batch_jobs(
        &self,
        batch: BatchNo,
        after: Option<i64>,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<ClaimedJob>, Error> {
        self.store.batch_jobs(batch, after, most, bytes)
    }

    fn batch_jobs_by(&self, batch: BatchNo, numbers: &[u32]) -> Result<Vec<ClaimedJob>, Error> {
        self.store.batch_jobs_by(batch, numbers)
    }

    fn save_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        record: &str,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.store.save_batch(worker, batch, record, now)
    }

    fn split_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        at: i64,
        new_record: &str,
        old_record: &str,
        now: Timestamp,
    ) -> Result<BatchNo, Error> {
        self.store
            .split_batch(worker, batch, at, new_record, old_record, now)
    }

    fn give_back(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        after: Option<i64>,
        due: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<u64, Error> {
        self.store.give_back(worker, batch, after, due, now)
    }

    fn close_batch(&self, worker: WorkerId, batch: BatchNo, now: Timestamp) -> Result<(), Error> {
        self.store.close_batch(worker, batch, now)
    }

    fn batches(&self, process: Option<ProcessId>) -> Result<Vec<StoredBatch>, Error> {
        self.store.batches(process)
    }

    fn adopt_batches(
        &self,
        worker: WorkerId,
        mine: &mut dyn FnMut(&StoredBatch) -> bool,
        processes: &[ProcessId],
        now: Timestamp,
    ) -> Result<Vec<StoredBatch>, Error> {
        self.store.adopt_batches(worker, mine, processes, now)
    }
}

impl BudgetStore for WrappedStore {
    fn set_budget(&self, process: ProcessId, limit: Amount, now: Timestamp) -> Result<(), Error> {
        self.store.set_budget(process, limit, now)
    }

    fn remove_budget(&self, process: ProcessId, now: Timestamp) -> Result<(), Error> {
        self.store.remove_budget(process, now)
    }

    fn draw_budget(
        &self,
        budget: JobBudget,
        back: u64,
        least: u64,
        now: Timestamp,
    ) -> Result<BudgetDraw, Error> {
        self.store.draw_budget(budget, back, least, now)
    }

    fn return_budget(&self, budget: JobBudget, amount: i64, now: Timestamp) -> Result<(), Error> {
        self.store.return_budget(budget, amount, now)
    }

    fn stop_budget(&self, budget: JobBudget, why: &str) -> Result<(), Error> {
        self.store.stop_budget(budget, why)
    }

    fn reserve_jobs(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        budget: JobBudget,
        jobs: &[(JobReceipt, u64)],
        now: Timestamp,
    ) -> Result<usize, Error> {
        self.store.reserve_jobs(worker, batch, budget, jobs, now)
    }

    fn budget_pauses(&self) -> Result<Vec<(ProcessId, ProcessBudget)>, Error> {
        self.store.budget_pauses()
    }

    fn resume_budgets(&self, now: Timestamp) -> Result<bool, Error> {
        self.store.resume_budgets(now)
    }
}
