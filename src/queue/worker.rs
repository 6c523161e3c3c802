//! A worker: takes jobs from the queue, carries them out, and records their ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;
use parking_lot::Mutex;

use crate::base::cancel::Context;
use crate::base::clock::{Clock, Time};
use crate::base::error::{Error, ErrorKind};
use crate::base::id::ProcessId;
use crate::engine::dispatch::{Dispatcher, ErrorPolicy, Options, StopReason};
use crate::engine::jitter::Jitter;
use crate::engine::pack::Pack;
use crate::engine::route::RetryPolicy;
use crate::engine::run::{Finish, Observer, Permits, Shell, Waker, run};
use crate::engine::work::{Settled, Ticket, Work};
use crate::llm::request::Task;
use crate::llm::route::Route;
use crate::observe::progress::{Phase, ProgressNotifier};

use super::backlog::{JobTask, Pace, Scope, StoreBacklog};
use super::handler::Handler;
use super::host::JobQueue;
use super::job::Process;
use super::kinds::{Kind, Kinds};
use super::minder;
use super::prompts::{COMPLETION, EMBEDDING};
use super::scale::Scale;
use super::store::{JobStore, OnWork, WorkerId};
use super::tracker::Tracker;
use super::work::{self, Done, StoreWork};

/// Carries out the jobs of a [`JobQueue`].
///
/// Any number of workers, in any number of processes on one machine, share a queue: each job is with
/// one of them at a time, and when a worker's process dies the others take over what it had, at once.
/// Never more jobs are claimed than there are free slots. Retries, limits and fallback are those of
/// the [`Route`], but waiting jobs wait in the queue: a restart goes on where it was.
///
/// Unlike in a run, a provider that refuses the key, has no credit left or cannot be reached fails no
/// job: what it refused goes back, and it is asked again after a while. With
/// [`ErrorPolicy::StopOnCriticalError`] the worker ends instead, and nothing is lost either.
///
/// ```
/// use std::sync::Arc;
/// use batchwright::{Context, Extract, Handler, Job, JobQueue, ProcessId, Progress, Request, Route, Worker};
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
    handlers: Vec<(String, Handler)>,
    notifier: Option<Arc<dyn ProgressNotifier>>,
    ctx: Context,
    retry: RetryPolicy,
    max_retries: u8,
    on_error: ErrorPolicy,
    scale: Scale,
    batch: usize,
    poll: Duration,
    scope: Scope,
}

/// A worker never runs more jobs at once.
const MOST_SLOTS: usize = 10_000;
/// How often progress is told.
const TICK: Duration = Duration::from_millis(100);
/// How often ends that could not be recorded are tried again when the worker stops.
const LAST_TRIES: usize = 5;
const BETWEEN_TRIES: Duration = Duration::from_millis(300);

impl Worker {
    /// A worker that knows no kind of jobs yet.
    pub fn new(queue: &JobQueue) -> Self {
        Self {
            queue: queue.clone(),
            completions: None,
            embeddings: None,
            handlers: Vec::new(),
            notifier: None,
            ctx: Context::new(),
            retry: RetryPolicy::default(),
            max_retries: 3,
            on_error: ErrorPolicy::ContinueOnError,
            scale: Scale::default(),
            batch: 10,
            poll: Duration::from_secs(5),
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

    /// Carries out the jobs of a kind with code of your own.
    pub fn handle(mut self, kind: impl Into<String>, handler: Handler) -> Self {
        self.handlers.push((kind.into(), handler));
        self
    }

    /// Who is told about progress: first where every process stands, then each change, about ten times
    /// a second. Default: nobody.
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

    /// How patiently failures are tried again; the number of retries is
    /// [another setting](Self::max_retries). Default: as [`RetryPolicy`].
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Retries of jobs that bring no number of their own, at each step of their route. Default: 3.
    pub fn max_retries(mut self, retries: u8) -> Self {
        self.max_retries = retries;
        self
    }

    /// What a failure means for the others. A worker goes on by default; with
    /// [`ErrorPolicy::StopOnCriticalError`] it ends when a provider refuses everybody or cannot be
    /// reached.
    pub fn on_error(mut self, policy: ErrorPolicy) -> Self {
        self.on_error = policy;
        self
    }

    /// How many jobs run at once. Default: as [`Scale`].
    pub fn scale(mut self, scale: Scale) -> Self {
        self.scale = scale;
        self
    }

    /// Jobs claimed with one trip to the store, at first; more while there is much to do. Default: 10.
    pub fn batch_size(mut self, jobs: usize) -> Self {
        self.batch = jobs;
        self
    }

    /// How often an idle worker looks for work although nobody told it of any. Default: 5 s.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll = interval;
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

    /// Works on the calling thread until its context is cancelled, or until nothing is left with
    /// [`until_empty`](Self::until_empty).
    ///
    /// # Errors
    /// When it could not begin; how it ended is in the report.
    pub fn run(self) -> Result<WorkerReport, Error> {
        let (ready, _) = self.ready()?;
        ready.run()
    }

    /// Works on a thread of its own.
    ///
    /// # Errors
    /// When it could not begin.
    pub fn start(self) -> Result<RunningWorker, Error> {
        let ctx = self.ctx.child();
        let (ready, controls) = Self {
            ctx: ctx.clone(),
            ..self
        }
        .ready()?;
        let thread = thread::Builder::new()
            .name("batchwright-worker".to_owned())
            .spawn(move || ready.run())
            .map_err(|error| {
                Error::new(
                    ErrorKind::Invalid,
                    format!("cannot start a thread: {error}"),
                )
            })?;
        Ok(RunningWorker {
            ctx,
            controls,
            thread: Some(thread),
        })
    }

    fn ready(self) -> Result<(Ready, Arc<Controls>), Error> {
        let first = self.completions.as_ref().or(self.embeddings.as_ref());
        let kinds = Kinds::new(first);
        let embeddings = match (self.embeddings, &self.completions) {
            (Some(route), Some(first)) => Some(route.succeeding(first)),
            (route, _) => route,
        };
        for (route, task, name) in [
            (self.completions, Task::Complete, COMPLETION),
            (embeddings, Task::Embed, EMBEDDING),
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
            permits: AtomicUsize::new(self.scale.start().min(MOST_SLOTS)),
            scale: Mutex::new(self.scale),
            all_busy: AtomicBool::new(false),
            pace: Arc::new(Pace {
                max_retries: AtomicU8::new(self.max_retries),
                batch: AtomicU64::new(self.batch as u64),
                poll_millis: AtomicU64::new(self.poll.as_millis().max(1) as u64),
            }),
            kinds: Arc::new(kinds),
            clock: self.queue.clock.clone(),
            waker,
        });
        let store = self.queue.store.clone();
        let wall = controls.clock.wall();
        // What a dead predecessor had comes before what is newer.
        store.reclaim(wall)?;
        let worker = store.enlist(wall)?;
        let ready = Ready {
            store,
            worker,
            controls: controls.clone(),
            woken,
            notifier: self.notifier,
            ctx: self.ctx,
            retry: self.retry,
            on_error: self.on_error,
            scope: self.scope,
        };
        Ok((ready, controls))
    }
}

/// What may change while a worker runs.
pub(crate) struct Controls {
    pub permits: AtomicUsize,
    pub scale: Mutex<Scale>,
    /// Every slot had a job when somebody last looked.
    pub all_busy: AtomicBool,
    pub pace: Arc<Pace>,
    pub kinds: Arc<Kinds>,
    pub clock: Arc<dyn Clock>,
    waker: Waker,
}

impl Controls {
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    /// Replaces a route; limits and pauses that were learned stay.
    fn set_route(&self, name: &str, task: Task, route: Route<'static>) {
        let others = [COMPLETION, EMBEDDING].map(|name| self.kinds.route(name));
        let newest = others
            .into_iter()
            .flatten()
            .max_by_key(|route| route.edition());
        let route = Arc::new(match newest {
            Some(before) => route.succeeding(&before),
            None => route.limited_by(self.kinds.limiter.clone(), self.kinds.trails.clone()),
        });
        self.kinds.set(name, Kind::Prompts { route, task });
        self.wake();
    }
}

/// A worker on a thread of its own. Dropping it stops it, as [`stop`](Self::stop) does.
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
    pub fn set_scale(&self, scale: Scale) {
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
            .set_route(COMPLETION, Task::Complete, route.into());
    }

    /// Changes the route of texts to embed.
    pub fn set_embeddings(&self, route: impl Into<Route<'static>>) {
        self.controls
            .set_route(EMBEDDING, Task::Embed, route.into());
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

/// What a worker did.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct WorkerReport {
    /// Jobs it completed.
    pub completed: u64,
    /// Jobs that finally failed with it.
    pub failed: u64,
    /// Jobs it had begun and gave back.
    pub given_back: u64,
    /// Calls it made.
    pub calls: u64,
    /// Calls repeated at the same provider after a failure.
    pub retries: u64,
    /// Calls that a provider refused for their pace.
    pub rate_limited: u64,
    /// Calls made again although the one before may have been carried out.
    pub possibly_paid_twice: u64,
    /// Why it ended; `None` when nothing was left to do.
    pub stop: Option<StopReason>,
    /// Results, in JSON, that could not be recorded however often that was tried.
    pub unsaved: Vec<String>,
}

/// A worker that is on its store's list.
struct Ready {
    store: Arc<dyn JobStore>,
    worker: WorkerId,
    controls: Arc<Controls>,
    woken: crossbeam_channel::Receiver<()>,
    notifier: Option<Arc<dyn ProgressNotifier>>,
    ctx: Context,
    retry: RetryPolicy,
    on_error: ErrorPolicy,
    scope: Scope,
}

/// What is told of a moment.
struct Picture {
    changed: Vec<Process>,
    /// Why the store takes nothing at the moment.
    stuck: Option<String>,
    trouble: Option<String>,
    loading: Option<Duration>,
    stopping: bool,
}

impl Ready {
    fn run(self) -> Result<WorkerReport, Error> {
        let Self {
            store,
            worker,
            controls,
            ..
        } = &self;
        let waker = controls.waker.clone();
        let wake: Arc<OnWork> = Arc::new(move || waker.wake());
        store.on_work(Arc::downgrade(&wake));
        let (minding, stop) = bounded::<()>(0);
        let end = thread::scope(|scope| {
            let minder = || minder::mind(store, controls, &stop);
            let spawned = thread::Builder::new()
                .name("batchwright-minder".to_owned())
                .spawn_scoped(scope, minder);
            let _minding = minding;
            match spawned {
                Ok(_) => self.turn(),
                Err(error) => Err(Error::new(
                    ErrorKind::Invalid,
                    format!("cannot start a thread: {error}"),
                )),
            }
        });
        if let Err(error) = store.retire(*worker, controls.clock.wall()) {
            log::warn!("the worker's jobs go back when its process has ended: {error}");
        }
        end
    }

    fn turn(&self) -> Result<WorkerReport, Error> {
        let controls = &self.controls;
        let clock = &*controls.clock;
        let backlog = StoreBacklog::new(
            self.store.clone(),
            self.worker,
            controls.kinds.clone(),
            controls.clock.clone(),
            controls.pace.clone(),
            Scope {
                processes: self.scope.processes.clone(),
                until_empty: self.scope.until_empty,
            },
        );
        let now = clock.now();
        let options = Options {
            concurrency: controls.permits.load(Ordering::SeqCst),
            retry: self.retry,
            trails: controls.kinds.trails.clone(),
            on_error: self.on_error,
            deadline: self.ctx.remaining().map(|left| now.after(left)),
            jitter: Jitter(now.as_nanos() ^ u64::from(std::process::id()).rotate_left(32)),
            durable: true,
        };
        let limiter = controls.kinds.limiter.clone();
        let dispatcher = Dispatcher::new(StoreWork::new(backlog), limiter, options);
        let mut teller = Teller {
            tracker: Tracker::new(),
            notifier: self.notifier.clone(),
            clock: controls.clock.clone(),
            open: None,
            trouble: None,
            stuck: None,
        };
        teller.tell_all(&*self.store);
        let look = |dispatcher: &Dispatcher<StoreWork>, now| picture(dispatcher, controls, now);
        let mut show = |picture| teller.tell(picture);
        let shell = Shell {
            ctx: &self.ctx,
            clock,
            threads: 1,
            permits: Some(Permits {
                now: &controls.permits,
                most: MOST_SLOTS,
            }),
            waker: controls.waker.clone(),
            woken: self.woken.clone(),
            tick: TICK,
        };
        let store = &self.store;
        let runner = move |ticket: &Ticket<Pack<JobTask>>, ctx: &Context| {
            work::call(store, ticket, ctx, || std::time::SystemTime::now().into())
        };
        let mut observer = Observer {
            look: &look,
            show: &mut show,
        };
        let finish = run::<_, _, (), _>(dispatcher, &runner, shell, None, &mut observer)?;
        let report = self.end(finish, &look, &mut show);
        Ok(report)
    }

    /// Records what could not be recorded before, and gives back what is in hand.
    fn end(
        &self,
        finish: Finish<StoreWork>,
        look: &dyn Fn(&Dispatcher<StoreWork>, Time) -> Picture,
        show: &mut dyn FnMut(Picture),
    ) -> WorkerReport {
        let Finish {
            mut dispatcher,
            mut lost,
        } = finish;
        let clock = &self.controls.clock;
        for _ in 0..LAST_TRIES {
            let now = clock.now();
            let settled = dispatcher.work.settle(&mut lost, now);
            match settled.and_then(|()| dispatcher.work.let_go(true, now)) {
                Ok(()) => break,
                Err(error) => {
                    log::warn!("cannot record the last results: {error}");
                    thread::sleep(BETWEEN_TRIES);
                }
            }
        }
        show(look(&dispatcher, clock.now()));
        let counters = dispatcher.counters();
        let tally = dispatcher.work.tally;
        WorkerReport {
            completed: tally.completed,
            failed: tally.failed,
            given_back: tally.given_back,
            calls: counters.calls,
            retries: counters.retries,
            rate_limited: counters.rate_limited,
            possibly_paid_twice: counters.possibly_paid_twice,
            stop: dispatcher.stop_reason().cloned(),
            unsaved: lost.iter().flat_map(unsaved).collect(),
        }
    }
}

fn unsaved(settled: &Settled<Pack<JobTask>, Done>) -> Vec<String> {
    match settled {
        Settled::Final(_, Ok(done)) => {
            let results = done.iter().map(|(result, _)| result.get().to_owned());
            results.collect()
        }
        _ => Vec::new(),
    }
}

fn picture(dispatcher: &Dispatcher<StoreWork>, controls: &Controls, now: Time) -> Picture {
    let in_flight = dispatcher.counters().in_flight;
    let permits = controls.permits.load(Ordering::SeqCst);
    controls
        .all_busy
        .store(in_flight >= permits, Ordering::SeqCst);
    let work = &dispatcher.work;
    let stuck = dispatcher.settle_error();
    let stuck = stuck.or(work.packed.items.trouble.as_ref());
    let trouble = stuck
        .or(dispatcher.obituary())
        .or(dispatcher.last_failure());
    Picture {
        changed: work
            .changed
            .lock()
            .drain()
            .map(|(_, state)| state)
            .collect(),
        stuck: stuck.map(|error| error.message().to_owned()),
        trouble: trouble.map(|error| error.message().to_owned()),
        loading: dispatcher.loading_since().map(|since| now.since(since)),
        stopping: dispatcher.stop_reason().is_some(),
    }
}

/// Tells a notifier about processes.
struct Teller {
    tracker: Tracker,
    notifier: Option<Arc<dyn ProgressNotifier>>,
    clock: Arc<dyn Clock>,
    /// A process that is not finished, as far as is known.
    open: Option<Process>,
    /// What was last told to be in the way.
    trouble: Option<String>,
    stuck: Option<String>,
}

impl Teller {
    fn tell_all(&mut self, store: &dyn JobStore) {
        if self.notifier.is_none() {
            return;
        }
        let changed = store.processes().unwrap_or_else(|error| {
            log::warn!("cannot tell where the queue stands: {error}");
            Vec::new()
        });
        self.tell(Picture {
            changed,
            stuck: None,
            trouble: None,
            loading: None,
            stopping: false,
        });
    }

    fn tell(&mut self, mut picture: Picture) {
        if let Some(why) = &picture.stuck
            && self.stuck != picture.stuck
        {
            log::warn!("{why}; nothing new is started until it works");
        }
        self.stuck = picture.stuck.take();
        let Some(notifier) = &self.notifier else {
            return;
        };
        // While nothing can be recorded nothing changes, and that is news too.
        if picture.changed.is_empty() && picture.trouble != self.trouble {
            picture.changed.extend(self.open.clone());
        }
        self.trouble.clone_from(&picture.trouble);
        let (now, wall) = (self.clock.now(), self.clock.wall());
        for process in &picture.changed {
            let mut progress = self.tracker.progress(process, now, wall);
            progress.trouble.clone_from(&picture.trouble);
            progress.loading = picture.loading;
            if picture.stopping && progress.phase == Phase::Running {
                progress.phase = Phase::Stopping;
            }
            if progress.phase != Phase::Finished {
                self.open = Some(process.clone());
            } else if let Some(open) = &self.open
                && open.process_id == process.process_id
            {
                self.open = None;
            }
            notifier.on_progress(&progress);
        }
    }
}
