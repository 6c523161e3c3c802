//! Workers of a queue, by the settings.

use std::sync::Arc;

use crate::base::error::Error;
use crate::config::settings::Settings;
use crate::engine::dispatch::ErrorPolicy;
use crate::llm::providers::config::LlmConfig;
use crate::queue::host::JobQueue;
use crate::queue::scale::WorkerScale;
use crate::queue::settings::WorkerSettings;
use crate::queue::worker::Worker;

use super::plan::{Caller, Concurrency, RoutePlan};
use super::{LlmManager, Strategy};

/// What a [`Worker`] is made of.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct WorkerPlan {
    /// Where jobs go that ask for an answer.
    pub completions: RoutePlan,
    /// Where texts to embed go, if the first provider takes them. Nobody takes over there: vectors of two
    /// models cannot be compared.
    pub embeddings: Option<RoutePlan>,
    /// Where jobs go whose type asks a model, if there are [such types](LlmManager::job_types).
    pub model_calls: Option<RoutePlan>,
    /// Whose Batch API takes prompts by the thousand, if the strategy is to use it.
    pub batches: Option<LlmConfig>,
    /// How it works, whoever is asked.
    pub settings: WorkerSettings,
}

impl Settings {
    /// How a queue's worker works: what the settings `queue.…` and `batch.…`, `llm.max_concurrent_requests`,
    /// `llm.max_rate_limit_wait` and `llm.max_retry_after` say.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn worker_settings(&self) -> Result<WorkerSettings, Error> {
        let most = self.max_concurrent_requests()?;
        let slots = |n: usize| n.min(most).max(1);
        let scale = WorkerScale::default()
            .slots(
                slots(self.min_workers()?),
                slots(self.worker_count()?),
                slots(self.max_workers()?),
            )
            .cpu_percent(self.max_cpu_percent()?.into())
            .memory_percent(self.max_memory_percent()?.into())
            .whole_machine(self.scales_with_machine()?);
        let max_retries = self.max_retries()?;
        Ok(WorkerSettings {
            scale,
            retry: self.retry_policy(max_retries)?,
            max_retries,
            batch_size: self.batch_size()?,
            poll_interval: self.poll_interval()?,
            batches: self.batch_settings()?,
        })
    }
}

impl LlmManager {
    /// What a [worker](Self::worker) is made of.
    ///
    /// # Errors
    /// When a setting cannot be used, or a fallback has no model of its own.
    pub fn worker_plan(&self) -> Result<WorkerPlan, Error> {
        self.plan_of_worker(Caller::Worker, self.options.fixed_slots)
    }

    /// A worker of this queue that carries the [strategy](Self::effective_strategy) out for whoever puts jobs
    /// there, with this manager's settings, context and notifier. At a provider that allows so many requests a
    /// minute and tells nobody how many, it makes a hundred.
    ///
    /// # Errors
    /// When a setting or a provider cannot be used.
    pub fn worker(&self, queue: &JobQueue) -> Result<Worker, Error> {
        self.present()
            .worker_of(queue, Caller::Worker, self.options.fixed_slots)
    }

    /// Calls of a worker in flight at the first provider: `llm.sync_concurrency`, else the provider's own number.
    /// Its slots, which are for all providers, may be fewer.
    ///
    /// # Errors
    /// When the setting cannot be used.
    pub fn worker_concurrency(&self) -> Result<Concurrency, Error> {
        self.concurrency_of(Caller::Worker)
    }

    /// A worker of this queue for the one run that makes it: it has the limits of [`route`](Self::route), and as
    /// many slots as there may be calls in flight.
    ///
    /// # Errors
    /// As [`worker`](Self::worker).
    pub fn run_worker(&self, queue: &JobQueue) -> Result<Worker, Error> {
        self.present().worker_of(queue, Caller::Run, true)
    }

    pub(super) fn plan_of_worker(
        &self,
        caller: Caller,
        fixed_slots: bool,
    ) -> Result<WorkerPlan, Error> {
        let completions = self.plan(caller)?;
        let batch = self.effective_strategy().strategy == Strategy::Batch;
        let embeds = self.provider().embeddings;
        Ok(WorkerPlan {
            embeddings: embeds.then(|| completions.without_fallbacks()),
            model_calls: self.plan_of_model_calls(caller)?,
            completions,
            batches: batch.then(|| self.batch_config()).transpose()?,
            settings: self.settings_of_worker(fixed_slots)?,
        })
    }

    pub(super) fn settings_of_worker(&self, fixed_slots: bool) -> Result<WorkerSettings, Error> {
        let settings = self.settings.worker_settings()?;
        let settings = settings
            .retry(self.retry()?)
            .max_retries(self.max_retries_now()?);
        Ok(if fixed_slots {
            settings.scale(WorkerScale::fixed(self.concurrency()?.start()))
        } else {
            settings
        })
    }

    fn worker_of(
        &self,
        queue: &JobQueue,
        caller: Caller,
        fixed_slots: bool,
    ) -> Result<Worker, Error> {
        let plan = self.plan_of_worker(caller, fixed_slots)?;
        let mut worker = Worker::new(queue)
            .completions(self.made(&plan.completions)?)
            .settings(plan.settings)
            .context(&self.ctx)
            .batch_clients(self.clients_by_account()?)
            .on_error(ErrorPolicy::StopOnCriticalError);
        if let Some(embeddings) = &plan.embeddings {
            worker = worker.embeddings(self.made(embeddings)?);
        }
        if let (Some(types), Some(calls)) = (&self.job_types, &plan.model_calls) {
            worker = worker.job_types(types.clone(), self.made(calls)?);
        }
        if let Some(config) = &plan.batches {
            worker = worker.batches(config.batch_client()?);
        }
        if let Some(notifier) = &self.notifier {
            worker = worker.notifier(Arc::clone(notifier));
        }
        Ok(match self.follower(plan, caller, fixed_slots) {
            Some(follower) => worker.followed_by(follower),
            None => worker,
        })
    }
}
