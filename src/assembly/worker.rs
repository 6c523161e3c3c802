//! Workers of a queue, created from the plan of a manager, and kept up to date with its settings.

use std::sync::Arc;

use crate::base::{Error, ErrorKind, Optional};
use crate::config::choices::Strategy;
use crate::config::settings::Settings;
use crate::engine::dispatch::ErrorPolicy;
use crate::engine::route::RetryPolicy;
use crate::llm::providers::extract::Extract;
use crate::llm::route::Route;
use crate::queue::controls::{Controls, Follower};
use crate::queue::host::JobQueue;
use crate::queue::kinds::WorkerSettings;
use crate::queue::scale::WorkerScale;
use crate::queue::worker::Worker;

use super::LlmManager;
use super::follow::SettingsEvent;
use super::options::ProviderOptions;
use super::plan::ProviderPlan;
use super::route_plan::{Caller, MOST_FOUND};

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

    fn worker_of(&self, queue: &JobQueue, caller: Caller) -> Result<Worker, Error> {
        let worker = self.unfollowed(queue, caller)?;
        let follower = self.watch.is_some().then(|| {
            let mut manager = Self {
                latest: Arc::default(),
                ..self.clone()
            };
            let (queue, mut refused) = (queue.clone(), None);
            let look = move |controls: &Controls| {
                manager.apply_to(controls, &queue, caller, &mut refused);
            };
            Box::new(look) as Follower
        });
        Ok(worker.set(follower, Worker::followed_by))
    }

    /// Has a worker apply the present settings if they have changed since that last succeeded, and notifies the listener.
    /// `refused` is why they are not applied. A missing provider may also become available without a change of them.
    fn apply_to(
        &mut self,
        controls: &Controls,
        queue: &JobQueue,
        caller: Caller,
        refused: &mut Option<String>,
    ) {
        let applied = match self.catch_up() {
            Ok(false) if refused.is_none() => return,
            Ok(_) => self.unfollowed(queue, caller),
            // Another program is writing them, and the next look is soon.
            Err(error) if error.kind() == ErrorKind::Transient => return,
            Err(error) => Err(error),
        };
        let listener = self.listener.clone();
        match applied {
            Ok(worker) => {
                worker.set_up(controls);
                *refused = None;
                listener(&SettingsEvent::Applied(self));
            }
            Err(error) => {
                let why = Some(error.message().to_owned());
                if *refused != why {
                    *refused = why;
                    listener(&SettingsEvent::Refused(&error));
                }
            }
        }
    }

    /// A worker with the present plan.
    fn unfollowed(&self, queue: &JobQueue, caller: Caller) -> Result<Worker, Error> {
        let plan = &self.plan;
        // Embeddings of two models cannot be compared.
        let alone = || ProviderPlan {
            fallbacks: Vec::new(),
            ..plan.clone()
        };
        let embeds = plan.first.embeddings;
        let embeddings = embeds.then(|| self.route_of(&alone(), caller));
        let is_batched = plan.strategy().strategy == Strategy::Batch;
        let batches = is_batched.then(|| plan.batch_config().batch_client());
        let worker = Worker::new(queue)
            .completions(self.route_of(plan, caller)?)
            .settings(plan.settings_of_worker(caller)?)
            .context(&self.ctx)
            .batch_clients(plan.clients_by_account())
            .on_error(ErrorPolicy::StopOnCriticalError)
            .set(self.deadline, Worker::deadline)
            .set(embeddings.transpose()?, Worker::embeddings)
            .set(batches.transpose()?, Worker::batches)
            .set(self.notifier.clone(), Worker::notifier);
        let Some(types) = &self.job_types else {
            return Ok(worker);
        };
        let calls = self.route_of(&plan.for_job_types()?, caller)?;
        Ok(worker.job_types(types.clone(), calls))
    }
}

impl ProviderPlan {
    /// How a worker works at the providers of this plan.
    fn settings_of_worker(&self, caller: Caller) -> Result<WorkerSettings, Error> {
        let settings = self.settings.worker_settings()?;
        let settings = settings
            .retry(self.options.retry(&self.settings)?)
            .max_retries(self.options.retries(&self.settings)?);
        Ok(if caller == Caller::Run {
            let calls = self.concurrency_of(Caller::Run);
            settings.scale(WorkerScale::fixed(calls.start()))
        } else {
            settings
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::limiter::Limits;
    use crate::llm::providers::survey::inspect;

    use super::*;

    fn plan(set: &[(&str, &str)], first: &str) -> ProviderPlan {
        let settings = set.iter().fold(Settings::new(), |settings, (key, value)| {
            let value = Some((*value).to_owned());
            settings.flag(key, "test", value).unwrap()
        });
        let at = Some("http://127.0.0.1:9/v1");
        let first = inspect(first, at, Some("m"), false).unwrap();
        ProviderPlan::new(settings, ProviderOptions::new().provider(first)).unwrap()
    }

    /// The limits of a worker. No rate is assumed: it is learned from replies.
    fn limits(plan: &ProviderPlan) -> Vec<Limits> {
        let (calls, most) = (&plan.calls, plan.concurrency_of(Caller::Worker));
        let fallbacks = plan.fallbacks.iter();
        let fallbacks = fallbacks.map(|status| calls.fallback(status, most, Caller::Worker).1);
        let (_, first) = calls.first(&plan.first, plan.first_config(), Caller::Worker);
        std::iter::once(first).chain(fallbacks).collect()
    }

    fn calls(most: u32) -> Limits {
        Limits::default().in_flight(most)
    }

    #[test]
    fn a_worker_has_separate_limits_for_each_provider() {
        let mut local = plan(&[("queue.worker_count", "50")], "local");
        local.fallbacks.push(plan(&[], "custom").first);
        let slots = u32::try_from(local.first.default_concurrency).unwrap();
        assert_eq!(limits(&local), [calls(slots), calls(50)]);
    }

    #[test]
    fn one_number_is_the_calls_and_the_jobs_at_once() {
        let by_load = |start, most| WorkerScale::default().slots(1, start, most);
        let (set, start, most) = (
            "llm.sync_concurrency",
            "queue.worker_count",
            "llm.max_concurrent_requests",
        );
        for (given, provider, scale, most) in [
            (&[][..], "custom", by_load(5, 10), 10),
            (&[(start, "20")], "custom", by_load(20, 20), 20),
            (&[(start, "20"), (most, "8")], "custom", by_load(8, 8), 8),
            (&[(most, "40")], "custom", by_load(5, 40), 40),
            (&[(set, "40")], "custom", WorkerScale::fixed(40), 40),
            // The number is exact whatever the others say, also at a local server.
            (
                &[(set, "40"), (start, "3"), (most, "8")],
                "custom",
                WorkerScale::fixed(40),
                40,
            ),
            (&[(set, "3")], "local", WorkerScale::fixed(3), 3),
        ] {
            let plan = plan(given, provider);
            let settings = plan.settings_of_worker(Caller::Worker).unwrap();
            assert_eq!(settings, settings.scale(scale), "{given:?}");
            assert_eq!(limits(&plan), [calls(most)], "{given:?}");
        }
    }
}
