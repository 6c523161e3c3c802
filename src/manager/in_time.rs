//! What a run with a deadline can choose from: the worker with all ways of the first provider, and their prices.

use std::time::Duration;

use crate::base::{Error, Optional, Timestamp, Usage, Usd};
use crate::engine::dispatch::ErrorPolicy;
use crate::llm::providers::config::known;
use crate::llm::route::Route;
use crate::money::deadline::{Deadline, Way, WayPrices};
use crate::money::estimate::Bounds;
use crate::money::forecast::DeadlineForecast;
use crate::queue::host::JobQueue;
use crate::queue::scale::WorkerScale;
use crate::queue::worker::Worker;

use super::LlmManager;
use super::route_plan::Caller;

/// A usual request, to compare prices.
const USUAL: (u64, u64) = (1000, 250);

impl LlmManager {
    /// As [`run_worker`](Self::run_worker), for a run with a [deadline](crate::files::QueueRun::deadline): with the
    /// standard tier, and the Batch API of the first provider if it has one, whatever the strategy. It has as many slots
    /// as there may be calls in flight at most.
    ///
    /// # Errors
    /// As [`worker`](Self::worker).
    pub fn worker_in_time(&self, queue: &JobQueue) -> Result<Worker, Error> {
        let now = self.present();
        let plan = now.plan_of_worker(Caller::Run)?;
        let standard = plan.completions.at_standard_tier();
        let slots = now.plan.concurrency().most();
        Ok(Worker::new(queue)
            .completions(now.route_by(&standard)?)
            .settings(plan.settings.scale(WorkerScale::fixed(slots)))
            .context(&now.ctx)
            .batch_clients(now.plan.clients_by_account())
            .on_error(ErrorPolicy::StopOnCriticalError)
            .set(now.plan.batch_client()?, Worker::batches)
            .set(now.notifier.clone(), Worker::notifier))
    }

    /// The route of a run at the flex tier; `None` if the first provider has none, or if its default model is known to have
    /// no price there: the provider would reject such calls.
    ///
    /// # Errors
    /// If a setting or a provider cannot be used.
    pub fn flex_route(&self) -> Result<Option<Route<'static>>, Error> {
        let now = self.present();
        if !now.has_flex() {
            return Ok(None);
        }
        let patience = now.plan.settings.flex_patience()?;
        let plan = now.plan.route_of(Caller::Run).at_flex_tier(patience);
        now.route_by(&plan).map(Some)
    }

    /// Whether the first provider sells calls at the flex tier, and its default model may be used there.
    fn has_flex(&self) -> bool {
        let prices = self.way_prices();
        let is_priced = prices.flex.is_some() || prices.sync.is_none();
        known(self.plan.first.provider).is_ok_and(|vendor| vendor.flex && is_priced)
    }

    /// How a run with this deadline would begin at the first provider. `calls` is the time that standard calls need for this
    /// many items, and `ways` are those that the run may use.
    ///
    /// # Errors
    /// If a setting cannot be used.
    pub fn deadline_forecast(
        &self,
        deadline: Deadline,
        items: u64,
        calls: Bounds<Duration>,
        ways: &[Way],
    ) -> Result<DeadlineForecast, Error> {
        let has_flex = self.has_flex();
        let ways = ways.iter().filter(|way| **way != Way::Flex || has_flex);
        let ways: Vec<Way> = ways.copied().collect();
        let batches = known(self.plan.first.provider)?.batches;
        let keeps_results = batches.is_none_or(|batches| batches.keeps_cancelled_results());
        let wait = self.plan.settings.batch_cancel_wait()?;
        let prices = self.way_prices();
        Ok(DeadlineForecast::new(
            deadline,
            items,
            calls,
            &ways,
            prices,
            wait,
            keeps_results,
        ))
    }

    /// The prices of a usual request to the default model of the first provider.
    pub fn way_prices(&self) -> WayPrices {
        let first = &self.plan.first;
        let Some(model) = &first.model else {
            return WayPrices::default();
        };
        let prices = self.plan.calls.prices.of_model(first.provider, model);
        let at: Timestamp = std::time::SystemTime::now().into();
        let (input_tokens, output_tokens) = USUAL;
        let usage = Usage {
            input_tokens,
            output_tokens,
            ..Usage::default()
        };
        let cost = |tier: &str| {
            let cost: Usd = prices.as_ref()?.cost(&usage, tier, at)?;
            Some(cost.dollars())
        };
        WayPrices {
            batch: cost("batch"),
            flex: cost("flex"),
            sync: cost(""),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::base::secret::Secret;
    use crate::config::settings::Settings;
    use crate::llm::batch::BatchClient;
    use crate::manager::{ProviderOptions, ProviderPlan};

    fn manager(provider: &str, model: &str) -> LlmManager {
        let flag = |settings: Settings, key: &str, value: &str| {
            settings.flag(key, "test", Some(value.to_owned())).unwrap()
        };
        let settings = flag(Settings::new(), "llm.provider", provider);
        let settings = flag(settings, "llm.model", model);
        let options = ProviderOptions::new().api_key(provider, Secret::new("k"));
        LlmManager::of(ProviderPlan::new(settings, options).unwrap())
    }

    #[test]
    fn a_model_without_a_price_at_the_flex_tier_is_not_sent_there() {
        for (model, has_flex) in [("gpt-5", true), ("gpt-4o-mini", false), ("unknown", true)] {
            let route = manager("openai", model).flex_route().unwrap();
            assert_eq!(route.is_some(), has_flex, "{model}");
        }
        assert!(manager("anthropic", "m").flex_route().unwrap().is_none());
    }

    #[test]
    fn a_forecast_and_a_run_agree_whether_cancelled_batches_keep_their_results() {
        for (provider, keeps) in [("openai", true), ("anthropic", true), ("gemini", false)] {
            let manager = manager(provider, "m");
            let client = manager.batch_client().unwrap().unwrap();
            assert_eq!(client.keeps_cancelled_results(), keeps, "{provider}");

            let hour = Duration::from_secs(3600);
            let deadline = Deadline::at(SystemTime::now() + 8 * hour);
            let ways = [Way::Batch, Way::Sync];
            let calls = Bounds::new(hour, hour);
            let forecast = manager.deadline_forecast(deadline, 1000, calls, &ways);
            let forecast = forecast.unwrap();
            assert_eq!(forecast.way, Way::Batch);
            // A batch that stalls after its first answers cannot be withdrawn without losing them.
            assert_eq!(forecast.is_met, keeps.then_some(true), "{provider}");
            let warning = "may miss the deadline";
            assert_eq!(forecast.reason.contains(warning), !keeps, "{provider}");
        }
    }
}
