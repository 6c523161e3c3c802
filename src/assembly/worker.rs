//! Workers of a queue, created from the plan of a manager, and kept up to date with its settings.

use std::sync::Arc;

use crate::base::{Error, ErrorKind, Optional};
use crate::config::settings::Settings;
use crate::config::watch::SettingsWatch;
use crate::engine::dispatch::ErrorPolicy;
use crate::engine::route::RetryPolicy;
use crate::llm::batch::BatchClient;
use crate::llm::providers::config::LlmConfig;
use crate::llm::providers::extract::Extract;
use crate::llm::route::Route;
use crate::queue::controls::{Controls, Follower};
use crate::queue::host::JobQueue;
use crate::queue::kinds::WorkerSettings;
use crate::queue::scale::WorkerScale;
use crate::queue::worker::Worker;

use super::LlmManager;
use super::follow::{Listener, SettingsEvent, log};
use super::options::ProviderOptions;
use super::plan::ProviderPlan;
use super::route_plan::{CallSettings, Caller, MOST_FOUND, RoutePlan};

/// The parts of a [`Worker`], as plain values.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct WorkerPlan {
    /// The route of jobs that need an answer.
    pub completions: RoutePlan,
    /// The route of texts to embed, if the first provider makes embeddings. It has no fallbacks, because embeddings of
    /// two models cannot be compared.
    pub embeddings: Option<RoutePlan>,
    /// The route of jobs whose type calls a model, if there are [such types](LlmManager::job_types).
    pub model_calls: Option<RoutePlan>,
    /// The Batch API, if the strategy uses it.
    pub batches: Option<LlmConfig>,
    /// Slots, retries and intervals, for all providers.
    pub settings: WorkerSettings,
}

impl Settings {
    /// The settings of a queue's worker: `llm.sync_concurrency`, `llm.max_concurrent_requests`, `queue.…` and `batch.…`.
    ///
    /// # Errors
    /// If one of them cannot be used.
    pub fn worker_settings(&self) -> Result<WorkerSettings, Error> {
        let max_retries = self.max_retries()?;
        Ok(WorkerSettings {
            scale: self.worker_scale()?,
            retry: RetryPolicy::default().max_retries(max_retries),
            max_retries,
            batch_size: self.batch_size()?,
            poll_interval: self.poll_interval()?,
            batches: self.batch_settings()?,
        })
    }

    /// How many jobs a worker runs at once: the number of `llm.sync_concurrency`, else as many as the load of the
    /// machine allows, and with `auto` as many as the providers answer well.
    fn worker_scale(&self) -> Result<WorkerScale, Error> {
        if let Some(jobs) = self.sync_concurrency()? {
            return Ok(WorkerScale::fixed(jobs));
        }
        let most = self.max_concurrent_requests()?;
        let start = self.worker_count()?.min(most);
        Ok(if self.finds_concurrency()? {
            WorkerScale::default()
                .slots(1, start, MOST_FOUND.max(start))
                .doubling()
        } else {
            WorkerScale::default().slots(1, start, most)
        })
    }
}

impl ProviderOptions {
    /// A route for a worker that only [collects results of batches](Worker::collecting): it has the prices of these
    /// options and settings, and makes no calls.
    ///
    /// # Errors
    /// If the prices cannot be read.
    pub fn collecting_route(&self, settings: &Settings) -> Result<Route<'static>, Error> {
        Ok(Route::new(Extract).prices(self.all_prices(settings)?))
    }
}

impl LlmManager {
    /// The parts of a [worker](Self::worker).
    ///
    /// # Errors
    /// If a setting cannot be used.
    pub fn worker_plan(&self) -> Result<WorkerPlan, Error> {
        self.plan_of_worker(Caller::Worker)
    }

    /// A worker of this queue for the jobs of all programs, with the [strategy](Self::effective_strategy), settings,
    /// context and notifier of this manager. Limits per minute that no setting names are learned from the provider's
    /// replies.
    ///
    /// # Errors
    /// If a setting or a provider cannot be used.
    pub fn worker(&self, queue: &JobQueue) -> Result<Worker, Error> {
        self.present().worker_of(queue, Caller::Worker)
    }

    /// A worker of this queue for one run: it has the limits of [`route`](Self::route), and as many slots as there may
    /// be calls in flight.
    ///
    /// # Errors
    /// As [`worker`](Self::worker).
    pub fn run_worker(&self, queue: &JobQueue) -> Result<Worker, Error> {
        self.present().worker_of(queue, Caller::Run)
    }

    pub(super) fn plan_of_worker(&self, caller: Caller) -> Result<WorkerPlan, Error> {
        let plan = &self.plan;
        let completions = plan.route_of(caller);
        let job_types = self.job_types.as_ref().map(|_| plan.for_job_types());
        Ok(WorkerPlan {
            embeddings: plan
                .first
                .embeddings
                .then(|| completions.without_fallbacks()),
            model_calls: job_types.transpose()?.map(|plan| plan.route_of(caller)),
            completions,
            batches: plan.batches_config(),
            settings: plan.settings_of_worker(&plan.settings, caller)?,
        })
    }

    fn worker_of(&self, queue: &JobQueue, caller: Caller) -> Result<Worker, Error> {
        let plan = self.plan_of_worker(caller)?;
        let route = |plan: &Option<RoutePlan>| plan.as_ref().map(|plan| self.route_by(plan));
        let batches = plan.batches.as_ref().map(LlmConfig::batch_client);
        let mut worker = Worker::new(queue)
            .completions(self.route_by(&plan.completions)?)
            .settings(plan.settings)
            .context(&self.ctx)
            .batch_clients(self.plan.clients_by_account())
            .on_error(ErrorPolicy::StopOnCriticalError)
            .set(self.deadline, Worker::deadline)
            .set(route(&plan.embeddings).transpose()?, Worker::embeddings)
            .set(batches.transpose()?, Worker::batches)
            .set(self.notifier.clone(), Worker::notifier);
        if let (Some(types), Some(calls)) = (&self.job_types, &plan.model_calls) {
            worker = worker.job_types(types.clone(), self.route_by(calls)?);
        }
        Ok(worker.set(self.follower(plan, caller), Worker::followed_by))
    }
}

impl ProviderPlan {
    /// How a worker works by these settings at the providers of this plan.
    pub(super) fn settings_of_worker(
        &self,
        settings: &Settings,
        caller: Caller,
    ) -> Result<WorkerSettings, Error> {
        let by_settings = settings.worker_settings()?;
        let by_settings = by_settings
            .retry(self.options.retry(settings)?)
            .max_retries(self.options.retries(settings)?);
        Ok(if caller == Caller::Run {
            let calls = CallSettings::of(settings, &self.options)?;
            let calls = calls.concurrency(&self.first, Caller::Run);
            by_settings.scale(WorkerScale::fixed(calls.start()))
        } else {
            by_settings
        })
    }
}

// Workers that follow settings.

/// A worker that follows settings, and what it applies now.
struct FollowingWorker {
    watch: SettingsWatch,
    listener: Listener,
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
        let mut next = self.manager.clone();
        next.plan = next.plan.with_settings(settings)?;
        let plan = next.plan_of_worker(self.caller)?;
        let has_changed = plan != self.plan;
        if has_changed {
            next.set_up(controls, &plan)?;
        }
        (self.manager, self.plan) = (next, plan);
        Ok(has_changed)
    }
}

impl LlmManager {
    /// The follower that keeps a worker of this plan up to date with the settings, if they are followed.
    pub(super) fn follower(&self, plan: WorkerPlan, caller: Caller) -> Option<Follower> {
        let watch = self.watch.clone()?;
        let mut worker = FollowingWorker {
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
