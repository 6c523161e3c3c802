//! What processes the jobs of a kind: prompts on a route, or a host's own code; and the jobs that a job creates.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::base::brief::{Bytes, Name};
use crate::base::thread::spawn;
use crate::base::{Clock, Context, Error, ErrorKind, JobId, Mark, ProcessId, Timestamp};
use crate::engine::run::panicked;

use super::host::JobQueue;
use super::info::{ParentJob, ProcessInfo};
use super::job::{Job, JobResult, ProcessState};
use super::store::{ClaimedJob, Store};

/// A job that a handler processes. Its `Debug` output omits the payload.
#[derive(Clone, derive_more::Debug)]
#[non_exhaustive]
pub struct RunningJob {
    /// Its id.
    pub job_id: JobId,
    /// The process it belongs to.
    pub process_id: ProcessId,
    /// Its kind.
    #[debug("{:?}", Name(kind))]
    pub kind: String,
    /// Your own name for the job.
    #[debug("{:?}", item_id.as_deref().map(Name))]
    pub item_id: Option<String>,
    /// The payload in JSON.
    #[debug("{:?}", Bytes(payload.get().len()))]
    pub payload: Box<RawValue>,
    /// Calls made for it before this one.
    pub attempts: u32,
    /// How many workers crashed with this job.
    pub crashes: u8,
}

impl RunningJob {
    /// A job as a handler receives it; for tests of handlers.
    pub fn of(job: &Job) -> Self {
        Self {
            job_id: JobId::from_bytes([0; 16]),
            process_id: ProcessId::from_bytes([0; 16]),
            kind: job.kind.clone(),
            item_id: job.item_id.clone(),
            payload: job.payload.clone(),
            attempts: 0,
            crashes: 0,
        }
    }

    pub(super) fn new(claimed: &ClaimedJob, attempts: u32) -> Self {
        Self {
            job_id: claimed.job_id,
            process_id: claimed.process_id,
            kind: claimed.lane.kind.clone(),
            item_id: claimed.item_id.clone(),
            payload: claimed.payload.clone(),
            attempts,
            crashes: claimed.crashes,
        }
    }

    /// The payload as your own type.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the payload is not of this type; the job then fails permanently.
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        serde_json::from_str(self.payload.get()).map_err(|error| {
            let why = format!("the payload of this {} job: {error}", self.kind);
            Error::new(ErrorKind::Invalid, why)
        })
    }
}

/// The result of a job as JSON.
pub(super) fn result_json(result: &impl Serialize) -> Result<Box<RawValue>, Error> {
    to_raw_value(result).map_err(|error| {
        let why = format!("the result is not JSON: {error}");
        Error::new(ErrorKind::Malformed, why)
    })
}

/// `None` while it waits for its children.
type Made = Result<Option<Box<RawValue>>, Error>;
type Handle = dyn Fn(&RunningJob, &Children, &Context) -> Made + Send + Sync;

/// Processes the jobs of a kind with your own code.
///
/// The kind of an error decides what follows. [`ErrorKind::Transient`] and [`ErrorKind::RateLimited`] are retried,
/// exactly after the wait of [`Error::with_retry_after`] if it is set. [`ErrorKind::Invalid`] fails the job at once.
/// `?` converts an [`io::Error`](std::io::Error) into one of these kinds. A panic fails only its job.
///
/// [`ErrorKind::Auth`], [`ErrorKind::Quota`] and [unreachable](Error::with_unreachable) errors affect all jobs of the
/// kind. The job returns to the queue, and the worker starts no job of the kind for 1 minute (10 seconds if a host
/// was unreachable), or ends, according to its [error policy](crate::Worker::on_error). If other jobs of the kind
/// succeed meanwhile, [`ErrorKind::Auth`] concerns only this job: it is retried every 10 seconds. With status 403 it
/// fails after 4 attempts.
#[derive(Clone)]
pub struct Handler {
    handle: Arc<Handle>,
    limit: Option<Duration>,
}

impl Handler {
    /// A handler that returns a result for each job. It should return soon after its context is
    /// [cancelled](Context::is_cancelled), because a stopping worker waits for it until the grace period ends.
    pub fn new<R: Serialize>(
        handle: impl Fn(&RunningJob, &Context) -> Result<R, Error> + Send + Sync + 'static,
    ) -> Self {
        Self::with_children(move |job, _, ctx| handle(job, ctx).map(Some))
    }

    /// A handler of jobs that create child jobs. It [gathers](Children::gather) the results of jobs of any kind, and
    /// returns `None` while they are open. The job then waits without a slot; this uses up no attempt. The handler starts
    /// again from the beginning after a quarter of the children's age, 20 ms to 5 s, so it should do its own work after
    /// gathering. The children are enqueued once, even after a crash, in a process with its own id. They are deleted
    /// when the job is completed. If the job fails, they stay until its result is consumed: if the job is
    /// [requeued](crate::JobQueue::retry_failed), only failed children run again. Their tokens and cost also
    /// count for the process of their oldest ancestor.
    ///
    /// ```
    /// use batchwright::{Context, Handler, Job, JobQueue, ProcessId, RunningJob, Worker};
    /// use batchwright::queue::Children;
    /// let queue = JobQueue::in_memory()?;
    /// let process = ProcessId::new();
    /// queue.enqueue(process, [Job::new("sum", &[1, 2, 3])?])?;
    /// let sum = Handler::with_children(|job: &RunningJob, children: &Children, _: &Context| {
    ///     let squares = || job.parse::<Vec<u64>>()?.iter().map(|n| Job::new("square", n)).collect();
    ///     let Some(squares) = children.gather("squares", squares)? else {
    ///         return Ok(None);
    ///     };
    ///     let squares: Vec<u64> = squares.iter().map(|one| one.parse()).collect::<Result<_, _>>()?;
    ///     Ok(Some(squares.iter().sum::<u64>()))
    /// });
    /// let square = Handler::new(|job, _: &Context| Ok(job.parse::<u64>()?.pow(2)));
    /// Worker::new(&queue).handle("sum", sum).handle("square", square).until_empty(true).run()?;
    /// let results: Vec<_> = queue.get_results(process).collect::<Result<_, _>>()?;
    /// assert_eq!(results[0].parse::<u64>()?, 14);
    /// # Ok::<(), batchwright::Error>(())
    /// ```
    pub fn with_children<R: Serialize>(
        handle: impl Fn(&RunningJob, &Children, &Context) -> Result<Option<R>, Error>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let handle = move |job: &RunningJob, children: &Children, ctx: &Context| {
            let result = handle(job, children, ctx)?;
            result.map(|result| result_json(&result)).transpose()
        };
        Self {
            handle: Arc::new(handle),
            limit: None,
        }
    }

    /// The time limit of one job. Each job then has its own thread. If it exceeds the limit, its context is
    /// cancelled, and the job fails as [`ErrorKind::Transient`] and is retried. A result that the thread returns
    /// later is used, except if the job has already ended. Default: no limit; a handler that hangs keeps its slot.
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Makes one call; `late` receives a result that arrived after the limit.
    pub(super) fn call(
        &self,
        job: &RunningJob,
        children: &Children,
        ctx: &Context,
        late: impl FnOnce(Box<RawValue>) + Send + 'static,
    ) -> Made {
        let Some(limit) = self.limit else {
            return (self.handle)(job, children, ctx);
        };
        let (done, end) = bounded(0);
        let own = ctx.child();
        let (handle, kind) = (self.handle.clone(), job.kind.clone());
        let call = {
            let (job, children, own) = (job.clone(), children.clone(), own.clone());
            move || {
                let result = catch_unwind(AssertUnwindSafe(|| handle(&job, &children, &own)));
                let result = result.unwrap_or_else(|panic| Err(panicked("the handler", panic)));
                // The caller has stopped waiting.
                if let Err(unheard) = done.send(result)
                    && let Ok(Some(result)) = unheard.into_inner()
                {
                    late(result);
                }
            }
        };
        // It may be retried once the system has a thread.
        spawn(format!("batchwright-{kind}"), call)
            .map_err(|error| Error::new(ErrorKind::Transient, error.message()))?;
        match end.recv_timeout(limit) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                own.abort();
                let seconds = limit.as_secs_f64();
                let why = format!("the handler of {kind} jobs did not end within {seconds} s");
                Err(Error::new(ErrorKind::Transient, why).with_timed_out())
            }
        }
    }
}

// Jobs that a job creates: enqueued once, waited for without a slot, and deleted with their parent.
//
// Children form a separate process whose id follows from the parent's. A worker that continues the parent, also after a
// crash, therefore finds them instead of enqueueing them again. The parent returns to the queue and looks again after a part
// of their age; the store deletes the children with the parent's own end.

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
                    Err(error) if error.is_marked(Mark::ClaimLost) => return Ok(None),
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
        let info = ProcessInfo {
            parent: Some(self.parent),
            ..ProcessInfo::new().name(format!("{} of {}", stage, self.name))
        };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{Clock, SystemClock};
    use crate::queue::info::ParentJob;
    use crate::queue::store::Store;
    use crate::queue::store::sqlite::SqliteOptions;

    /// Calls a handler on its own thread within this time.
    fn call(
        handler: Handler,
        millis: u64,
        ctx: &Context,
        late: impl FnOnce(Box<RawValue>) + Send + 'static,
    ) -> Error {
        let job = RunningJob::of(&Job::new("test", &7).unwrap());
        let store: Arc<Store> = Arc::new(Store::in_memory(SqliteOptions::default()).unwrap());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let parent = ParentJob {
            process_id: job.process_id,
            job_id: job.job_id,
        };
        let children = Children::new(&store, &clock, parent, "a".into(), 5);
        let handler = handler.within(Duration::from_millis(millis));
        handler.call(&job, &children, ctx, late).unwrap_err()
    }

    #[test]
    fn a_handler_that_hangs_costs_its_limit_and_what_it_returns_later_is_not_lost() {
        let (go, wait) = bounded::<()>(0);
        let handler = Handler::new(move |job: &RunningJob, _: &Context| {
            let _ = wait.recv();
            job.parse::<u32>()
        });
        let (tell, told) = bounded(1);
        let late = move |result: Box<RawValue>| tell.send(result.get().to_owned()).unwrap();
        let error = call(handler, 5, &Context::new(), late);
        assert_eq!(error.kind(), ErrorKind::Transient);
        assert!(error.timed_out());
        go.send(()).unwrap();
        assert_eq!(told.recv().unwrap(), "7");
    }

    #[test]
    fn a_handler_on_its_own_thread_is_told_to_stop_and_may_panic() {
        let ctx = Context::new();
        let panics =
            Handler::new(|_: &RunningJob, _: &Context| -> Result<(), Error> { panic!("oh no") });
        let error = call(panics, 10_000, &ctx, |_| {});
        assert_eq!(error.kind(), ErrorKind::Panic);
        assert!(error.message().contains("oh no"));

        let waits = Handler::new(|_: &RunningJob, ctx: &Context| -> Result<(), Error> {
            let _ = ctx.cancel_signal().receiver.recv();
            Err(Error::cancelled())
        });
        ctx.cancel();
        let error = call(waits, 10_000, &ctx, |_| {});
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    }
}
