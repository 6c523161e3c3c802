//! A worker: takes jobs from the queue, carries them out, and records their ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use crate::base::cancel::Context;
use crate::base::error::Error;
use crate::base::id::ProcessId;
use crate::base::thread::spawn;
use crate::engine::dispatch::ErrorPolicy;
use crate::engine::route::RetryPolicy;
use crate::engine::run::Waker;
use crate::llm::batch::{BatchAccount, BatchClient};
use crate::llm::request::RequestTask;
use crate::llm::route::Route;
use crate::observe::progress::ProgressNotifier;

use super::backlog::{Pace, Scope};
use super::batch::{BatchClients, BatchSettings};
use super::controls::{Controls, MOST_SLOTS, Plan};
use super::handler::Handler;
use super::host::JobQueue;
use super::job::{COMPLETION_KIND, EMBEDDING_KIND};
use super::kinds::{Kind, Kinds};
use super::scale::WorkerScale;
use super::settings::WorkerSettings;
use super::worker_run::{WorkerReport, WorkerRun};

/// Carries out the jobs of a [`JobQueue`].
///
/// Any number of workers, in any number of processes on one machine, share a queue: each job is with
/// one of them at a time, and when a worker's process dies the others take over what it had, at once.
/// Never more jobs are claimed than there are free slots. Limits and fallback are those of the
/// [`Route`], when to try again is the [worker's](Self::retry) business, and waiting jobs wait in the
/// queue: a restart goes on where it was.
///
/// Unlike in a run, a provider that refuses the key, has no credit left or cannot be reached fails no
/// job: what it refused goes back, and it is asked again after a while. With
/// [`ErrorPolicy::StopOnCriticalError`] the worker ends instead, and nothing is lost either.
///
/// ```
/// use std::sync::Arc;
/// use batchwright::{
///     Context, Extract, Handler, Job, JobQueue, ProcessId, Progress, Request, Route, Worker,
/// };
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// let queue = JobQueue::open(&folder.join("llm_jobs.db"))?;
/// let process = ProcessId::new();
/// queue.enqueue(process, [
///     Job::from(Request::new("Name a prime.")),
///     Job::new("double", &21)?,
/// ])?;
/// let report = Worker::new(&queue)
///     .completions(Route::new(Extract))
///     .handle("double", Handler::new(|job, _: &Context| Ok(2 * job.parse::<i64>()?)))
///     .notifier(Arc::new(|progress: &Progress| println!("{:?} %", progress.percent)))
///     .until_empty(true)
///     .run()?;
/// assert_eq!(report.completed, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Worker {
    queue: JobQueue,
    completions: Option<Route<'static>>,
    embeddings: Option<Route<'static>>,
    batches: Option<Arc<dyn BatchClient>>,
    batch_clients: Option<Arc<BatchClients>>,
    settings: WorkerSettings,
    handlers: Vec<(String, Handler)>,
    notifier: Option<Arc<dyn ProgressNotifier>>,
    ctx: Context,
    on_error: ErrorPolicy,
    of_many: bool,
    scope: Scope,
}

impl Worker {
    /// A worker that knows no kind of jobs yet.
    pub fn new(queue: &JobQueue) -> Self {
        Self {
            queue: queue.clone(),
            completions: None,
            embeddings: None,
            batches: None,
            batch_clients: None,
            settings: WorkerSettings::default(),
            handlers: Vec::new(),
            notifier: None,
            ctx: Context::new(),
            on_error: ErrorPolicy::ContinueOnError,
            of_many: true,
            scope: Scope::default(),
        }
    }

    /// Sends the jobs that ask for an answer through this route. Default: they wait for another worker.
    pub fn completions(mut self, route: impl Into<Route<'static>>) -> Self {
        self.completions = Some(route.into());
        self
    }

    /// Sends the texts to embed through this route, many with each call. Default: they wait for another
    /// worker.
    pub fn embeddings(mut self, route: impl Into<Route<'static>>) -> Self {
        self.embeddings = Some(route.into());
        self
    }

    /// Hands jobs that ask for an answer over to a provider's Batch API. What fails there goes on by the
    /// [route](Self::completions), whose first provider should be the same one, and so do answers that
    /// the route's policy would have asked for again. Default: every prompt is a call of its own.
    pub fn batches(mut self, client: impl BatchClient + 'static) -> Self {
        self.batches = Some(Arc::new(client));
        self
    }

    /// Finds the clients of batches that were made with another account than the present one: before
    /// the provider was changed, or by another worker that has died. Default: they wait for a worker
    /// that has their account.
    pub fn batch_clients(
        mut self,
        clients: impl Fn(&BatchAccount) -> Option<Arc<dyn BatchClient>> + Send + Sync + 'static,
    ) -> Self {
        self.batch_clients = Some(Arc::new(clients));
        self
    }

    /// How many jobs run at once, and how patiently: all that the following methods set one by one, up to
    /// [`poll_interval`](Self::poll_interval). Default: as [`WorkerSettings`].
    pub fn settings(mut self, settings: WorkerSettings) -> Self {
        self.settings = settings;
        self
    }

    /// How often batches are looked at, and what is done when one cannot be found. Default: as
    /// [`BatchSettings`].
    pub fn batch_settings(mut self, settings: BatchSettings) -> Self {
        self.settings.batches = settings;
        self
    }

    /// Carries out the jobs of a kind with code of your own. Default: jobs of kinds that no worker knows
    /// wait.
    pub fn handle(mut self, kind: impl Into<String>, handler: Handler) -> Self {
        self.handlers.push((kind.into(), handler));
        self
    }

    /// Who is told about progress: first where every process stands, then each change that this worker
    /// makes, at most ten times a second, and once a second what others have changed. A process whose
    /// last result was consumed is told of no more. Default: nobody.
    pub fn notifier(mut self, notifier: Arc<dyn ProgressNotifier>) -> Self {
        self.notifier = Some(notifier);
        self
    }

    /// Cancellation and grace: after a cancel nothing is claimed, what runs may end, and what does not
    /// within the grace period goes back. Default: a context that nobody cancels.
    pub fn context(mut self, ctx: &Context) -> Self {
        self.ctx = ctx.clone();
        self
    }

    /// How patiently failures are tried again, in place of the routes' own policies; the number of
    /// retries is [another setting](Self::max_retries). Default: as [`RetryPolicy`].
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.settings.retry = retry;
        self
    }

    /// Retries of jobs that bring no number of their own, at each step of their route. Default: 3.
    pub fn max_retries(mut self, retries: u8) -> Self {
        self.settings.max_retries = retries;
        self
    }

    /// What a failure means for the others. With [`ErrorPolicy::StopOnCriticalError`] the worker ends when a
    /// provider refuses everybody or cannot be reached. Default: it goes on.
    pub fn on_error(mut self, policy: ErrorPolicy) -> Self {
        self.on_error = policy;
        self
    }

    /// Whether the jobs come from many callers. Those of one caller end the worker, where it stops for
    /// critical errors, also when no model has the name or the first replies are alike and no answers.
    pub(crate) fn of_many(mut self, yes: bool) -> Self {
        self.of_many = yes;
        self
    }

    /// How many jobs run at once. Default: as [`WorkerScale`].
    pub fn scale(mut self, scale: WorkerScale) -> Self {
        self.settings.scale = scale;
        self
    }

    /// Jobs claimed with one trip to the store, at first; more while there is much to do. Default: 10.
    pub fn batch_size(mut self, jobs: usize) -> Self {
        self.settings.batch_size = jobs;
        self
    }

    /// How often an idle worker looks for work although nobody told it of any. Default: 5 s.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.settings.poll_interval = interval;
        self
    }

    /// Takes jobs of these processes alone. Looking past the jobs of many others takes time. Default:
    /// of all.
    pub fn processes(mut self, processes: impl Into<Vec<ProcessId>>) -> Self {
        self.scope.processes = processes.into();
        self
    }

    /// Ends when nothing is left that it could claim, retries included. Default: it waits for more.
    pub fn until_empty(mut self, yes: bool) -> Self {
        self.scope.until_empty = yes;
        self
    }

    /// Ends when nothing is left that it could claim or submit: batches go on at their provider, and
    /// any worker collects them later. Default: it waits for them.
    pub fn until_submitted(mut self, yes: bool) -> Self {
        self.scope.until_submitted = yes;
        self
    }

    /// Works on the calling thread until its context is cancelled, or until nothing is left with
    /// [`until_empty`](Self::until_empty).
    ///
    /// # Errors
    /// When it could not begin; how it ended is in the report.
    pub fn run(self) -> Result<WorkerReport, Error> {
        let (life, _) = self.register()?;
        life.run()
    }

    /// Works on a thread of its own.
    ///
    /// # Errors
    /// When it could not begin.
    pub fn start(self) -> Result<RunningWorker, Error> {
        let ctx = self.ctx.child();
        let (life, controls) = Self {
            ctx: ctx.clone(),
            ..self
        }
        .register()?;
        let thread = spawn("batchwright-worker", move || life.run())?;
        Ok(RunningWorker {
            ctx,
            controls,
            thread: Some(thread),
        })
    }

    fn register(self) -> Result<(WorkerRun, Arc<Controls>), Error> {
        let first = self.completions.as_ref().or(self.embeddings.as_ref());
        let kinds = Kinds::new(first);
        let embeddings = match (self.embeddings, &self.completions) {
            (Some(route), Some(first)) => Some(route.succeeding(first)),
            (route, _) => route,
        };
        for (route, task, name) in [
            (self.completions, RequestTask::Complete, COMPLETION_KIND),
            (embeddings, RequestTask::Embed, EMBEDDING_KIND),
        ] {
            if let Some(route) = route {
                let route = Arc::new(route);
                kinds.set(name, Kind::Prompts { route, task });
            }
        }
        for (name, handler) in self.handlers {
            kinds.set(&name, Kind::Host(handler));
        }
        let (waker, woken) = Waker::new();
        let controls = Arc::new(Controls {
            permits: AtomicUsize::new(self.settings.scale.start().min(MOST_SLOTS)),
            scale: Mutex::new(self.settings.scale),
            all_busy: AtomicBool::new(false),
            pace: Arc::new(Pace {
                max_retries: AtomicU8::new(self.settings.max_retries),
                batch: AtomicU64::new(self.settings.batch_size as u64),
                poll_millis: AtomicU64::new(self.settings.poll_interval.as_millis().max(1) as u64),
            }),
            kinds: Arc::new(kinds),
            clock: self.queue.clock.clone(),
            waker,
            may_have_jobs: Arc::default(),
            batch_control: Arc::default(),
            batch_overview: Arc::default(),
            written: AtomicBool::new(false),
        });
        controls.batch_control.set(self.settings.batches);
        *controls.batch_control.clients.write() = self.batch_clients;
        controls.set_batches(self.batches);
        let plan = Plan {
            notifier: self.notifier,
            ctx: self.ctx,
            retry: self.settings.retry,
            on_error: self.on_error,
            of_many: self.of_many,
            scope: self.scope,
        };
        let life = WorkerRun::begin(self.queue.store.clone(), controls.clone(), woken, plan)?;
        Ok((life, controls))
    }
}

/// A worker on a thread of its own. Dropping it stops it, as [`stop`](Self::stop) does, which waits for
/// calls in flight as long as the grace period allows.
#[must_use = "dropping it stops the worker"]
pub struct RunningWorker {
    ctx: Context,
    controls: Arc<Controls>,
    thread: Option<thread::JoinHandle<Result<WorkerReport, Error>>>,
}

impl RunningWorker {
    /// Claims nothing more, lets what runs end within the grace period, and waits for that.
    ///
    /// # Errors
    /// When the worker could not begin.
    pub fn stop(self) -> Result<WorkerReport, Error> {
        self.ctx.cancel();
        self.join()
    }

    /// Waits for the worker's own end: with [`Worker::until_empty`], or after a critical error.
    ///
    /// # Errors
    /// When the worker could not begin.
    pub fn join(mut self) -> Result<WorkerReport, Error> {
        Self::join_thread(&mut self.thread)
    }

    /// True once it has ended.
    pub fn is_finished(&self) -> bool {
        self.thread
            .as_ref()
            .is_none_or(thread::JoinHandle::is_finished)
    }

    /// Changes how many jobs run at once. Fewer: those that run may end.
    pub fn set_scale(&self, scale: WorkerScale) {
        let mut held = self.controls.scale.lock();
        if *held == scale {
            return;
        }
        *held = scale;
        let slots = scale.start().min(MOST_SLOTS);
        self.controls.permits.store(slots, Ordering::SeqCst);
        drop(held);
        self.controls.wake();
    }

    /// Changes the route of jobs that ask for an answer. What runs ends on the old one.
    pub fn set_completions(&self, route: impl Into<Route<'static>>) {
        self.controls
            .set_route(COMPLETION_KIND, RequestTask::Complete, route.into());
    }

    /// Changes the route of texts to embed.
    pub fn set_embeddings(&self, route: impl Into<Route<'static>>) {
        self.controls
            .set_route(EMBEDDING_KIND, RequestTask::Embed, route.into());
    }

    /// Hands new prompts over to this Batch API, or to none. What is in a batch stays there.
    pub fn set_batches(&self, client: Option<Arc<dyn BatchClient>>) {
        self.controls.set_batches(client);
    }

    /// Changes who finds the clients of batches that were made with other accounts.
    pub fn set_batch_clients(
        &self,
        clients: impl Fn(&BatchAccount) -> Option<Arc<dyn BatchClient>> + Send + Sync + 'static,
    ) {
        *self.controls.batch_control.clients.write() = Some(Arc::new(clients));
        self.controls.batch_control.wake();
    }

    /// Changes how batches are looked after.
    pub fn set_batch_settings(&self, settings: BatchSettings) {
        self.controls.batch_control.set(settings);
    }

    /// Leaves jobs of a kind to other workers from now on. What runs may end.
    pub fn forget(&self, kind: &str) {
        self.controls.kinds.remove(kind);
        self.controls.wake();
    }

    /// Changes the retries of jobs that bring no number of their own, from their next claim on.
    pub fn set_max_retries(&self, retries: u8) {
        let pace = &self.controls.pace;
        pace.max_retries.store(retries, Ordering::Relaxed);
    }

    /// Changes how many jobs a trip to the store claims at first.
    pub fn set_batch_size(&self, jobs: usize) {
        let pace = &self.controls.pace;
        pace.batch.store(jobs as u64, Ordering::Relaxed);
    }

    /// Changes how often an idle worker looks for work.
    pub fn set_poll_interval(&self, interval: Duration) {
        let millis = interval.as_millis().max(1) as u64;
        let pace = &self.controls.pace;
        pace.poll_millis.store(millis, Ordering::Relaxed);
        self.controls.wake();
    }

    fn join_thread(
        thread: &mut Option<thread::JoinHandle<Result<WorkerReport, Error>>>,
    ) -> Result<WorkerReport, Error> {
        match thread.take().map(thread::JoinHandle::join) {
            Some(Ok(end)) => end,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(WorkerReport::default()),
        }
    }
}

impl Drop for RunningWorker {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.ctx.cancel();
            // A panic of the worker was shown when it happened; a destructor must not repeat it.
            drop(thread.join());
        }
    }
}
