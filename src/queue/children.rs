//! Jobs that a job has others carry out: enqueued once, waited for without a slot, and gone with their parent.
//!
//! Children are a process of their own, whose id follows from the parent's: whoever takes the parent up
//! again, after a crash as well, finds them there instead of enqueueing them anew. The store wakes the parent
//! when the last of them has its outcome, and deletes them with the parent's own end.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::base::clock::{Clock, Timestamp};
use crate::base::error::{Error, ErrorKind};
use crate::base::id::{JobId, ProcessId};

use super::host::JobQueue;
use super::info::{ParentJob, ProcessInfo};
use super::job::{Job, JobResult, JobState, ProcessState};
use super::store::JobStore;

/// More jobs than this are enqueued in several transactions.
const ONE_TRANSACTION: usize = 1000;
/// A parent that its children will wake looks so often all the same.
const UNWOKEN: Duration = Duration::from_secs(60);
/// Whoever waits for other jobs looks again after a quarter of the time that these have taken so far,
const LOOKS_PER_AGE: u32 = 4;
/// at least so long,
const SOONEST: Duration = Duration::from_millis(20);
/// and at most.
const LATEST: Duration = Duration::from_secs(5);
/// A handler that waits for nothing it has asked for is called again after so long.
const UNTOLD: Duration = Duration::from_secs(1);

/// What a handler has others do for it; see [`Handler::with_children`](crate::Handler::with_children).
#[derive(Clone)]
pub struct Children {
    queue: JobQueue,
    parent: ParentJob,
    name: String,
    priority: u8,
    waits: Arc<Mutex<Waits>>,
}

/// What a job waits for.
pub(crate) struct Awaited {
    /// Until one of these processes has no open job,
    pub processes: Vec<ProcessId>,
    /// or so long.
    pub at_most: Duration,
}

/// What one call of a handler found that is not there yet.
#[derive(Default)]
struct Waits {
    processes: Vec<ProcessId>,
    at_most: Option<Duration>,
}

impl Children {
    pub(super) fn new(
        store: &Arc<dyn JobStore>,
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
            waits: Arc::default(),
        }
    }

    /// The outcomes of the jobs of a stage, in their order, failures among them; `None` while any of them
    /// is open. The first call enqueues what `jobs` makes, later ones find it there, also after a crash, and
    /// when the parent is put back after it has failed: then only those are carried out again that failed or were
    /// cancelled. Stages of one job are told apart by their names. No child has a lower priority than its parent.
    /// Children of a kind that this worker does not know wait for another one.
    ///
    /// # Errors
    /// Those of `jobs`; when the queue could not be read or written.
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
                // Whoever enqueued them died over it, and none of them was started; or somebody deletes them.
                self.queue.delete(process)?;
                match self.enqueue(process, stage, jobs()?) {
                    Ok(Some(state)) => state,
                    Ok(None) => return Ok(Some(Vec::new())),
                    // The parent was cancelled meanwhile, or deleted.
                    Err(error) if error.is_claim_lost() => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
        };
        if !state.counts.is_finished() {
            self.wait(process, UNWOKEN);
            return Ok(None);
        }
        if state.cancelled && self.is_cancelled()? {
            return Ok(None);
        }
        let results: Vec<JobResult> = self.queue.get_results(process).collect::<Result<_, _>>()?;
        // Somebody puts them back just now.
        if (results.len() as u64) < state.counts.total - state.counts.consumed {
            self.wait(process, SOONEST);
            return Ok(None);
        }
        Ok(Some(results))
    }

    /// The outcome of any other job of the queue; `None` while it has none.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when there is no such job, or its result was taken; when the queue could not be
    /// read.
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

    /// Sets the wait for what began then, and whose end nobody tells.
    fn look_again(&self, since: Timestamp) {
        let age = self.queue.clock.wall().since(since);
        let wait = (age / LOOKS_PER_AGE).clamp(SOONEST, LATEST);
        self.waits.lock().at_most(wait);
    }

    fn wait(&self, process: ProcessId, at_most: Duration) {
        let mut waits = self.waits.lock();
        waits.processes.push(process);
        waits.at_most(at_most);
    }

    /// Whether the parent was cancelled with them, which is no outcome of theirs.
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

    /// What the parent waits for.
    pub(super) fn awaited(&self) -> Awaited {
        let waits = self.waits.lock();
        Awaited {
            processes: waits.processes.clone(),
            at_most: waits.at_most.unwrap_or(UNTOLD),
        }
    }
}

impl Waits {
    fn at_most(&mut self, wait: Duration) {
        self.at_most = Some(self.at_most.map_or(wait, |known| known.min(wait)));
    }
}
