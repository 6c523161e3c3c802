//! Jobs that a job creates: enqueued once, waited for without a slot, and deleted with their parent.
//!
//! Children form a separate process whose id follows from the parent's. A worker that continues the parent, also after a
//! crash, therefore finds them instead of enqueueing them again. The parent returns to the queue and looks again after a part
//! of their age; the store deletes the children with the parent's own end.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::base::{Clock, Error, ErrorKind, JobId, ProcessId, Timestamp};

use super::host::JobQueue;
use super::info::{ParentJob, ProcessInfo};
use super::job::{Job, JobResult, JobState, ProcessState};
use super::store::Store;

/// More jobs than this are enqueued in several transactions.
const ONE_TRANSACTION: usize = 1000;
/// A job that waits for other jobs checks again after this part of their age: a quarter,
const LOOKS_PER_AGE: u32 = 4;
/// but at least after this time,
const SOONEST: Duration = Duration::from_millis(20);
/// and at most after this time.
const LATEST: Duration = Duration::from_secs(5);
/// Interval of calls of a handler that returned `None` although it waits for nothing.
const WITHOUT_REASON: Duration = Duration::from_secs(1);

/// The child jobs of a job; see [`Handler::with_children`](crate::Handler::with_children).
#[derive(Clone)]
pub struct Children {
    queue: JobQueue,
    parent: ParentJob,
    name: String,
    priority: u8,
    /// When the handler looks again, if it waits for anything.
    looks_again: Arc<Mutex<Option<Duration>>>,
}

impl Children {
    pub(super) fn new(
        store: &Arc<Store>,
        clock: &Arc<dyn Clock>,
        parent: ParentJob,
        name: String,
        priority: u8,
    ) -> Self {
        Self {
            queue: JobQueue::on(store.clone()).clock(clock.clone()),
            parent,
            name,
            priority,
            looks_again: Arc::default(),
        }
    }

    /// The outcomes of the jobs of a stage, including failures, in their order; `None` while any job is open.
    ///
    /// The first call enqueues the jobs that `jobs` returns. Later calls find them, also after a crash. If the parent is
    /// requeued after a failure, only failed and cancelled children run again. The name distinguishes the stages of a job.
    /// The priority of a child is at least that of its parent. Children of a kind that this worker does not support wait for
    /// another worker.
    ///
    /// # Errors
    /// Those of `jobs`; or if the queue could not be read or written.
    pub fn gather(
        &self,
        stage: &str,
        jobs: impl FnOnce() -> Result<Vec<Job>, Error>,
    ) -> Result<Option<Vec<JobResult>>, Error> {
        let process =
            ProcessId::named(format!("children of {}: {stage}", self.parent.job_id).as_bytes());
        let there = self.queue.process(process)?;
        let state = match there.filter(|state| state.sealed) {
            Some(state) => state,
            None => {
                // Either a crash interrupted their enqueueing and none has started, or another program is deleting
                // them.
                self.queue.delete(process)?;
                match self.enqueue(process, stage, jobs()?) {
                    Ok(Some(state)) => state,
                    Ok(None) => return Ok(Some(Vec::new())),
                    // The parent was cancelled or deleted in the meantime.
                    Err(error) if error.is_claim_lost() => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
        };
        if !state.counts.is_finished() {
            self.look_again(state.created_at);
            return Ok(None);
        }
        if state.cancelled && self.is_cancelled()? {
            return Ok(None);
        }
        let results: Vec<JobResult> = self.queue.get_results(process).collect::<Result<_, _>>()?;
        // Another program is requeueing them.
        if (results.len() as u64) < state.counts.total - state.counts.consumed {
            self.look_again(self.queue.clock.wall());
            return Ok(None);
        }
        Ok(Some(results))
    }

    /// The outcome of any other job of the queue; `None` while it has none.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the job does not exist, or its result was consumed; or if the queue
    /// could not be read.
    pub fn outcome(&self, job: JobId) -> Result<Option<JobState>, Error> {
        match self.queue.job(job)? {
            Some(state) if state.status.is_final() => Ok(Some(state)),
            Some(state) => {
                self.look_again(state.created_at);
                Ok(None)
            }
            None => {
                let why = format!("the job {job} does not exist, or its result was fetched");
                Err(Error::new(ErrorKind::Invalid, why))
            }
        }
    }

    /// Sets the wait for jobs that started at `since`.
    fn look_again(&self, since: Timestamp) {
        let age = self.queue.clock.wall().since(since);
        let wait = (age / LOOKS_PER_AGE).clamp(SOONEST, LATEST);
        let mut known = self.looks_again.lock();
        *known = Some(known.map_or(wait, |known| known.min(wait)));
    }

    /// Whether the parent was cancelled together with them; then they have no outcome.
    fn is_cancelled(&self) -> Result<bool, Error> {
        let process = self.queue.process(self.parent.process_id)?;
        Ok(process.is_none_or(|process| process.cancelled))
    }

    fn enqueue(
        &self,
        process: ProcessId,
        stage: &str,
        mut jobs: Vec<Job>,
    ) -> Result<Option<ProcessState>, Error> {
        for job in &mut jobs {
            job.priority = job.priority.max(self.priority);
        }
        let info = ProcessInfo::new()
            .name(format!("{} of {}", stage, self.name))
            .child_of(self.parent);
        let queue = self.queue.described(info);
        match jobs.len() {
            0 => return Ok(None),
            1..=ONE_TRANSACTION => drop(queue.enqueue(process, jobs)?),
            _ => drop(queue.enqueue_iter(process, jobs)?),
        }
        self.queue.process(process)
    }

    /// How long the parent waits.
    pub(super) fn wait(&self) -> Duration {
        self.looks_again.lock().unwrap_or(WITHOUT_REASON)
    }
}
