//! What may change while a worker runs: one value with a version, replaced as a whole.
//!
//! Whoever decides something reads it once and goes by that; what runs when it is replaced ends as it began.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::llm::batch::{BatchClient, BatchClients};
use crate::llm::route::Route;

use super::kind::Kind;
use super::model_call::ModelCall;
use super::settings::WorkerSettings;

/// How a worker works, and who carries its jobs out.
#[derive(Clone, Default)]
pub(crate) struct WorkerSetup {
    /// Raised by each change.
    pub version: u64,
    pub settings: WorkerSettings,
    /// Who takes prompts by the thousand; nobody under the `sync` strategy.
    pub batches: Option<Arc<dyn BatchClient>>,
    /// Who finds the clients of batches that other accounts have made.
    pub batch_clients: Option<Arc<BatchClients>>,
    /// Who carries out the jobs of each kind, with a number of its own: what was wrong with the route before
    /// is no fault of the new one.
    pub kinds: HashMap<String, (u16, Arc<Kind>)>,
    /// Raised by each change of the kinds.
    pub kinds_version: u64,
}

impl WorkerSetup {
    /// The route of a kind that has one.
    pub(crate) fn route(&self, kind: &str) -> Option<Arc<Route<'static>>> {
        match &*self.kinds.get(kind)?.1 {
            Kind::Prompts { route, .. } => Some(route.clone()),
            Kind::Host(_) => None,
        }
    }

    /// The route that was made last.
    pub(crate) fn newest_route(&self) -> Option<Arc<Route<'static>>> {
        let kinds = self.kinds.keys();
        let routes = kinds.filter_map(|name| self.route(name));
        routes.max_by_key(|route| route.edition())
    }

    /// The kinds whose jobs are one call of a model each.
    pub(crate) fn model_calls(&self) -> Vec<(String, ModelCall)> {
        let kinds = self.kinds.iter();
        kinds
            .filter_map(|(name, (_, kind))| Some((name.clone(), kind.model_call()?.clone())))
            .collect()
    }

    /// Registers a kind, or replaces it.
    pub(crate) fn set_kind(&mut self, name: &str, kind: Kind) {
        self.kinds_version += 1;
        let number = (self.kinds_version % u64::from(u16::MAX)) as u16;
        self.kinds.insert(name.to_owned(), (number, Arc::new(kind)));
    }

    /// Forgets a kind: its jobs wait for another worker.
    pub(crate) fn remove_kind(&mut self, name: &str) {
        self.kinds_version += 1;
        self.kinds.remove(name);
    }
}

/// The setup that holds now.
#[derive(Default)]
pub(crate) struct LiveSetup(RwLock<Arc<WorkerSetup>>);

impl LiveSetup {
    /// What holds now, and goes on holding for whoever has it in hand.
    pub(crate) fn now(&self) -> Arc<WorkerSetup> {
        self.0.read().clone()
    }

    /// Puts another in its place; returns the two, the older one first.
    pub(crate) fn change(
        &self,
        change: impl FnOnce(&mut WorkerSetup),
    ) -> (Arc<WorkerSetup>, Arc<WorkerSetup>) {
        let mut held = self.0.write();
        let before = held.clone();
        let mut next = WorkerSetup::clone(&before);
        next.version += 1;
        change(&mut next);
        *held = Arc::new(next);
        (before, held.clone())
    }
}
