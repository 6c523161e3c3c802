//! Workers that follow settings.

use std::sync::Arc;

use crate::base::Error;
use crate::config::key::SettingKey;
use crate::config::settings::Settings;
use crate::config::watch::SettingsWatch;
use crate::llm::batch::BatchClient;
use crate::llm::providers::config::LlmConfig;
use crate::queue::controls::{Controls, Follower};
use crate::queue::worker::Worker;

use super::LlmManager;
use super::follow::{Listener, SettingsEvent, log};
use super::route_plan::{Caller, RoutePlan};
use super::worker::WorkerPlan;

type Values = Vec<(&'static str, Option<String>)>;

/// Looks whether settings have changed, and has them applied.
pub(super) struct SettingsFollower {
    watch: SettingsWatch,
    listener: Listener,
    known: Values,
    /// They have changed and are not applied yet. A missing provider may also become available without a change of the
    /// settings.
    pending: bool,
    refused: Option<String>,
}

impl SettingsFollower {
    pub(super) fn new(watch: SettingsWatch, listener: Option<Listener>) -> Self {
        Self {
            known: values(watch.settings()),
            watch,
            listener: listener.unwrap_or_else(|| Arc::new(log)),
            pending: false,
            refused: None,
        }
    }

    /// Calls `apply` with the present settings if they have changed since `apply` last succeeded. If `apply` returns a
    /// manager, the new settings are in effect and the listener is notified.
    pub(super) fn look(
        &mut self,
        apply: &mut dyn FnMut(&Settings) -> Result<Option<LlmManager>, Error>,
    ) {
        let applied = match self.watch.refresh() {
            Ok(changed) => {
                self.pending |= changed;
                if !self.pending {
                    return;
                }
                self.tell_changes();
                apply(self.watch.settings())
            }
            Err(error) => Err(error),
        };
        match applied {
            Ok(manager) => {
                (self.pending, self.refused) = (false, None);
                if let Some(manager) = manager {
                    (self.listener)(&SettingsEvent::Applied(&manager));
                }
            }
            Err(error) => {
                if self.refused.as_deref() != Some(error.message()) {
                    self.refused = Some(error.message().to_owned());
                    (self.listener)(&SettingsEvent::Refused(&error));
                }
            }
        }
    }

    fn tell_changes(&mut self) {
        let now = values(self.watch.settings());
        for ((key, before), (_, now)) in self.known.iter().zip(&now) {
            if before != now {
                (self.listener)(&SettingsEvent::Changed {
                    key,
                    before: before.as_deref(),
                    now: now.as_deref(),
                });
            }
        }
        self.known = now;
    }
}

/// The value of every key.
fn values(settings: &Settings) -> Values {
    let value = |name| settings.explain(name).ok()?.value;
    let keys = SettingKey::all().iter().map(SettingKey::name);
    keys.map(|name| (name, value(name))).collect()
}

/// A worker and what it applies now.
struct FollowingWorker {
    manager: LlmManager,
    plan: WorkerPlan,
    caller: Caller,
}

impl FollowingWorker {
    /// Applies these settings. Returns the manager if that changed anything.
    fn apply(
        &mut self,
        settings: &Settings,
        controls: &Controls,
    ) -> Result<Option<LlmManager>, Error> {
        // Settings that need no provider apply even if the provider cannot be used.
        let providers = &self.manager.plan;
        let alone = providers.settings_of_worker(settings, self.caller)?;
        let mut has_changed = alone != self.plan.settings;
        if has_changed {
            self.plan.settings = alone;
            controls.change(|setup| setup.settings = alone);
        }
        let mut next = self.manager.clone();
        next.plan = next.plan.with_settings(settings)?;
        let plan = next.plan_of_worker(self.caller)?;
        if plan != self.plan {
            next.set_up(controls, &plan)?;
            has_changed = true;
        }
        (self.manager, self.plan) = (next, plan);
        Ok(has_changed.then(|| self.manager.clone()))
    }
}

impl LlmManager {
    /// The follower that keeps a worker of this plan up to date with the settings, if they are followed.
    pub(super) fn follower(&self, plan: WorkerPlan, caller: Caller) -> Option<Follower> {
        let mut follower = SettingsFollower::new(self.watch.clone()?, self.listener.clone());
        let mut worker = FollowingWorker {
            manager: self.clone(),
            plan,
            caller,
        };
        Some(Box::new(move |controls: &Controls| {
            follower.look(&mut |settings| worker.apply(settings, controls));
        }))
    }

    /// Has a worker work by this plan.
    fn set_up(&self, controls: &Controls, plan: &WorkerPlan) -> Result<(), Error> {
        let route = |plan: &Option<RoutePlan>| {
            let route = plan.as_ref().map(|plan| self.route_by(plan));
            route.transpose()
        };
        let completions = self.route_by(&plan.completions)?;
        let (embeddings, model_calls) = (route(&plan.embeddings)?, route(&plan.model_calls)?);
        let batches = plan.batches.as_ref().map(LlmConfig::batch_client);
        let batches = batches.transpose()?;
        controls.change(|setup| {
            setup.settings = plan.settings;
            setup.batch_clients = Some(Arc::new(self.plan.clients_by_account()));
            setup.batches = batches.map(|client| Arc::new(client) as Arc<dyn BatchClient>);
            controls.set_completions(setup, completions);
            controls.set_embeddings(setup, embeddings);
            if let Some(route) = model_calls {
                let calls = setup.model_calls();
                controls.set_model_calls(setup, route, calls);
            }
        });
        Ok(())
    }
}

/// The settings that need no provider: the number of jobs that run at once, and waiting times.
impl Worker {
    /// Applies the watched settings `queue.…` and `batch.…`, and follows their changes within a second while it runs.
    /// Settings that cannot be used are logged once, and the old ones apply until they can. To also follow providers
    /// and their limits, see [`LlmManager::follow`].
    ///
    /// # Errors
    /// If one of the settings cannot be used now.
    pub fn follow(self, watch: SettingsWatch) -> Result<Self, Error> {
        let mut now = watch.settings().worker_settings()?;
        let mut follower = SettingsFollower::new(watch, None);
        let look = move |controls: &Controls| {
            follower.look(&mut |settings| {
                let next = settings.worker_settings()?;
                if next != now {
                    now = next;
                    controls.change(|setup| setup.settings = next);
                }
                Ok(None)
            });
        };
        Ok(self.settings(now).followed_by(Box::new(look)))
    }
}
