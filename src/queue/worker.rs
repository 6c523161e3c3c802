//! A worker: takes jobs from the queue, carries them out, and records their ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
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
use crate::llm::batch::{BatchAccount, BatchClient, BatchClients};
use crate::llm::route::Route;
use crate::observe::jobs::JobObserver;
use crate::observe::progress::ProgressNotifier;

use super::backlog::Scope;
use super::batch::{BatchControl, BatchSettings};
use super::controls::{Change, Controls, FixedOptions, Follower, MOST_SLOTS};
use super::handler::Handler;
use super::host::JobQueue;
use super::job::{COMPLETION_KIND, EMBEDDING_KIND};
use super::job_kinds::JobKinds;
use super::kind::Kind;
use super::kinds::Kinds;
use super::model_call::ModelCall;
use super::scale::WorkerScale;
use super::settings::WorkerSettings;
use super::store::WorkerStatus;
use super::worker_limits::WorkerLimits;
use super::worker_run::{WorkerReport, WorkerRun};

/// Carries out the jobs of a [`JobQueue`].
///
/// Any number of workers share a queue: in any number of processes on one machine, and on many machines if the
/// queue is on a database server. Each job is with one of them at a time. When a worker's process dies, the others
/// take over its jobs: at once on one machine, when its lease has ended on many.
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
    model_calls: Option<(Route<'static>, Vec<(String, ModelCall)>)>,
    notifier: Option<Arc<dyn ProgressNotifier>>,
    observer: Option<Arc<dyn JobObserver>>,
    ctx: Context,
    on_error: ErrorPolicy,
    of_many: bool,
    scope: Scope,
    follower: Option<Follower>,
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
            model_calls: None,
            notifier: None,
            observer: None,
            ctx: Context::new(),
            on_error: ErrorPolicy::ContinueOnError,
            of_many: true,
            scope: Scope::default(),
            follower: None,
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

    /// Sends the jobs of these kinds, of which each is one call of a model, through this route. It shares
    /// limits and pauses with the others. Default: jobs of kinds that no worker knows wait.
    pub fn model_calls<K: Into<String>>(
        mut self,
        route: impl Into<Route<'static>>,
        calls: impl IntoIterator<Item = (K, ModelCall)>,
    ) -> Self {
        let calls = calls.into_iter().map(|(kind, call)| (kind.into(), call));
        self.model_calls = Some((route.into(), calls.collect()));
        self
    }

    /// Carries out the jobs of these kinds; those that ask a model go through this route, whose calls may take as long as
    /// it is set to. It takes the place of [`model_calls`](Self::model_calls). Default: jobs of kinds that no worker knows
    /// wait.
    pub fn job_types(
        mut self,
        kinds: impl Into<JobKinds>,
        route: impl Into<Route<'static>>,
    ) -> Self {
        let JobKinds { calls, handlers } = kinds.into();
        self.handlers.extend(handlers);
        self.model_calls(route, calls)
    }

    /// The kinds of jobs that it carries out as it was made, by their names; a worker that follows settings may come
    /// to others.
    pub fn kinds(&self) -> Vec<String> {
        let prompts = [
            (self.completions.is_some(), COMPLETION_KIND),
            (self.embeddings.is_some(), EMBEDDING_KIND),
        ];
        let prompts = prompts.into_iter().filter(|(known, _)| *known);
        let calls = self.model_calls.iter().flat_map(|(_, calls)| calls);
        let mut kinds: Vec<String> = prompts
            .map(|(_, kind)| kind.to_owned())
            .chain(self.handlers.iter().map(|(kind, _)| kind.clone()))
            .chain(calls.map(|(kind, _)| kind.clone()))
            .collect();
        kinds.sort();
        kinds.dedup();
        kinds
    }

    /// Who is told about progress: first where every process stands, then each change that this worker
    /// makes, at most ten times a second, and once a second what others have changed. A process whose
    /// last result was consumed is told of no more. Default: nobody.
    pub fn notifier(mut self, notifier: Arc<dyn ProgressNotifier>) -> Self {
        self.notifier = Some(notifier);
        self
    }

    /// Who is told of every job that has its outcome, and how busy the worker is. Calls are told to the observers of
    /// their [routes](Route::observer). Default: nobody.
    pub fn observer(mut self, observer: Arc<dyn JobObserver>) -> Self {
        self.observer = Some(observer);
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

    /// Has somebody look for changed settings while it works.
    pub(crate) fn followed_by(mut self, follower: Follower) -> Self {
        self.follower = Some(follower);
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
        let calls = self.model_calls.as_ref().map(|(route, _)| route);
        let first = self.completions.as_ref().or(self.embeddings.as_ref());
        let first = first.or(calls);
        let kinds = Kinds::new(first);
        #[cfg(feature = "redis")]
        if let Some(hub) = self.queue.store.redis() {
            kinds.limiter.share_through(&hub, self.queue.clock.clone());
        }
        kinds.setup.change(|setup| setup.settings = self.settings);
        let slots = self.settings.scale.start().min(MOST_SLOTS);
        let (waker, woken) = Waker::new();
        let controls = Arc::new(Controls {
            permits: AtomicUsize::new(slots),
            all_busy: AtomicBool::new(false),
            batch_control: BatchControl::new(kinds.setup.clone()),
            kinds: Arc::new(kinds),
            clock: self.queue.clock.clone(),
            waker,
            may_have_jobs: Arc::default(),
            batch_overview: Arc::default(),
            status: Mutex::new(WorkerStatus::of_program(slots)),
            written: AtomicBool::new(false),
        });
        let route = |route: Option<Route<'static>>| Some(Some(Box::new(route?)));
        controls.change(Change {
            completions: route(self.completions),
            embeddings: route(self.embeddings),
            batches: Some(self.batches),
            batch_clients: Some(self.batch_clients),
            ..Change::default()
        });
        controls.kinds.setup.change(|setup| {
            if let Some((route, calls)) = self.model_calls {
                controls.set_model_calls(setup, route, calls);
            }
            for (name, handler) in self.handlers {
                setup.set_kind(&name, Kind::Host(handler));
            }
        });
        let plan = FixedOptions {
            notifier: self.notifier,
            observer: self.observer,
            ctx: self.ctx,
            on_error: self.on_error,
            of_many: self.of_many,
            scope: self.scope,
            follower: self.follower,
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

    /// Who tells what its providers allow at a moment, for as long as anybody wants to know.
    pub fn limits(&self) -> WorkerLimits {
        WorkerLimits::of_worker(self.controls.clone())
    }

    /// How it works now.
    pub fn settings(&self) -> WorkerSettings {
        self.controls.kinds.setup.now().settings
    }

    /// Changes how it works: how many jobs run at once, and how patiently. Fewer: those that run may end.
    pub fn set(&self, settings: WorkerSettings) {
        self.controls.change(Change {
            settings: Some(settings),
            ..Change::default()
        });
    }

    /// Changes the route of jobs that ask for an answer. What runs ends on the old one.
    pub fn set_completions(&self, route: impl Into<Route<'static>>) {
        self.controls.change(Change {
            completions: Some(Some(Box::new(route.into()))),
            ..Change::default()
        });
    }

    /// Changes the route of texts to embed.
    pub fn set_embeddings(&self, route: impl Into<Route<'static>>) {
        self.controls.change(Change {
            embeddings: Some(Some(Box::new(route.into()))),
            ..Change::default()
        });
    }

    /// Changes the route of all [kinds](Worker::model_calls) whose jobs are one call of a model each.
    pub fn set_model_route(&self, route: impl Into<Route<'static>>) {
        self.controls.change(Change {
            model_calls: Some(Box::new(route.into())),
            ..Change::default()
        });
    }

    /// Submits new prompts to this Batch API, or to none. What is in a batch stays there.
    pub fn set_batches(&self, client: Option<Arc<dyn BatchClient>>) {
        self.controls.change(Change {
            batches: Some(client),
            ..Change::default()
        });
    }

    /// Changes who finds the clients of batches that were made with other accounts.
    pub fn set_batch_clients(
        &self,
        clients: impl Fn(&BatchAccount) -> Option<Arc<dyn BatchClient>> + Send + Sync + 'static,
    ) {
        self.controls.change(Change {
            batch_clients: Some(Some(Arc::new(clients))),
            ..Change::default()
        });
    }

    /// Leaves jobs of a kind to other workers from now on. What runs may end.
    pub fn forget(&self, kind: &str) {
        self.controls.change(Change {
            forgotten: Some(kind.to_owned()),
            ..Change::default()
        });
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
