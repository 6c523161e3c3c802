//! Options of a running worker, and which of them can change.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_channel::Receiver;
use parking_lot::Mutex;

use crate::base::{Clock, Context, Error, ErrorKind, ProcessId, Timestamp};
use crate::engine::availability::Availability;
use crate::engine::dispatch::ErrorPolicy;
use crate::engine::run::Waker;
use crate::llm::params::RequestTask;
use crate::llm::request::Request;
use crate::llm::route::Route;
use crate::observe::jobs::JobObserver;
use crate::observe::progress::ProgressNotifier;

use super::batch::{BatchControl, BatchOverview};
use super::budgets::Budgets;
use super::job::{COMPLETION_KIND, DIRECT_COMPLETION_KIND, EMBEDDING_KIND};
use super::kind::{Kind, ModelCall};
use super::kinds::{Kinds, WorkerSetup};
use super::prompt_job;
use super::scale::WorkerScale;
use super::store::{JobLane, Store, WorkerId};

/// Maximum number of jobs that a worker runs at once.
pub(crate) const MOST_SLOTS: usize = 10_000;

/// Which jobs a worker takes, and when it ends.
#[derive(Clone, Default)]
pub(crate) struct Scope {
    /// Only jobs of these processes; of all processes if empty.
    pub processes: Vec<ProcessId>,
    /// The worker ends when no job is left to claim.
    pub until_empty: bool,
    /// The worker ends when no job is left to claim or submit; batches may still be open.
    pub until_submitted: bool,
    /// The worker claims no job after it.
    pub deadline: Option<Timestamp>,
}

/// Options that do not change while a worker runs.
pub(crate) struct FixedOptions {
    pub notifier: Option<Arc<dyn ProgressNotifier>>,
    pub observer: Option<Arc<dyn JobObserver>>,
    pub ctx: Context,
    pub on_error: ErrorPolicy,
    /// The jobs come from many callers.
    pub multi_tenant: bool,
    pub scope: Scope,
    pub follower: Option<Follower>,
}

/// State that the threads of a worker share, also with callers that change its setup.
pub(crate) struct Controls {
    pub store: Arc<Store>,
    /// Set once it is registered, before anything else is done.
    registered: OnceLock<WorkerId>,
    pub permits: AtomicUsize,
    /// Every slot had a job at the last check.
    pub all_busy: AtomicBool,
    /// What kept the number of slots from growing at the last check.
    pub held_by: Mutex<Option<&'static str>>,
    /// What limited the worker in about the last second.
    pub limited_by: Mutex<Option<&'static str>>,
    pub kinds: Arc<Kinds>,
    pub clock: Arc<dyn Clock>,
    /// The budgets of the processes whose jobs the worker has.
    pub budgets: Budgets,
    pub waker: Waker,
    /// Since the last claim: jobs have become claimable.
    pub heard_of_jobs: AtomicBool,
    /// Another program has written to the store.
    pub heard_of_writes: AtomicBool,
    /// Control channel of the poller.
    pub batch_control: BatchControl,
    pub batch_overview: Arc<BatchOverview>,
    /// The providers and models that are not called, as of a moment ago.
    pub availability: Mutex<Availability>,
    /// The store was written since the notifier last received every process.
    pub written: AtomicBool,
}

impl Controls {
    /// The state of a worker that is not registered yet, and what its waker wakes.
    pub(crate) fn new(
        store: Arc<Store>,
        kinds: Kinds,
        clock: Arc<dyn Clock>,
    ) -> (Self, Receiver<()>) {
        let (waker, woken) = Waker::new();
        let controls = Self {
            budgets: Budgets::new(store.clone()),
            store,
            registered: OnceLock::new(),
            permits: AtomicUsize::new(WorkerScale::default().start()),
            all_busy: AtomicBool::new(false),
            held_by: Mutex::default(),
            limited_by: Mutex::default(),
            kinds: Arc::new(kinds),
            clock,
            waker,
            heard_of_jobs: AtomicBool::new(false),
            heard_of_writes: AtomicBool::new(false),
            batch_control: BatchControl::new(),
            batch_overview: Arc::default(),
            availability: Mutex::default(),
            written: AtomicBool::new(false),
        };
        (controls, woken)
    }

    /// The number of the worker, which is registered.
    pub(crate) fn worker(&self) -> WorkerId {
        *self.registered.get().expect("a worker begins with it")
    }

    pub(crate) fn register(&self, worker: WorkerId) {
        self.registered.set(worker).expect("it is registered once");
    }

    /// Makes the worker check for jobs now.
    pub(crate) fn wake(&self) {
        self.written.store(true, Ordering::SeqCst);
        self.nudge();
        self.batch_control.wake();
    }

    /// Another program has written to the store, perhaps only what its calls have led to.
    pub(crate) fn hint(&self) {
        self.written.store(true, Ordering::SeqCst);
        self.heard_of_writes.store(true, Ordering::SeqCst);
        self.waker.wake();
        if self.kinds.setup.now().batches.is_some() || self.batch_overview.has_batches() {
            self.batch_control.wake();
        }
    }

    /// Makes the worker check for jobs and poll its batches now.
    pub(crate) fn nudge(&self) {
        self.heard_of_jobs.store(true, Ordering::SeqCst);
        self.waker.wake();
    }

    /// Changes the setup in one step.
    pub(crate) fn change(&self, change: impl FnOnce(&mut WorkerSetup)) {
        let (before, now) = self.kinds.setup.change(change);
        if before.settings.batches != now.settings.batches {
            let settings_changed = &self.batch_control.settings_changed;
            settings_changed.store(true, Ordering::SeqCst);
        }
        let scale = now.settings.scale;
        if scale != before.settings.scale {
            let slots = scale.start().min(MOST_SLOTS);
            self.permits.store(slots, Ordering::SeqCst);
        }
        self.wake();
    }

    /// Sends prompts, or jobs that are one call of a model, of these kinds through a route.
    pub(crate) fn set_prompts(
        &self,
        setup: &mut WorkerSetup,
        task: RequestTask,
        route: Route<'static>,
        kinds: impl IntoIterator<Item = (String, Option<ModelCall>)>,
    ) {
        let all = self.following(setup, route);
        for (name, call) in kinds {
            let fit = call.as_ref().map(|call| call.route(&all));
            let route = fit.unwrap_or_else(|| all.clone());
            setup.set_kind(&name, Kind::Prompts { route, task, call });
        }
    }

    /// A route that replaces another one; learned limits and pauses stay.
    fn following(&self, setup: &WorkerSetup, route: Route<'static>) -> Arc<Route<'static>> {
        let known = setup.kinds.keys().filter_map(|kind| setup.route(kind));
        Arc::new(match known.max_by_key(|route| route.config_version()) {
            Some(before) => route.succeeding(&before),
            None => route.limited_by(self.kinds.limiter.clone()),
        })
    }
}

/// Checks a few times per second for changed settings.
pub(crate) type Follower = Box<dyn FnMut(&Controls) + Send>;

// Current limits of a worker's providers, for displays.

/// Reports the current limits of the providers of a [`RunningWorker`](crate::RunningWorker), as its limiter knows
/// them, with the current settings. Reading them uses no quota and does not block.
#[derive(Clone, derive_more::Debug)]
#[debug("WorkerLimits")]
pub struct WorkerLimits(pub(super) Arc<Controls>);

impl WorkerLimits {
    /// Why jobs with this request are not called at the moment: each of their providers rejected the API key or the
    /// model, has no credit left, or could not be reached, and no later call was answered. Of the kind
    /// [`Invalid`](crate::ErrorKind::Invalid), if the worker has no provider for such requests at all. `None` if at least
    /// one can be called. As of a moment ago.
    pub fn refusal(&self, request: &Request) -> Option<Error> {
        let kinds = match request.task {
            RequestTask::Embed => [EMBEDDING_KIND].as_slice(),
            _ => &[DIRECT_COMPLETION_KIND, COMPLETION_KIND],
        };
        let known = &self.0.kinds.setup.now().kinds;
        let Some(kind) = kinds.iter().find(|kind| known.contains_key(**kind)) else {
            let what = prompt_job::kind(request.task);
            let why = format!("no provider of this worker answers requests of the kind {what}");
            return Some(Error::new(ErrorKind::Invalid, why));
        };
        let open = self.0.kinds.open(&JobLane {
            kind: (*kind).to_owned(),
            name: request.model.clone(),
            step: 0,
        })?;
        self.0.availability.lock().refusal(&open.class).cloned()
    }

    /// Calls in flight. Calls that handlers make themselves are not included.
    pub fn calls_in_flight(&self) -> u64 {
        self.0.kinds.limiter.calls_in_flight()
    }
}
