//! Workers that follow settings.

use std::sync::Arc;

use crate::base::{Error, ErrorKind};
use crate::config::key::SettingKey;
use crate::config::settings::Settings;
use crate::config::store::SettingsWatch;
use crate::llm::batch::BatchClient;
use crate::llm::providers::config::LlmConfig;
use crate::queue::controls::{Controls, Follower};

use super::LlmManager;
use super::follow::{Listener, SettingsEvent, log};
use super::route_plan::{Caller, RoutePlan};
use super::worker::WorkerPlan;

type Values = Vec<(&'static str, Option<String>)>;

/// A worker that follows settings, and what it applies now.
struct FollowingWorker {
    watch: SettingsWatch,
    listener: Listener,
    known: Values,
    /// They have changed and are not applied yet. A missing provider may also become available without a change of the
    /// settings.
    pending: bool,
    refused: Option<String>,
    manager: LlmManager,
    plan: WorkerPlan,
    caller: Caller,
}

impl FollowingWorker {
    /// Applies the present settings if they have changed since that last succeeded, and notifies the listener.
    fn look(&mut self, controls: &Controls) {
        let applied = match self.watch.refresh() {
            Ok(changed) => {
                self.pending |= changed;
                if !self.pending {
                    return;
                }
                self.tell_changes();
                self.apply(controls)
            }
            // Another program is writing them, and the next look is soon.
            Err(error) if error.kind() == ErrorKind::Transient => return,
            Err(error) => Err(error),
        };
        match applied {
            Ok(has_changed) => {
                (self.pending, self.refused) = (false, None);
                if has_changed {
                    (self.listener)(&SettingsEvent::Applied(&self.manager));
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

    /// Applies the present settings. Returns whether that changed anything.
    fn apply(&mut self, controls: &Controls) -> Result<bool, Error> {
        let settings = self.watch.settings();
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
        Ok(has_changed)
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

impl LlmManager {
    /// The follower that keeps a worker of this plan up to date with the settings, if they are followed.
    pub(super) fn follower(&self, plan: WorkerPlan, caller: Caller) -> Option<Follower> {
        let watch = self.watch.clone()?;
        let mut worker = FollowingWorker {
            known: values(watch.settings()),
            watch,
            listener: self.listener.clone().unwrap_or_else(|| Arc::new(log)),
            pending: false,
            refused: None,
            manager: self.clone(),
            plan,
            caller,
        };
        Some(Box::new(move |controls: &Controls| worker.look(controls)))
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
