//! Workers of a queue, created from the plan of a manager.

use crate::base::{Error, Optional};
use crate::config::settings::Settings;
use crate::engine::dispatch::ErrorPolicy;
use crate::engine::route::RetryPolicy;
use crate::llm::providers::config::LlmConfig;
use crate::llm::providers::extract::Extract;
use crate::llm::route::Route;
use crate::queue::host::JobQueue;
use crate::queue::live::WorkerSettings;
use crate::queue::scale::WorkerScale;
use crate::queue::worker::Worker;

use super::LlmManager;
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
