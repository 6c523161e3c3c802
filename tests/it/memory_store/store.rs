//! The store itself: each method is one look at the data, or one change of it, under one lock.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use batchwright::progress::Timestamp;
use batchwright::queue::{
    DeliveredResult, HealthFinding, JobLane, JobReceipt, JobState, JobStatus, JobSummary,
    ProcessInfo, ProcessState, QueueTotals, Severity, WorkerInfo, WorkerStatus,
};
use batchwright::unstable::{
    BatchFill, BatchNo, BatchStore, ClaimReply, ClaimRequest, ClaimStore, ClaimedJob, ConsumerLock,
    EnqueueStore, ResultStore, Settlement, StoreDatabase, StoredBatch, WaitingJobs, WorkSignal,
    WorkerId,
};
use batchwright::{Error, ErrorKind, Job, JobId, ProcessId};
use parking_lot::{Mutex, MutexGuard};
use tempfile::TempDir;

use super::data::{Data, Place, Process, Row, Worker, invalid, is_among};

/// No wait is longer than this unless somebody has set it so.
const LONGEST: Duration = Duration::from_secs(75 * 60);

/// What all handles have in common.
pub struct Database {
    id: String,
    folder: TempDir,
    data: Mutex<Data>,
    /// Processes whose outcomes somebody takes.
    locked: Arc<Mutex<BTreeSet<ProcessId>>>,
}

impl Database {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            id: ProcessId::new().to_string(),
            folder: tempfile::tempdir().unwrap(),
            data: Mutex::default(),
            locked: Arc::default(),
        })
    }
}

/// A handle on a database. Its workers die with it.
pub struct MemoryStore {
    database: Arc<Database>,
    workers: Mutex<Vec<WorkerId>>,
    waiting: Mutex<Vec<Weak<WorkSignal>>>,
    /// How often a worker asked for jobs.
    pub(crate) claims: AtomicUsize,
    /// As if there were no room for the ends of jobs.
    pub(crate) is_full: AtomicBool,
}

impl MemoryStore {
    pub fn open(database: &Arc<Database>) -> Self {
        Self {
            database: database.clone(),
            workers: Mutex::default(),
            waiting: Mutex::default(),
            claims: AtomicUsize::new(0),
            is_full: AtomicBool::new(false),
        }
    }

    fn look(&self) -> MutexGuard<'_, Data> {
        self.database.data.lock()
    }

    fn change(&self) -> MutexGuard<'_, Data> {
        let mut data = self.database.data.lock();
        data.version += 1;
        data
    }

    /// Jobs have become claimable.
    fn wake(&self) {
        let waiting: Vec<_> = self
            .waiting
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        waiting.iter().for_each(|wake| wake());
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        let mut data = self.database.data.lock();
        for id in self.workers.get_mut() {
            if let Some(worker) = data.workers.get_mut(id) {
                worker.is_dead = true;
            }
        }
    }
}

struct Unlock(Arc<Mutex<BTreeSet<ProcessId>>>, ProcessId);

impl ConsumerLock for Unlock {}

impl Drop for Unlock {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl StoreDatabase for MemoryStore {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn id(&self) -> Result<String, Error> {
        Ok(self.database.id.clone())
    }

    fn folder(&self) -> PathBuf {
        self.database.folder.path().to_owned()
    }

    fn version(&self) -> Result<u64, Error> {
        Ok(self.look().version)
    }

    fn on_work(&self, wake: Weak<WorkSignal>) {
        self.waiting.lock().push(wake);
    }

    fn check(&self, now: Timestamp) -> Result<Vec<HealthFinding>, Error> {
        let data = self.look();
        let mut found = Vec::new();
        let mut find = |what: &str, verdict, seen: String| {
            found.push(HealthFinding::new(what, verdict, seen, None));
        };
        for process in data.processes.values().filter(|process| !process.sealed) {
            let seen = format!("process {} waits to be sealed", process.id);
            find("unsealed", Severity::Note, seen);
        }
        for (id, _) in data.workers.iter().filter(|(_, worker)| worker.is_dead) {
            find("worker", Severity::Warning, format!("{} has died", id.0));
        }
        let free = data.batches.values().filter(|batch| batch.worker.is_none());
        if free.count() > 0 {
            find("batches", Severity::Note, "nobody has some".to_owned());
        }
        let far = |row: &Row| {
            let early = row.created_at > now && row.due_at >= row.created_at;
            row.place == Place::Waiting
                && row.due_at > now
                && (early || row.due_at > now.after(LONGEST))
        };
        if data.jobs.values().any(far) {
            find("due times", Severity::Warning, "far ahead".to_owned());
        }
        Ok(found)
    }

    fn maintain(&self, _: Timestamp) -> Result<bool, Error> {
        Ok(false)
    }
}

impl EnqueueStore for MemoryStore {
    fn insert_described(
        &self,
        process: ProcessId,
        info: Option<&ProcessInfo>,
        jobs: Vec<Job>,
        sealed: bool,
        now: Timestamp,
    ) -> Result<Vec<JobId>, Error> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let mut data = self.change();
        let parent = data.parent(info)?;
        let no = match data.number(process) {
            Some(no) if data.is_stopped(no) => return Err(invalid("the process was cancelled")),
            Some(no) => no,
            None => {
                let no = data.next();
                data.numbers.insert(process, no);
                let new = Process::new(process, now);
                data.processes.insert(no, Process { parent, ..new });
                no
            }
        };
        data.touch(no, now);
        let known = data.processes.get_mut(&no).unwrap();
        known.sealed &= sealed;
        known.info = info.unwrap_or(&known.info).clone();
        let place = if known.sealed {
            Place::Waiting
        } else {
            Place::Held
        };
        let first = Data::keys(no).start + known.total as i64;
        known.total += jobs.len() as u64;
        let mut ids = Vec::new();
        for (key, job) in (first..).zip(jobs) {
            let parts = job.into_parts();
            let lane = JobLane {
                kind: parts.kind.clone(),
                name: parts.lane.clone(),
                step: 0,
            };
            let mut bytes = process.bytes();
            bytes[8..].copy_from_slice(&key.to_be_bytes());
            let id = JobId::from_bytes(bytes);
            let row = Row {
                id,
                parts,
                lane: Arc::new(lane),
                place,
                claim: 0,
                created_at: now,
                due_at: now,
                awaits: Vec::new(),
                calls: 0,
                attempt: 0,
                crashes: 0,
                lost: false,
                in_doubt: false,
                history: None,
                result: None,
                error: None,
            };
            data.jobs.insert(key, row);
            ids.push(id);
        }
        drop(data);
        if sealed {
            self.wake();
        }
        Ok(ids)
    }

    fn seal(&self, process: ProcessId, now: Timestamp) -> Result<(), Error> {
        let mut data = self.change();
        let no = data.number(process);
        let no = no.ok_or_else(|| invalid("there is no such process"))?;
        for (_, row) in data.jobs.range_mut(Data::keys(no)) {
            if row.place == Place::Held {
                row.place = Place::Waiting;
            }
        }
        data.processes.get_mut(&no).unwrap().sealed = true;
        data.touch(no, now);
        drop(data);
        self.wake();
        Ok(())
    }

    fn describe(
        &self,
        process: ProcessId,
        info: &ProcessInfo,
        _: Timestamp,
    ) -> Result<bool, Error> {
        let mut data = self.change();
        let no = data.number(process);
        let known = no.and_then(|no| data.processes.get_mut(&no));
        Ok(known.map(|known| known.info = info.clone()).is_some())
    }

    fn process(&self, process: ProcessId) -> Result<Option<ProcessState>, Error> {
        let data = self.look();
        Ok(data.number(process).and_then(|no| data.state(no)))
    }

    fn processes(&self) -> Result<Vec<ProcessState>, Error> {
        let data = self.look();
        let all = data.processes.keys();
        Ok(all.filter_map(|no| data.state(*no)).collect())
    }

    fn newest_processes(
        &self,
        before: Option<u64>,
        most: usize,
    ) -> Result<Vec<(u64, ProcessState)>, Error> {
        let data = self.look();
        let numbers = data.processes.keys().rev().copied();
        let found = numbers
            .filter_map(|no| Some((u64::try_from(no).unwrap(), data.state(no)?)))
            .filter(|(no, _)| before.is_none_or(|before| *no < before));
        Ok(found.take(most).collect())
    }

    fn totals(&self) -> Result<QueueTotals, Error> {
        let mut totals = QueueTotals::default();
        for process in &self.processes()? {
            totals.add(process);
        }
        Ok(totals)
    }

    fn job(&self, job: JobId) -> Result<Option<JobState>, Error> {
        let data = self.look();
        let found = data.key_of(job).and_then(|key| {
            let process = data.process_of(key)?;
            let mut state = data.jobs.get(&key)?.state(key, process.id);
            state.children = data.children(key).filter(|_| !state.status.is_final());
            Some(state)
        });
        Ok(found)
    }

    fn items(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        most: usize,
    ) -> Result<Vec<JobSummary>, Error> {
        let data = self.look();
        let Some(no) = data.number(process) else {
            return Ok(Vec::new());
        };
        let after = after.map(key_of);
        let stored = data.jobs.range(Data::keys(no));
        let behind = stored.filter(|(key, _)| after.is_none_or(|after| **key > after));
        Ok(behind.take(most).map(|(_, row)| row.summary()).collect())
    }

    fn lanes(&self, process: ProcessId) -> Result<Vec<Arc<JobLane>>, Error> {
        let data = self.look();
        let keys = data.number(process).map_or(0..0, Data::keys);
        let lanes = data.jobs.range(keys).map(|(_, row)| row.lane.clone());
        let lanes: BTreeSet<_> = lanes.collect();
        Ok(lanes.into_iter().collect())
    }

    fn waiting_by_priority(&self) -> Result<Vec<(u8, u64)>, Error> {
        Ok(self.look().waiting_by_priority())
    }
}

impl ResultStore for MemoryStore {
    fn peek(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<DeliveredResult>, Error> {
        let data = self.look();
        let keys = data.number(process).map_or(0..0, Data::keys);
        let (mut all, mut size) = (Vec::new(), 0);
        for (key, row) in data.jobs.range(keys) {
            let seen = after.is_some_and(|after| *key <= key_of(after));
            if seen || !row.place.has_ended() {
                continue;
            }
            size += row.result.as_ref().map_or(0, |result| result.get().len());
            if all.len() >= most || size > bytes && !all.is_empty() {
                break;
            }
            all.push(row.delivered(*key, process));
        }
        Ok(all)
    }

    fn ack(&self, receipts: &[JobReceipt], now: Timestamp) -> Result<u64, Error> {
        let mut data = self.change();
        let mut deleted = 0;
        let of_a_job = |receipt: &JobReceipt| {
            let process = data.process_of(receipt.job);
            process.is_some_and(|process| process.parent.is_some())
        };
        if receipts.iter().any(of_a_job) {
            return Err(invalid("a job collects these results"));
        }
        for receipt in receipts {
            if let Some(no) = data.consume(*receipt) {
                deleted += 1;
                data.job_ended(receipt.job, true);
                data.touch(no, now);
                data.drop_if_empty(no);
            }
        }
        Ok(deleted)
    }

    fn lock_results(&self, process: ProcessId, who: &str) -> Result<Box<dyn ConsumerLock>, Error> {
        let locked = &self.database.locked;
        if !locked.lock().insert(process) {
            let why = format!("results of process {process} are being taken, not by {who}");
            return Err(Error::new(ErrorKind::Transient, why));
        }
        Ok(Box::new(Unlock(locked.clone(), process)))
    }

    fn cancel(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error> {
        let mut data = self.change();
        let Some(no) = data.number(process) else {
            return Ok(0);
        };
        let mut cancelled = 0;
        for of in data.family(vec![no]) {
            let known = data.processes.get_mut(&of).unwrap();
            if of != no && !known.sealed {
                data.remove(&[of]);
                continue;
            }
            known.sealed = true;
            known.cancelled_at = Some(now);
            data.touch(of, now);
            let jobs = data.jobs.range_mut(Data::keys(of)).map(|(_, row)| row);
            let waiting = jobs.filter(|row| row.place.waits());
            let waited = waiting.map(Row::cancel).count() as u64;
            cancelled += if of == no { waited } else { 0 };
        }
        data.wake_parents(now);
        Ok(cancelled)
    }

    fn cancel_jobs(&self, jobs: &[JobId], now: Timestamp) -> Result<u64, Error> {
        let mut data = self.change();
        let mut cancelled = 0;
        for key in jobs
            .iter()
            .filter_map(|id| data.key_of(*id))
            .collect::<Vec<_>>()
        {
            let row = data.jobs.get_mut(&key).unwrap();
            if row.place.waits() {
                row.cancel();
                data.touch(key >> 32, now);
                cancelled += 1;
            }
        }
        data.wake_parents(now);
        Ok(cancelled)
    }

    fn retry_failed(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error> {
        let mut data = self.change();
        let Some(no) = data.number(process) else {
            return Ok(0);
        };
        let mut processes = data.to_retry(no);
        processes.push(no);
        let mut back = 0;
        for no in processes {
            let finished = data.state(no).is_some_and(|state| state.is_finished());
            let known = data.processes.get_mut(&no).unwrap();
            known.cancelled_at = None;
            if finished {
                known.time.resume(now);
            }
            data.touch(no, now);
            back = 0;
            for (_, row) in data.jobs.range_mut(Data::keys(no)) {
                if let Place::Ended(JobStatus::Failed | JobStatus::Cancelled) = row.place {
                    row.start_anew(now);
                    back += 1;
                }
            }
        }
        drop(data);
        if back > 0 {
            self.wake();
        }
        Ok(back)
    }

    fn delete(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error> {
        let mut data = self.change();
        let Some(no) = data.number(process) else {
            return Ok(0);
        };
        let deleted = data.jobs.range(Data::keys(no)).count() as u64;
        let family = data.family(vec![no]);
        if let Some(parent) = data.processes[&no].parent {
            family.iter().for_each(|no| data.hand_on(*no, parent >> 32));
        }
        data.remove(&family);
        data.wake_parents(now);
        Ok(deleted)
    }
}

impl ClaimStore for MemoryStore {
    fn register_worker(&self, _: Timestamp) -> Result<WorkerId, Error> {
        let mut data = self.change();
        let id = WorkerId(data.next());
        let worker = Worker {
            given: 0,
            status: WorkerStatus::default(),
            is_dead: false,
        };
        data.workers.insert(id, worker);
        self.workers.lock().push(id);
        Ok(id)
    }

    fn unregister_worker(&self, worker: WorkerId, now: Timestamp) -> Result<(), Error> {
        let back = self.change().strike(worker, false, now);
        if back.is_some_and(|jobs| jobs > 0) {
            self.wake();
        }
        Ok(())
    }

    fn claim(
        &self,
        worker: WorkerId,
        wanted: ClaimRequest<'_>,
        now: Timestamp,
    ) -> Result<ClaimReply, Error> {
        self.claims.fetch_add(1, Ordering::SeqCst);
        let mut data = self.look();
        let reply = data.claim(worker, wanted, now)?;
        data.version += u64::from(!reply.jobs.is_empty());
        Ok(reply)
    }

    fn settle(&self, ends: &[Settlement], now: Timestamp) -> Result<Vec<ProcessState>, Error> {
        if self.is_full.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Transient, "the disk is full"));
        }
        let settled = self.change().settle(ends, now);
        self.wake();
        settled
    }

    fn report_worker(&self, worker: WorkerId, status: &WorkerStatus) -> Result<(), Error> {
        if let Some(known) = self.look().workers.get_mut(&worker) {
            known.status = status.clone();
        }
        Ok(())
    }

    fn workers(&self) -> Result<Vec<WorkerInfo>, Error> {
        let data = self.look();
        let info = |(id, worker): (&WorkerId, &Worker)| {
            let mut info = WorkerInfo::new(*id, "memory", 0, Timestamp(0));
            let jobs = data.jobs.values();
            let held = jobs.filter(|row| row.place == Place::Running(*id)).count();
            let batches = data.batches.values();
            let owned = batches.filter(|batch| batch.worker == Some(*id)).count();
            (info.jobs, info.batches) = (held as u64, owned as u64);
            info.is_alive = !worker.is_dead;
            info.status = worker.status.clone();
            info
        };
        Ok(data.workers.iter().map(info).collect())
    }

    fn dead_workers(&self) -> Result<Vec<WorkerId>, Error> {
        let data = self.look();
        let dead = data.workers.iter().filter(|(_, worker)| worker.is_dead);
        Ok(dead.map(|(id, _)| *id).collect())
    }

    fn reclaim(&self, now: Timestamp) -> Result<u64, Error> {
        let mut affected = 0;
        for worker in self.dead_workers()? {
            affected += self.change().strike(worker, true, now).unwrap_or(0);
        }
        if affected > 0 {
            self.wake();
        }
        Ok(affected)
    }

    fn pull_due_times(
        &self,
        worker: WorkerId,
        back: Duration,
        longest: Duration,
        now: Timestamp,
    ) -> Result<u64, Error> {
        self.change().pull_due_times(worker, back, longest, now)
    }
}

impl BatchStore for MemoryStore {
    fn waiting_jobs(
        &self,
        kind: &str,
        processes: &[ProcessId],
        now: Timestamp,
    ) -> Result<Vec<WaitingJobs>, Error> {
        self.look().waiting_jobs(kind, processes, now)
    }

    fn open_batch(
        &self,
        worker: WorkerId,
        process: ProcessId,
        lane: &JobLane,
        record: &str,
        now: Timestamp,
    ) -> Result<BatchNo, Error> {
        self.change().open_batch(worker, process, lane, record, now)
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
        self.change()
            .fill_batch(worker, batch, after, most, bytes, now)
    }

    fn batch_jobs(
        &self,
        batch: BatchNo,
        after: Option<i64>,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<ClaimedJob>, Error> {
        self.look().batch_jobs(batch, after, most, bytes)
    }

    fn batch_jobs_by(&self, batch: BatchNo, numbers: &[u32]) -> Result<Vec<ClaimedJob>, Error> {
        self.look().batch_jobs_by(batch, numbers)
    }

    fn save_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        record: &str,
        _: Timestamp,
    ) -> Result<(), Error> {
        self.change().owned(worker, batch)?.record = record.to_owned();
        Ok(())
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
        self.change()
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
        let mut data = self.change();
        data.owned(worker, batch)?;
        let back = data.unload(batch, after, due, now);
        drop(data);
        if back > 0 {
            self.wake();
        }
        Ok(back)
    }

    fn close_batch(&self, worker: WorkerId, batch: BatchNo, now: Timestamp) -> Result<(), Error> {
        self.give_back(worker, batch, None, None, now)?;
        self.change().batches.remove(&batch);
        Ok(())
    }

    fn batches(&self, process: Option<ProcessId>) -> Result<Vec<StoredBatch>, Error> {
        Ok(self.look().stored_batches(process))
    }

    fn adopt_batches(
        &self,
        worker: WorkerId,
        mine: &mut dyn FnMut(&StoredBatch) -> bool,
        processes: &[ProcessId],
        _: Timestamp,
    ) -> Result<Vec<StoredBatch>, Error> {
        self.look().known(worker)?;
        // Nobody is asked under the lock.
        let mut free = self.batches(None)?;
        let scope = self.look().scope(processes);
        free.retain(|batch| batch.worker.is_none() && is_among(scope.as_ref(), batch.process_id));
        free.retain(|batch| mine(batch));
        let mut data = self.change();
        let taken = free.iter().filter_map(|batch| {
            let kept = data.batches.get_mut(&batch.no)?;
            if kept.worker.is_some() {
                return None;
            }
            kept.worker = Some(worker);
            data.stored(batch.no)
        });
        Ok(taken.collect())
    }
}

/// The key of a job, which may be gone by now.
fn key_of(job: JobId) -> i64 {
    i64::from_be_bytes(*job.bytes().last_chunk().unwrap())
}
