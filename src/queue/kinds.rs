//! The kinds of jobs that a worker supports, the lanes it has seen, and its setup, which can change while it runs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use derive_setters::Setters;
use parking_lot::RwLock;

use crate::engine::limiter::{Limiter, QuotaId};
use crate::engine::quota::Class;
use crate::engine::route::RetryPolicy;
use crate::llm::batch::{BatchClient, BatchClients};
use crate::llm::pack::PackLimits;
use crate::llm::route::Route;

use super::batch::BatchSettings;
use super::job::COMPLETION_KIND;
use super::kind::Kind;
use super::prompt_job::naming;
use super::scale::WorkerScale;
use super::store::JobLane;

/// The kinds by name. Routes can be replaced while the worker runs: calls in flight finish on the old one.
pub(crate) struct Kinds {
    pub setup: LiveSetup,
    /// Shared by all routes, also by later ones.
    pub limiter: Arc<Limiter>,
}

impl Kinds {
    /// `first` provides the limiter, which later routes use too.
    pub(crate) fn new(first: Option<&Route<'static>>) -> Self {
        Self {
            setup: LiveSetup::default(),
            limiter: first.map_or_else(Arc::default, Route::limiter),
        }
    }

    /// The route that prices prompts, if there is one.
    pub(crate) fn prompt_route(&self) -> Option<Arc<Route<'static>>> {
        let setup = self.setup.now();
        setup
            .route(COMPLETION_KIND)
            .or_else(|| setup.collecting.clone())
    }

    /// Whether the jobs of a lane go into batches.
    pub(crate) fn is_batched(&self, lane: &JobLane) -> bool {
        lane.step == 0 && lane.kind == COMPLETION_KIND && self.setup.now().batches.is_some()
    }

    pub(super) fn open(&self, lane: &JobLane) -> Option<Open> {
        let setup = self.setup.now();
        let (number, kind) = setup.kinds.get(&lane.kind)?.clone();
        let class = match kind.prompts() {
            None => Class::new([QuotaId::NONE]),
            Some((route, task)) => route.class(&naming(task, &lane.name), &mut None),
        };
        Some(Open {
            pack: kind.pack_limits(),
            class: class.on(number),
            kind,
            kinds_version: setup.kinds_version,
        })
    }
}

/// A lane of a supported kind.
#[derive(Clone)]
pub(crate) struct Open {
    pub kind: Arc<Kind>,
    pub class: Class,
    pub pack: PackLimits,
    /// The version of the kinds.
    pub kinds_version: u64,
}

// The setup of a worker that can change while it runs: one value with a version, replaced atomically. Each decision reads
// it once. Running jobs finish with the setup they started with.

/// Settings of a worker, and the code or route of each kind.
#[derive(Clone, Default)]
pub(crate) struct WorkerSetup {
    pub settings: WorkerSettings,
    /// The Batch API for prompts; `None` under the `sync` strategy.
    pub batches: Option<Arc<dyn BatchClient>>,
    /// Finds the clients of batches of other accounts.
    pub batch_clients: Option<Arc<BatchClients>>,
    /// Prices results of batches if no route sends prompts.
    pub collecting: Option<Arc<Route<'static>>>,
    /// The kinds by name. Each has its own number, because problems of a replaced route do not affect the new one.
    pub kinds: HashMap<String, (u16, Arc<Kind>)>,
    /// Raised by each change of the kinds.
    pub kinds_version: u64,
}

impl WorkerSetup {
    /// The route of a kind, if it has one.
    pub(crate) fn route(&self, kind: &str) -> Option<Arc<Route<'static>>> {
        Some(self.kinds.get(kind)?.1.prompts()?.0.clone())
    }

    /// Adds or replaces a kind.
    pub(crate) fn set_kind(&mut self, name: &str, kind: Kind) {
        self.kinds_version += 1;
        let number = (self.kinds_version % u64::from(u16::MAX)) as u16;
        self.kinds.insert(name.to_owned(), (number, Arc::new(kind)));
    }

    /// Removes a kind: its jobs wait for another worker.
    pub(crate) fn remove_kind(&mut self, name: &str) {
        self.kinds_version += 1;
        self.kinds.remove(name);
    }
}

/// The current setup.
#[derive(Default)]
pub(crate) struct LiveSetup(RwLock<Arc<WorkerSetup>>);

impl LiveSetup {
    /// The current setup; it stays valid for the caller after a change.
    pub(crate) fn now(&self) -> Arc<WorkerSetup> {
        self.0.read().clone()
    }

    /// Replaces the setup; returns the old and the new one.
    pub(crate) fn change(
        &self,
        change: impl FnOnce(&mut WorkerSetup),
    ) -> (Arc<WorkerSetup>, Arc<WorkerSetup>) {
        let mut held = self.0.write();
        let before = held.clone();
        let mut next = WorkerSetup::clone(&before);
        change(&mut next);
        *held = Arc::new(next);
        (before, held.clone())
    }
}

// The settings of a worker that can change while it runs and need no provider.

/// Settings of a [`Worker`](crate::Worker) that apply to all kinds of jobs.
#[derive(Debug, Clone, Copy, PartialEq, Setters)]
pub struct WorkerSettings {
    /// The number of jobs at once. Default: as [`WorkerScale`].
    pub(crate) scale: WorkerScale,
    /// The waits before retries, instead of the routes' own policies; [`max_retries`](Self::max_retries) sets their
    /// number. Default: as [`RetryPolicy`].
    pub(crate) retry: RetryPolicy,
    /// Retries at each step of the route, for jobs without their own number. Default: 3.
    pub(crate) max_retries: u8,
    /// Jobs that the worker claims with one access to the store at first; more if many jobs wait. Default: 10.
    pub(crate) batch_size: usize,
    /// How often an idle worker checks for jobs without a notification. Default: 5 s.
    pub(crate) poll_interval: Duration,
    /// The settings for batches. Default: as [`BatchSettings`].
    pub(crate) batches: BatchSettings,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            scale: WorkerScale::default(),
            retry: RetryPolicy::default(),
            max_retries: 3,
            batch_size: 10,
            poll_interval: Duration::from_secs(5),
            batches: BatchSettings::default(),
        }
    }
}
