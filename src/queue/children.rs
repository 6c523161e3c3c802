//! Jobs that a job has others carry out: enqueued once, waited for without a slot, and gone with their parent.
//!
//! Children are a process of their own, whose id follows from the parent's: whoever takes the parent up
//! again, after a crash as well, finds them there instead of enqueueing them anew.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::base::brief::beginning;
use crate::base::clock::{Clock, Timestamp};
use crate::base::error::{Error, ErrorKind};
use crate::base::id::{JobId, ProcessId};

use super::host::JobQueue;
use super::info::{ParentJob, ProcessInfo};
use super::job::{Job, JobResult, JobState, ProcessState, Spent};
use super::store::JobStore;

/// More jobs than this are enqueued in several transactions.
const ONE_TRANSACTION: usize = 1000;
/// A parent looks again after a quarter of the time that its children have taken so far,
const LOOKS_PER_AGE: u32 = 4;
/// at least so long,
const SOONEST: Duration = Duration::from_millis(20);
/// and at most.
const LATEST: Duration = Duration::from_secs(5);

type Knows = dyn Fn(&str) -> bool + Send + Sync;

/// What a handler has others do for it; see [`Handler::with_children`](crate::Handler::with_children).
#[derive(Clone)]
pub struct Children {
    queue: JobQueue,
    parent: ParentJob,
    name: String,
    priority: u8,
    /// Whether this worker carries out jobs of a kind.
    knows: Arc<Knows>,
    /// The processes of children that this worker has seen.
    known: Arc<Mutex<HashSet<ProcessId>>>,
    seen: Arc<Mutex<Seen>>,
}

/// What one call of a handler learned of its children.
#[derive(Default)]
struct Seen {
    wait: Option<Duration>,
    spent: Option<Spent>,
}

impl Children {
    pub(super) fn new(
        store: &Arc<dyn JobStore>,
        clock: &Arc<dyn Clock>,
        (knows, known): (Arc<Knows>, &Arc<Mutex<HashSet<ProcessId>>>),
        parent: ParentJob,
        name: String,
        priority: u8,
    ) -> Self {
        Self {
            queue: JobQueue::on(store.clone()).clock(clock.clone()),
            parent,
            name,
            priority,
            knows,
            known: known.clone(),
            seen: Arc::default(),
        }
    }

    /// The outcomes of the jobs of a stage, in their order, failures among them; `None` while any of them
    /// is open. The first call enqueues what `jobs` makes, later ones find it there, also after a crash.
    /// Stages of one job are told apart by their names. No child has a lower priority than its parent.
    ///
    /// # Errors
    /// Those of `jobs`; [`ErrorKind::Invalid`] when this worker carries out no jobs of a kind among them; when the
    /// queue could not be read or written.
    pub fn gather(
        &self,
        stage: &str,
        jobs: impl FnOnce() -> Result<Vec<Job>, Error>,
    ) -> Result<Option<Vec<JobResult>>, Error> {
        let process =
            ProcessId::named(format!("children of {}: {stage}", self.parent.job_id).as_bytes());
        let there = match self.queue.process(process)? {
            Some(state) if state.sealed => Some(state),
            // Whoever enqueued them died over it; none of them has been started.
            Some(_) => {
                self.queue.delete(process)?;
                None
            }
            None => None,
        };
        let state = match there {
            Some(state) => state,
            None => match self.enqueue(process, stage, jobs()?)? {
                Some(state) => state,
                None => return Ok(Some(Vec::new())),
            },
        };
        self.known.lock().insert(process);
        if !state.counts.is_finished() {
            self.look_again(state.created_at);
            return Ok(None);
        }
        let results = self.queue.get_results(process).collect::<Result<_, _>>()?;
        let mut seen = self.seen.lock();
        seen.spent = Some(match seen.spent {
            Some(before) => sum(before, state.spent),
            None => state.spent,
        });
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
                let why = format!("there is no job {job} in the queue, or its result was taken");
                Err(Error::new(ErrorKind::Invalid, why))
            }
        }
    }

    /// Sets the wait for what began then.
    fn look_again(&self, since: Timestamp) {
        let age = self.queue.clock.wall().since(since);
        let wait = (age / LOOKS_PER_AGE).clamp(SOONEST, LATEST);
        self.seen.lock().wait = Some(wait);
    }

    fn enqueue(
        &self,
        process: ProcessId,
        stage: &str,
        mut jobs: Vec<Job>,
    ) -> Result<Option<ProcessState>, Error> {
        for job in &mut jobs {
            if !(self.knows)(&job.kind) {
                let kind = beginning(&job.kind, 60);
                let why = format!("this worker carries out no jobs of the kind {kind:?}");
                return Err(Error::new(ErrorKind::Invalid, why));
            }
            job.priority = job.priority.max(self.priority);
        }
        let info = ProcessInfo::new()
            .name(format!("{} of {}", stage, self.name))
            .parent(self.parent);
        let queue = self.queue.described(info);
        match jobs.len() {
            0 => return Ok(None),
            1..=ONE_TRANSACTION => drop(queue.enqueue(process, jobs)?),
            _ => drop(queue.enqueue_iter(process, jobs)?),
        }
        self.queue.process(process)
    }

    /// How long the parent waits before it looks again.
    pub(super) fn wait(&self) -> Duration {
        self.seen.lock().wait.unwrap_or(SOONEST)
    }

    /// What those children have used that have been gathered.
    pub(super) fn spent(&self) -> Option<Spent> {
        self.seen.lock().spent
    }
}

fn sum(a: Spent, b: Spent) -> Spent {
    Spent {
        input_tokens: a.input_tokens + b.input_tokens,
        output_tokens: a.output_tokens + b.output_tokens,
        cost_usd: a.cost_usd.zip(b.cost_usd).map(|(a, b)| a + b),
    }
}
