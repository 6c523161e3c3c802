//! What a run with a deadline can choose from: the worker with all ways of the first provider, and their prices.

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::usage::Usage;
use crate::base::usd::Usd;
use crate::engine::dispatch::ErrorPolicy;
use crate::llm::providers::config::known;
use crate::llm::route::Route;
use crate::money::deadline::WayPrices;
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
        let mut worker = Worker::new(queue)
            .completions(now.route_by(&standard)?)
            .settings(plan.settings.scale(WorkerScale::fixed(slots)))
            .context(&now.ctx)
            .batch_clients(now.plan.clients_by_account())
            .on_error(ErrorPolicy::StopOnCriticalError);
        if let Some(client) = now.plan.batch_client()? {
            worker = worker.batches(client);
        }
        if let Some(notifier) = &now.notifier {
            worker = worker.notifier(notifier.clone());
        }
        Ok(worker)
    }

    /// The route of a run at the flex tier; `None` if the first provider has none.
    ///
    /// # Errors
    /// If a setting or a provider cannot be used.
    pub fn flex_route(&self) -> Result<Option<Route<'static>>, Error> {
        let now = self.present();
        if !known(now.plan.first.provider).is_ok_and(|vendor| vendor.flex) {
            return Ok(None);
        }
        let patience = now.plan.settings.flex_patience()?;
        let plan = now.plan.route_of(Caller::Run).at_flex_tier(patience);
        now.route_by(&plan).map(Some)
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
