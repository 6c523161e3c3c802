//! A worker: claims jobs of the queue, processes them, and records their ends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use derive_setters::Setters;

use crate::base::thread::spawn;
use crate::base::{Context, Error, ErrorKind, ProcessId};
use crate::engine::dispatch::ErrorPolicy;
use crate::llm::batch::{BatchAccount, BatchClient, BatchClients};
use crate::llm::params::RequestTask;
use crate::llm::route::Route;
use crate::observe::jobs::JobObserver;
use crate::observe::progress::ProgressNotifier;

use super::controls::{Controls, FixedOptions, Follower, Scope, WorkerLimits};
use super::handler::Handler;
use super::host::JobQueue;
use super::job::{COMPLETION_KIND, DIRECT_COMPLETION_KIND, EMBEDDING_KIND};
use super::kind::{JobKinds, Kind, ModelCall};
use super::kinds::{Kinds, WorkerSettings};
use super::work::WorkerReport;
use super::worker_run::{Registration, WorkerRun, is_passing};

/// Processes the jobs of a [`JobQueue`].
///
/// Any number of workers can share a queue, in any number of OS processes on one machine, and on many machines if the
/// queue is on a database server. One worker at a time has a job. If a worker crashes, others take over its jobs: on
/// one machine at once, on many machines when its lease has expired. A worker takes no more jobs than it has free
/// slots. The [`Route`] has the limits and the fallback providers; the [settings](WorkerSettings::retry) have the retry policy.
/// Waiting jobs stay in the queue, so they continue after a restart.
///
/// If a provider rejects the key, has no credit left or is unreachable, jobs do not fail, unlike in a run. They
/// return to the queue, and the worker calls the provider again later. With [`ErrorPolicy::StopOnCriticalError`] the
/// worker ends instead; the jobs stay in the queue.
///
/// Money and time: the [`Route`] has the [prices](Route::prices), also for your own client. The queue keeps the budget of
/// each [process](crate::queue::ProcessInfo::budget), for calls and batches. A
/// [budget of the route](Route::budget) limits the individual calls of workers with clones of it: if it is used up, they end,
/// and their jobs stay in the queue. It is rejected together with a Batch API, because it does not limit batches.
/// [`deadline`](Self::deadline) is of the worker. It has no [`Estimate`](crate::Estimate), which is for requests that are not
/// submitted yet.
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
#[derive(Setters)]
#[setters(generate = false, strip_option)]
pub struct Worker {
    queue: JobQueue,
    /// Sends prompts through this route. Default: they wait for another worker.
    #[setters(generate, into)]
    completions: Option<Route<'static>>,
    /// Sends texts to embed through this route, many with each call. Default: they wait for another worker.
    #[setters(generate, into)]
    embeddings: Option<Route<'static>>,
    /// Prices the results of batches by this route, and counts them in its budgets, if the worker sends no prompts.
    /// Default: such a worker knows no prices.
    #[setters(generate, into)]
    collecting: Option<Route<'static>>,
    batches: Option<Arc<dyn BatchClient>>,
    batch_clients: Option<Arc<BatchClients>>,
    /// The number of jobs at once, retries, intervals and the settings of batches. Default: as [`WorkerSettings`].
    #[setters(generate)]
    settings: WorkerSettings,
    handlers: Vec<(String, Handler)>,
    model_calls: Option<(Route<'static>, Vec<(String, ModelCall)>)>,
    fixed: FixedOptions,
}

impl Worker {
    /// A worker without any kinds of jobs.
    pub fn new(queue: &JobQueue) -> Self {
        Self {
            queue: queue.clone(),
            completions: None,
            embeddings: None,
            collecting: None,
            batches: None,
            batch_clients: None,
            settings: WorkerSettings::default(),
            handlers: Vec::new(),
            model_calls: None,
            fixed: FixedOptions {
                notifier: None,
                observer: None,
                ctx: Context::new(),
                on_error: ErrorPolicy::ContinueOnError,
                multi_tenant: true,
                scope: Scope::default(),
                follower: None,
            },
        }
    }

    /// Receives the progress: first the state of every process, then each change by this worker, at most 10 times per
    /// second, and once per second the changes by others. Processes whose results were all consumed are no longer
    /// reported. Default: no notifier.
    pub fn notifier(mut self, notifier: Arc<dyn ProgressNotifier>) -> Self {
        self.fixed.notifier = Some(notifier);
        self
    }

    /// Receives every finished job, and the load of the worker. The observers of the [routes](Route::observer)
    /// receive the calls. Default: no observer.
    pub fn observer(mut self, observer: Arc<dyn JobObserver>) -> Self {
        self.fixed.observer = Some(observer);
        self
    }

    /// What to do after a failure. With [`ErrorPolicy::StopOnCriticalError`] the worker ends if a provider rejects
    /// all calls or is unreachable. Default: it continues.
    pub fn on_error(mut self, policy: ErrorPolicy) -> Self {
        self.fixed.on_error = policy;
        self
    }

    /// Submits prompts to a provider's Batch API. Prompts that fail there continue through the
    /// [route](Self::completions), whose first provider should be the same one. The same applies to answers that the
    /// route's policy would retry. Default: every prompt is an individual call.
    pub fn batches(mut self, client: impl BatchClient + 'static) -> Self {
        self.batches = Some(Arc::new(client));
        self
    }

    /// Finds the clients of batches of other accounts, for example of an earlier provider or of a crashed worker.
    /// Default: such batches wait for a worker with their account.
    pub fn batch_clients(
        mut self,
        clients: impl Fn(&BatchAccount) -> Option<Arc<dyn BatchClient>> + Send + Sync + 'static,
    ) -> Self {
        self.batch_clients = Some(Arc::new(clients));
        self
    }

    /// Processes the jobs of a kind with your own code. Default: jobs of a kind without a worker wait.
    pub fn handle(mut self, kind: impl Into<String>, handler: Handler) -> Self {
        self.handlers.push((kind.into(), handler));
        self
    }

    /// Sends the jobs of these kinds, each one call of a model, through this route. It shares limits and cooldowns
    /// with the other routes. Default: jobs of a kind without a worker wait.
    pub fn model_calls<K: Into<String>>(
        mut self,
        route: impl Into<Route<'static>>,
        calls: impl IntoIterator<Item = (K, ModelCall)>,
    ) -> Self {
        let calls = calls.into_iter().map(|(kind, call)| (kind.into(), call));
        self.model_calls = Some((route.into(), calls.collect()));
        self
    }

    /// Processes the jobs of these kinds. Jobs that call a model use this route and its time limit for calls.
    /// Replaces [`model_calls`](Self::model_calls). Default: jobs of a kind without a worker wait.
    pub fn job_types(
        mut self,
        kinds: impl Into<JobKinds>,
        route: impl Into<Route<'static>>,
    ) -> Self {
        let JobKinds { calls, handlers } = kinds.into();
        self.handlers.extend(handlers);
        self.model_calls(route, calls)
    }

    /// The names of the kinds of jobs that this worker processes. If it follows settings, the kinds can change.
    pub fn kinds(&self) -> Vec<String> {
        let completions = self.completions.iter().map(|_| COMPLETION_KIND.to_owned());
        let embeddings = self.embeddings.iter().map(|_| EMBEDDING_KIND.to_owned());
        let handlers = self.handlers.iter().map(|(kind, _)| kind.clone());
        let calls = self.model_calls.iter().flat_map(|(_, calls)| calls);
        let calls = calls.map(|(kind, _)| kind.clone());
        let kinds = completions.chain(embeddings).chain(handlers).chain(calls);
        let kinds: BTreeSet<String> = kinds.collect();
        kinds.into_iter().collect()
    }

    /// Cancellation and grace period. After a cancellation the worker takes no more jobs. Running jobs may finish
    /// within the grace period; the others return to the queue. Default: a context that is never cancelled.
    pub fn context(mut self, ctx: &Context) -> Self {
        self.fixed.ctx = ctx.clone();
        self
    }

    /// The context that [`context`](Self::context) has set.
    pub fn cancellation(&self) -> &Context {
        &self.fixed.ctx
    }

    /// Whether the jobs come from many callers. If they come from one caller and the worker stops for critical
    /// errors, it also stops if the model is unknown, or if the first replies are identical and unusable.
    pub(crate) fn multi_tenant(mut self, yes: bool) -> Self {
        self.fixed.multi_tenant = yes;
        self
    }

    /// Takes only jobs of these processes. Skipping the jobs of many other processes takes time. Default: all
    /// processes.
    pub fn processes(mut self, processes: impl Into<Vec<ProcessId>>) -> Self {
        self.fixed.scope.processes = processes.into();
        self
    }

    /// Ends when no job is left that it could claim, including retries. Default: it waits for more jobs.
    pub fn until_empty(mut self, yes: bool) -> Self {
        self.fixed.scope.until_empty = yes;
        self
    }

    /// Claims no job and creates no batch after this deadline, and ends as after a cancellation of its
    /// [context](Self::context): running jobs may finish within the grace period, and the others return to the queue. The
    /// report has [`StopReason::DeadlineExceeded`](crate::StopReason::DeadlineExceeded). Jobs stay in the queue, and batches
    /// at their provider, for another worker. Default: no deadline.
    pub fn deadline(mut self, deadline: SystemTime) -> Self {
        self.fixed.scope.deadline = Some(deadline.into());
        self
    }

    /// Ends when no job is left that it could claim or submit. Batches continue at their provider, and any worker
    /// collects them later. Default: it waits for them.
    pub fn until_submitted(mut self, yes: bool) -> Self {
        self.fixed.scope.until_submitted = yes;
        self
    }

    /// Checks for changed settings while the worker runs.
    pub(crate) fn followed_by(mut self, follower: Follower) -> Self {
        self.fixed.follower = Some(follower);
        self
    }

    /// Runs on the calling thread until its context is cancelled or, with [`until_empty`](Self::until_empty), until
    /// no job is left.
    ///
    /// # Errors
    /// When the worker could not start; the report has the reason of its end.
    pub fn run(self) -> Result<WorkerReport, Error> {
        self.register(false)?.run()
    }

    /// Runs on a separate thread. If the queue cannot be written yet, for example because the disk is full, it begins once it
    /// can.
    ///
    /// # Errors
    /// When it could not begin.
    pub fn start(mut self) -> Result<RunningWorker, Error> {
        let ctx = self.fixed.ctx.child();
        self.fixed.ctx = ctx.clone();
        let run = self.register(true)?;
        let controls = run.controls.clone();
        let thread = spawn("batchwright-worker", move || run.run())?;
        Ok(RunningWorker {
            ctx,
            controls,
            thread: Some(thread),
        })
    }

    fn register(self, may_wait: bool) -> Result<WorkerRun, Error> {
        let limits_calls = |route: &Route<'_>| route.has_budget();
        if self.batches.is_some() && self.completions.as_ref().is_some_and(limits_calls) {
            let why = "a budget of the route does not limit batches: set that of the process, see ProcessInfo::budget";
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let calls = self.model_calls.as_ref().map(|(route, _)| route);
        let first = self.completions.as_ref().or(self.embeddings.as_ref());
        let first = first.or(calls);
        let (store, clock) = (self.queue.store.clone(), self.queue.clock.clone());
        let registration = match Registration::new(store.clone(), clock.clone()) {
            Ok(registration) => Some(registration),
            Err(error) if may_wait && is_passing(&error) => {
                log::warn!("the worker begins once the queue can be written: {error}");
                None
            }
            Err(error) => return Err(error),
        };
        let (controls, woken) = Controls::new(store, Kinds::new(first), clock);
        let controls = Arc::new(controls);
        let plan = self.set_up(&controls);
        Ok(WorkerRun::new(registration, controls, woken, plan))
    }

    /// Has a running worker work with these settings, routes, clients and handlers. It keeps its other handlers. Returns the
    /// options that do not change.
    pub(crate) fn set_up(self, controls: &Controls) -> FixedOptions {
        controls.change(|setup| {
            setup.settings = self.settings;
            setup.collecting = self.collecting.map(Arc::new);
            setup.batches = self.batches;
            setup.batch_clients = self.batch_clients;
            if let Some(route) = self.completions {
                let names = [COMPLETION_KIND, DIRECT_COMPLETION_KIND];
                let kinds = names.map(|name| (name.to_owned(), None));
                controls.set_prompts(setup, RequestTask::Complete, route, kinds);
            }
            match self.embeddings {
                Some(route) => {
                    let kinds = [(EMBEDDING_KIND.to_owned(), None)];
                    controls.set_prompts(setup, RequestTask::Embed, route, kinds);
                }
                None => setup.remove_kind(EMBEDDING_KIND),
            }
            if let Some((route, calls)) = self.model_calls {
                let calls = calls.into_iter().map(|(kind, call)| (kind, Some(call)));
                controls.set_prompts(setup, RequestTask::Complete, route, calls);
            }
            for (name, handler) in self.handlers {
                setup.set_kind(&name, Kind::Host(handler));
            }
        });
        self.fixed
    }
}

/// A worker on a separate thread. Dropping it stops the worker like [`stop`](Self::stop), which waits for calls in
/// flight within the grace period.
#[must_use = "dropping it stops the worker"]
pub struct RunningWorker {
    ctx: Context,
    controls: Arc<Controls>,
    thread: Option<thread::JoinHandle<Result<WorkerReport, Error>>>,
}

impl RunningWorker {
    /// Takes no more jobs, lets running jobs finish within the grace period, and waits for them.
    ///
    /// # Errors
    /// When the worker could not begin.
    pub fn stop(self) -> Result<WorkerReport, Error> {
        self.ctx.cancel();
        self.join()
    }

    /// Waits until the worker ends: with [`Worker::until_empty`], or after a critical error.
    ///
    /// # Errors
    /// When the worker could not begin.
    pub fn join(mut self) -> Result<WorkerReport, Error> {
        match self.thread.take().map(thread::JoinHandle::join) {
            Some(Ok(end)) => end,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(WorkerReport::default()),
        }
    }

    /// True once it has ended.
    pub fn is_finished(&self) -> bool {
        self.thread
            .as_ref()
            .is_none_or(thread::JoinHandle::is_finished)
    }

    /// A handle that reports what its providers refuse, and its calls in flight.
    pub fn limits(&self) -> WorkerLimits {
        WorkerLimits(self.controls.clone())
    }

    /// Its current settings.
    pub fn settings(&self) -> WorkerSettings {
        self.controls.kinds.setup.now().settings
    }

    /// Changes its settings, for example the number of jobs at once. If that decreases, running jobs still finish.
    pub fn set(&self, settings: WorkerSettings) {
        self.controls.change(|setup| setup.settings = settings);
    }
}

impl Drop for RunningWorker {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.ctx.cancel();
            // The panic of the worker was printed when it happened; a destructor must not panic again.
            drop(thread.join());
        }
    }
}
