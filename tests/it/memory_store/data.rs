//! What the store keeps, and what happens to a job: every change of one is here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use batchwright::progress::{ItemTime, Timestamp};
use batchwright::queue::{
    AttemptError, DeliveredResult, JobCounts, JobLane, JobReceipt, JobResult, JobState, JobStatus,
    JobSummary, ProcessInfo, ProcessState, ProcessTime, Spent, WorkerStatus,
};
use batchwright::unstable::{BatchNo, ClaimedJob, JobParts, MAX_CRASHES, WorkerId};
use batchwright::{Error, ErrorKind, JobId, ProcessId};
use serde_json::value::RawValue;

#[derive(Clone, Copy, PartialEq)]
pub enum Place {
    /// Not to be claimed before its process is sealed.
    Held,
    Waiting,
    /// For other jobs.
    Awaiting,
    Running(WorkerId),
    InBatch(BatchNo),
    Ended(JobStatus),
}

impl Place {
    pub fn waits(self) -> bool {
        matches!(self, Self::Held | Self::Waiting | Self::Awaiting)
    }

    pub fn has_ended(self) -> bool {
        matches!(self, Self::Ended(_))
    }

    fn status(self) -> JobStatus {
        match self {
            Self::Held | Self::Waiting | Self::Awaiting => JobStatus::Pending,
            Self::Running(_) | Self::InBatch(_) => JobStatus::InProgress,
            Self::Ended(status) => status,
        }
    }
}

pub struct Row {
    pub id: JobId,
    pub parts: JobParts,
    pub lane: Arc<JobLane>,
    pub place: Place,
    pub claim: i64,
    pub created_at: Timestamp,
    pub due_at: Timestamp,
    /// The processes that it waits for.
    pub awaits: Vec<ProcessId>,
    pub calls: u32,
    pub attempt: u8,
    pub crashes: u8,
    pub lost: bool,
    pub in_doubt: bool,
    pub history: Option<String>,
    pub result: Option<Box<RawValue>>,
    pub error: Option<Error>,
}

impl Row {
    pub fn claimed(&self, key: i64, process_id: ProcessId) -> ClaimedJob {
        ClaimedJob {
            receipt: JobReceipt {
                job: key,
                claim: self.claim,
            },
            job_id: self.id,
            process_id,
            lane: self.lane.clone(),
            item_id: self.parts.item_id.clone(),
            request_hash: self.parts.request_hash.clone(),
            payload: self.parts.payload.clone(),
            priority: self.parts.priority,
            max_retries: self.parts.max_retries,
            attempt: self.attempt,
            calls: self.calls,
            crashes: self.crashes,
            lost: self.lost,
            in_doubt: self.in_doubt,
            due_at: self.due_at,
            history: self.history.clone(),
        }
    }

    pub fn state(&self, key: i64, process_id: ProcessId) -> JobState {
        let mut state = JobState::new(self.id, process_id, &self.parts.kind, self.created_at);
        state.item_id = self.parts.item_id.clone();
        state.status = self.place.status();
        state.priority = self.parts.priority;
        state.step = self.lane.step;
        state.attempts = self.calls;
        state.crashes = self.crashes;
        state.due_at = self.place.waits().then_some(self.due_at);
        state.result = self.result.clone();
        state.error = self.error.clone();
        state.errors = self
            .history
            .as_deref()
            .map_or_else(Vec::new, AttemptError::in_history);
        let history = self.history.as_deref();
        state.time = history.and_then(|text| ItemTime::in_history(text, self.created_at));
        let claim = self.claim;
        state.receipt = (self.place.has_ended()).then_some(JobReceipt { job: key, claim });
        state
    }

    pub fn summary(&self) -> JobSummary {
        JobSummary {
            job_id: self.id,
            item_id: self.parts.item_id.clone(),
            request_hash: self.parts.request_hash.clone(),
            status: self.place.status(),
            at_provider: matches!(self.place, Place::InBatch(_)),
        }
    }

    pub fn delivered(&self, key: i64, process_id: ProcessId) -> DeliveredResult {
        let status = self.place.status();
        let mut result = JobResult::new(self.id, process_id, &self.parts.kind, status);
        result.item_id = self.parts.item_id.clone();
        result.request_hash = self.parts.request_hash.clone();
        result.result = self.result.clone();
        result.error = self.error.clone();
        result.attempts = self.calls;
        DeliveredResult {
            receipt: JobReceipt {
                job: key,
                claim: self.claim,
            },
            result,
        }
    }

    pub fn cancel(&mut self) {
        self.place = Place::Ended(JobStatus::Cancelled);
        self.error = Some(Error::cancelled());
    }

    /// Back to waiting, or cancelled with its process.
    pub fn put_back(&mut self, due_at: Option<Timestamp>, cancelled: bool) {
        if cancelled {
            return self.cancel();
        }
        self.place = Place::Waiting;
        self.due_at = due_at.unwrap_or(self.due_at);
    }

    /// It has waited for others long enough.
    pub fn look_again(&mut self, now: Timestamp) {
        self.place = Place::Waiting;
        self.due_at = self.due_at.min(now);
    }

    /// Back with all its retries.
    pub fn start_anew(&mut self, now: Timestamp) {
        self.place = Place::Waiting;
        self.claim += 1;
        self.due_at = now;
        (self.attempt, self.crashes) = (0, 0);
        (self.history, self.result, self.error) = (None, None, None);
        self.set_step(0);
    }

    pub fn set_step(&mut self, step: u8) {
        if self.lane.step != step {
            let mut lane = JobLane::clone(&self.lane);
            lane.step = step;
            self.lane = Arc::new(lane);
        }
    }

    /// Its worker died.
    pub fn lose(&mut self, cancelled: bool) {
        self.crashes += 1;
        self.lost = true;
        if self.crashes >= MAX_CRASHES && !cancelled {
            self.place = Place::Ended(JobStatus::Failed);
            self.error = Some(Error::new(ErrorKind::Crashed, "its worker died, again"));
        } else {
            self.put_back(None, cancelled);
        }
    }
}

pub struct Process {
    pub id: ProcessId,
    /// The key of the job that waits for its jobs.
    pub parent: Option<i64>,
    pub sealed: bool,
    pub cancelled_at: Option<Timestamp>,
    pub total: u64,
    /// Jobs whose outcomes were deleted, which still count.
    pub consumed: JobCounts,
    pub spent: Spent,
    pub created_at: Timestamp,
    pub changed_at: Timestamp,
    pub info: ProcessInfo,
    pub time: ProcessTime,
}

impl Process {
    pub fn new(id: ProcessId, now: Timestamp) -> Self {
        let state = ProcessState::new(id, now);
        Self {
            id,
            parent: None,
            sealed: state.sealed,
            cancelled_at: None,
            total: 0,
            consumed: JobCounts::default(),
            spent: state.spent,
            created_at: now,
            changed_at: now,
            info: state.info,
            time: state.time,
        }
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled_at.is_some()
    }

    pub fn spend(&mut self, spent: &Spent) {
        let sum = |all: u64, more: u64| all.saturating_add(more);
        self.spent.input_tokens = sum(self.spent.input_tokens, spent.input_tokens);
        self.spent.output_tokens = sum(self.spent.output_tokens, spent.output_tokens);
        // What is not known once stays unknown.
        let costs = self.spent.cost_usd.zip(spent.cost_usd);
        self.spent.cost_usd = costs.map(|(all, more)| all + more);
    }
}

fn count(counts: &mut JobCounts, place: Place) {
    let counter = match place {
        Place::Held | Place::Waiting | Place::Awaiting => &mut counts.pending,
        Place::Running(_) => &mut counts.in_progress,
        Place::InBatch(_) => &mut counts.at_provider,
        Place::Ended(JobStatus::Completed) => &mut counts.completed,
        Place::Ended(JobStatus::Failed) => &mut counts.failed,
        Place::Ended(_) => &mut counts.cancelled,
    };
    *counter += 1;
}

pub struct Worker {
    /// Jobs it was given.
    pub given: u64,
    pub status: WorkerStatus,
    pub is_dead: bool,
}

pub struct Batch {
    /// The number of a process, which may be gone.
    pub process: i64,
    pub lane: Arc<JobLane>,
    pub worker: Option<WorkerId>,
    pub record: String,
    pub created_at: Timestamp,
}

#[derive(Default)]
pub struct Data {
    /// Rises with every change.
    pub version: u64,
    pub processes: BTreeMap<i64, Process>,
    pub numbers: HashMap<ProcessId, i64>,
    /// By key: the number of the process and the place in it.
    pub jobs: BTreeMap<i64, Row>,
    pub workers: BTreeMap<WorkerId, Worker>,
    pub batches: BTreeMap<BatchNo, Batch>,
    /// The last number that was given to a process, a worker or a batch.
    pub last: i64,
}

pub fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, why)
}

/// In this scope; everything is when there is none.
pub fn is_among(scope: Option<&BTreeSet<ProcessId>>, id: Option<ProcessId>) -> bool {
    scope.is_none_or(|scope| id.is_some_and(|id| scope.contains(&id)))
}

impl Data {
    pub fn next(&mut self) -> i64 {
        self.last += 1;
        self.last
    }

    /// The keys of a process's jobs.
    pub fn keys(no: i64) -> std::ops::Range<i64> {
        no << 32..(no + 1) << 32
    }

    pub fn process_of(&self, key: i64) -> Option<&Process> {
        self.processes.get(&(key >> 32))
    }

    /// Whether what runs of a process is not tried again.
    pub fn is_stopped(&self, no: i64) -> bool {
        self.processes.get(&no).is_none_or(Process::is_cancelled)
    }

    /// The number of a process that exists.
    pub fn number(&self, id: ProcessId) -> Option<i64> {
        self.numbers.get(&id).copied()
    }

    pub fn touch(&mut self, no: i64, now: Timestamp) {
        if let Some(process) = self.processes.get_mut(&no) {
            process.changed_at = process.changed_at.max(now);
        }
    }

    /// The key of a job that is stored under this very id.
    pub fn key_of(&self, id: JobId) -> Option<i64> {
        let key = i64::from_be_bytes(*id.bytes().last_chunk().unwrap());
        let row = self.jobs.get(&key)?;
        (row.id == id).then_some(key)
    }

    pub fn state(&self, no: i64) -> Option<ProcessState> {
        let process = self.processes.get(&no)?;
        let mut state = ProcessState::new(process.id, process.created_at);
        state.sealed = process.sealed;
        state.cancelled = process.is_cancelled();
        state.counts = process.consumed;
        state.counts.total = process.total;
        for row in self.jobs.range(Self::keys(no)).map(|(_, row)| row) {
            count(&mut state.counts, row.place);
        }
        state.spent = process.spent;
        state.changed_at = process.changed_at;
        state.info = process.info.clone();
        state.time = process.time;
        Some(state)
    }

    /// Removes an outcome that was read under this receipt. The number of its process, if it was there.
    pub fn consume(&mut self, receipt: JobReceipt) -> Option<i64> {
        let row = self.jobs.get(&receipt.job)?;
        if row.claim != receipt.claim || !row.place.has_ended() {
            return None;
        }
        let (place, no) = (row.place, receipt.job >> 32);
        self.jobs.remove(&receipt.job);
        let process = self.processes.get_mut(&no)?;
        count(&mut process.consumed, place);
        process.consumed.consumed += 1;
        Some(no)
    }

    /// A process to which nothing more is to come is gone with its last outcome.
    pub fn drop_if_empty(&mut self, no: i64) {
        let empty =
            |process: &Process| process.sealed && process.consumed.consumed == process.total;
        if self.processes.get(&no).is_some_and(empty)
            && let Some(process) = self.processes.remove(&no)
        {
            self.numbers.remove(&process.id);
        }
    }

    pub fn known(&self, worker: WorkerId) -> Result<(), Error> {
        let known = self.workers.contains_key(&worker);
        known
            .then_some(())
            .ok_or_else(|| invalid("the worker is on no list"))
    }

    /// Takes a worker off the list. Returns how many jobs it had; `None` if it was not on it.
    pub fn strike(&mut self, worker: WorkerId, died: bool, now: Timestamp) -> Option<u64> {
        self.workers.remove(&worker)?;
        for batch in self.batches.values_mut() {
            if batch.worker == Some(worker) {
                batch.worker = None;
            }
        }
        let held = self.jobs.iter();
        let held = held.filter(|(_, row)| row.place == Place::Running(worker));
        let held: Vec<i64> = held.map(|(key, _)| *key).collect();
        for key in &held {
            let cancelled = self.is_stopped(key >> 32);
            if let Some(row) = self.jobs.get_mut(key) {
                if died {
                    row.lose(cancelled);
                } else {
                    row.put_back(None, cancelled);
                }
            }
            self.touch(key >> 32, now);
        }
        self.wake_parents(now);
        Some(held.len() as u64)
    }
}
