//! The kinds of jobs a worker knows, and the lanes it has met.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::base::brief::beginning;
use crate::base::clock::Time;
use crate::engine::class::Class;
use crate::engine::limiter::{Limiter, QuotaId};
use crate::engine::pack::PackLimits;
use crate::engine::trail::Trails;
use crate::llm::params::RequestTask;
use crate::llm::provider_limits::ProviderLimits;
use crate::llm::request::Request;
use crate::llm::route::Route;

use super::job::COMPLETION_KIND;
use super::kind::Kind;
use super::live::LiveSetup;
use super::store::JobLane;

/// The kinds by name. Routes may be replaced while the worker runs: what is in flight ends on the old
/// one.
pub(crate) struct Kinds {
    pub setup: Arc<LiveSetup>,
    /// Shared by all routes, one after the other and side by side.
    pub limiter: Arc<Limiter>,
    pub trails: Arc<Trails>,
    /// The kinds of which there were prompts, and the models that these named.
    asked: Mutex<BTreeSet<(String, Option<String>)>>,
    /// The longest wait that a handler asked for, in milliseconds.
    longest_wait: AtomicU64,
}

impl Kinds {
    /// `first` brings limiter and trails along, which later routes take over.
    pub(crate) fn new(first: Option<&Route<'static>>) -> Self {
        Self {
            setup: Arc::default(),
            limiter: first.map_or_else(Arc::default, Route::limiter),
            trails: first.map_or_else(Arc::default, Route::trails),
            asked: Mutex::default(),
            longest_wait: AtomicU64::new(0),
        }
    }

    /// Takes note of a wait that a handler asked for.
    pub(super) fn waits(&self, wait: Duration) {
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.longest_wait.fetch_max(millis, Ordering::SeqCst);
    }

    /// The longest wait that a handler asked for.
    pub(super) fn longest_wait(&self) -> Duration {
        Duration::from_millis(self.longest_wait.load(Ordering::SeqCst))
    }

    /// Registers a kind, or replaces it.
    #[cfg(test)]
    pub(crate) fn set(&self, name: &str, kind: Kind) {
        self.setup.change(|setup| setup.set_kind(name, kind));
    }

    /// The route of a kind that has one.
    pub(crate) fn route(&self, name: &str) -> Option<Arc<Route<'static>>> {
        self.setup.now().route(name)
    }

    pub(crate) fn kinds_version(&self) -> u64 {
        self.setup.now().kinds_version
    }

    /// Retries of jobs that bring no number of their own.
    pub(crate) fn max_retries(&self) -> u8 {
        self.setup.now().settings.max_retries
    }

    /// Whether the jobs of a lane go into batches.
    pub(crate) fn is_batched(&self, lane: &JobLane) -> bool {
        lane.step == 0 && lane.kind == COMPLETION_KIND && self.setup.now().batches.is_some()
    }

    /// What the providers of a kind allow its jobs, in the order in which they are asked.
    pub(crate) fn limits(
        &self,
        kind: &str,
        model: Option<String>,
        now: Time,
    ) -> Vec<ProviderLimits> {
        let limits = self.quotas(kind, model, now).into_iter();
        limits.map(|(_, limits)| limits).collect()
    }

    /// What all providers allow of which anything is known: for the models that jobs have named, and those that are
    /// asked where none is named.
    pub(crate) fn all_limits(&self, now: Time) -> Vec<ProviderLimits> {
        let kinds: Vec<String> = self.setup.now().kinds.keys().cloned().collect();
        let unnamed = kinds.into_iter().map(|kind| (kind, None));
        let mut asked = self.asked.lock().clone();
        let used = asked.clone();
        asked.extend(unnamed);
        let mut found = BTreeMap::new();
        for (kind, model) in asked {
            let is_used = used.contains(&(kind.clone(), model.clone()));
            for (id, limits) in self.quotas(&kind, model, now) {
                if id != QuotaId::NONE && (is_used || limits.model.is_some()) {
                    found.entry(id).or_insert(limits);
                }
            }
        }
        let mut all: Vec<ProviderLimits> = found.into_values().collect();
        all.sort_by(|a, b| (&a.provider, &a.model).cmp(&(&b.provider, &b.model)));
        all
    }

    fn quotas(
        &self,
        kind: &str,
        model: Option<String>,
        now: Time,
    ) -> Vec<(QuotaId, ProviderLimits)> {
        match self.setup.now().kinds.get(kind).map(|(_, kind)| &**kind) {
            Some(Kind::Prompts { route, task, .. }) => {
                route.quotas(&like(*task, model), now).collect()
            }
            Some(Kind::Host(_)) | None => Vec::new(),
        }
    }

    fn remember(&self, lane: &JobLane) {
        let mut asked = self.asked.lock();
        let is_short = lane
            .name
            .as_ref()
            .is_none_or(|name| name.len() <= LONGEST_NAME);
        if is_short && asked.len() < MOST_LANES {
            asked.insert((lane.kind.clone(), lane.name.clone()));
        }
    }

    fn open(&self, lane: &JobLane) -> Option<Open> {
        let (number, kind) = self.setup.now().kinds.get(&lane.kind)?.clone();
        let class = match &*kind {
            Kind::Host(_) => Class::new([QuotaId::NONE]),
            Kind::Prompts { route, task, .. } => {
                self.remember(lane);
                route.class(&like(*task, lane.name.clone()), &mut None)
            }
        };
        Some(Open {
            pack: kind.pack_limits(),
            class: class.on(number),
            kind,
        })
    }
}

/// What of a request says which quotas it meets.
fn like(task: RequestTask, model: Option<String>) -> Request {
    Request {
        task,
        model,
        ..Request::default()
    }
}

/// A lane whose kind is known.
#[derive(Clone)]
pub(crate) struct Open {
    pub kind: Arc<Kind>,
    pub class: Class,
    pub pack: PackLimits,
}

/// The lanes as the present kinds see them.
#[derive(Default)]
pub(crate) struct Lanes {
    known: HashMap<Arc<JobLane>, Option<Open>>,
    version: u64,
    /// A kind that nobody here carries out, of which there are jobs.
    pub unknown: Option<String>,
}

/// Lanes that are remembered; prompts may name any number of models over the years.
const MOST_LANES: usize = 1000;
/// Bytes of the name of a model that is remembered.
const LONGEST_NAME: usize = 256;

impl Lanes {
    /// The version of the kinds they were last seen by.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Forgets everything when kinds have changed.
    pub(crate) fn refresh(&mut self, kinds: &Kinds) {
        self.unknown = None;
        let version = kinds.kinds_version();
        if version != self.version || self.known.len() > MOST_LANES {
            self.known.clear();
            self.version = version;
        }
    }

    /// What carries out the lane's jobs; `None` if nobody here does.
    pub(crate) fn open(&mut self, lane: &Arc<JobLane>, kinds: &Kinds) -> Option<&Open> {
        if !self.known.contains_key(lane) {
            let open = kinds.open(lane);
            if open.is_none() {
                let kind = beginning(&lane.kind, 60);
                log::warn!("jobs of the kind {kind:?} wait for a worker that knows it");
            }
            self.known.insert(lane.clone(), open);
        }
        let open = self.known.get(lane)?.as_ref();
        if open.is_none() {
            self.unknown = Some(lane.kind.clone());
        }
        open
    }
}
