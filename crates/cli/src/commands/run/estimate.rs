//! The estimate of a run: what it would cost, and how long it would take.

use std::time::SystemTime;

use batchwright::plan::{
    Bounds, CallLimits, Concurrency, DurationEstimate, EarlierReplies, EffectiveStrategy, Workload,
};
use batchwright::{Estimate, FileRun, LlmClient, LlmManager, Prices, Settings, Strategy, Usd};

use super::summary::Setup;
use crate::args::run::RunArgs;
use crate::args::shared::TaskArg;
use crate::data_dir::data_dir;
use crate::exit::{About, Refusal, could_not_run};
use crate::prices;
use crate::settings::refused;

/// What a run would use of the models of its first provider.
pub struct RunEstimate {
    pub provider: String,
    /// The providers that items can fail over to. Their prices are not in the estimate.
    pub fallbacks: Vec<String>,
    pub models: Vec<ModelEstimate>,
    /// The strategies that the provider has and that have a price; `sync` also without one.
    pub strategies: Vec<Strategy>,
    /// `None` for batches, which the provider answers within a day.
    pub duration: Option<DurationEstimate>,
    /// The number of calls in flight at most, if known.
    pub most_in_flight: Option<usize>,
}

pub struct ModelEstimate {
    pub model: String,
    pub estimate: Estimate,
    /// One for each strategy; `None` if the price is unknown.
    pub costs: Vec<Option<Bounds<Usd>>>,
    pub limits: CallLimits,
    /// Whether the model bills searches apart.
    pub bills_searches: bool,
}

/// Where the provider and the numbers come from.
struct Sources<'s> {
    args: &'s RunArgs,
    manager: Option<&'s LlmManager>,
    provider: String,
    prices: Prices,
    earlier: EarlierReplies,
    strategies: Vec<Strategy>,
}

impl RunEstimate {
    /// The estimate of what this run would send; `None` if its provider or its model is unknown, or costs nothing.
    pub fn of(
        args: &RunArgs,
        settings: &Settings,
        manager: Option<&LlmManager>,
        run: &FileRun<'_>,
        setup: &Setup,
    ) -> Result<Option<Self>, Refusal> {
        let first = manager.map(|manager| &manager.plan().first);
        let (provider, default) = match first {
            Some(first) => (Some(first.provider.to_owned()), first.model.clone()),
            None => (
                settings.provider().map_err(refused)?,
                settings.model().map_err(refused)?,
            ),
        };
        let Some(provider) = provider.filter(|name| name != "extract") else {
            return Ok(None);
        };
        let folder = data_dir(args.pace.data_dir.as_deref());
        let of_folder = folder.as_ref().map(|folder| Prices::of_folder(folder));
        let of_folder = of_folder.transpose().map_err(refused)?.unwrap_or_default();
        let earlier = folder
            .as_ref()
            .map(|folder| EarlierReplies::of_folder(folder));
        let sources = Sources {
            args,
            manager,
            prices: prices::of_file(args.provider.prices.as_deref())?.or(of_folder),
            earlier: earlier.unwrap_or_default(),
            strategies: strategies(args, &provider),
            provider,
        };
        let workloads = run.workloads(default.as_deref());
        let workloads = workloads.map_err(|error| refused(error).about(About::Input))?;
        let mut replies = run.replies(&sources.provider).map_err(could_not_run)?;
        let mut models = Vec::new();
        for (named, work) in workloads {
            let Some(model) = named.clone().or_else(|| default.clone()) else {
                return Ok(None);
            };
            let of_input = replies.remove(&named).unwrap_or_default();
            let of_model = sources.earlier.of_model(&sources.provider, &model);
            let work = sources.packed(work)?;
            let estimate = Estimate::new(&work, &of_input, &of_model);
            models.push(sources.priced(model, estimate)?);
        }
        let strategies = drop_unpriced(&sources.provider, sources.strategies, &mut models);
        let in_flight = manager.map(|_| setup.concurrency);
        let in_flight = in_flight.map(|calls: Concurrency| (calls.start(), calls.most()));
        let parts: Vec<_> = models
            .iter()
            .map(|model| (&model.estimate, model.limits))
            .collect();
        let duration = DurationEstimate::new(&parts, in_flight);
        let fallbacks = manager.map_or(&[][..], |manager| &manager.plan().fallbacks);
        let fallbacks = fallbacks.iter().map(|status| match &status.model {
            Some(model) => format!("{}/{model}", status.provider),
            None => status.provider.to_owned(),
        });
        Ok(Some(Self {
            provider: sources.provider,
            fallbacks: fallbacks.filter(|name| name != "extract").collect(),
            strategies,
            duration: (setup.strategy.strategy != Strategy::Batch).then_some(duration),
            most_in_flight: in_flight.map(|(_, most)| most),
            models,
        }))
    }

    /// The cost of all models by the strategy at this place; `None` if a price is unknown.
    pub fn total_cost(&self, strategy: usize) -> Option<Bounds<Usd>> {
        self.models.iter().map(|model| model.costs[strategy]).sum()
    }
}

/// The strategies without those that no model has a price for: not every model has a flex tier. The standard price is
/// missed, except for a model on this machine.
fn drop_unpriced(
    provider: &str,
    strategies: Vec<Strategy>,
    models: &mut [ModelEstimate],
) -> Vec<Strategy> {
    let is_shown: Vec<bool> = strategies
        .iter()
        .enumerate()
        .map(|(at, strategy)| {
            let is_priced = models.iter().any(|model| model.costs[at].is_some());
            is_priced || (*strategy == Strategy::Sync && provider != "local")
        })
        .collect();
    for model in models {
        let mut shown = is_shown.iter();
        model.costs.retain(|_| shown.next() == Some(&true));
    }
    let mut shown = is_shown.into_iter();
    let mut strategies = strategies;
    strategies.retain(|_| shown.next() == Some(true));
    strategies
}

/// The strategies that the provider has for such a task.
fn strategies(args: &RunArgs, provider: &str) -> Vec<Strategy> {
    let mut all = vec![Strategy::Sync];
    if args.prompt.task == TaskArg::Complete {
        let others = [Strategy::Flex, Strategy::Batch].into_iter();
        all.extend(others.filter(|strategy| {
            let effective = EffectiveStrategy::new(*strategy, provider);
            effective.strategy == *strategy
        }));
    }
    all
}

impl Sources<'_> {
    /// Embeddings share calls.
    fn packed(&self, work: Workload) -> Result<Workload, Refusal> {
        let Some(manager) = self
            .manager
            .filter(|_| self.args.prompt.task == TaskArg::Embed)
        else {
            return Ok(work);
        };
        let client = manager.client().map_err(could_not_run)?;
        Ok(work.requests_per_call(client.pack_limits().inputs.into()))
    }

    fn priced(&self, model: String, estimate: Estimate) -> Result<ModelEstimate, Refusal> {
        let prices = self.prices.of_model(&self.provider, &model);
        let now = SystemTime::now().into();
        let costs = self.strategies.iter().map(|strategy| {
            let tier = match strategy {
                Strategy::Sync => self.args.prompt.service_tier.as_deref().unwrap_or_default(),
                Strategy::Flex => "flex",
                Strategy::Batch => "batch",
            };
            let by_price = prices.as_ref();
            let by_price = by_price.and_then(|prices| estimate.cost(prices, tier, now));
            let reported = estimate
                .reported_cost
                .filter(|_| *strategy == Strategy::Sync);
            by_price.or(reported)
        });
        let limits = self.manager.map_or_else(
            || Ok(CallLimits::default()),
            |manager| manager.plan().call_limits(Some(&model)),
        );
        Ok(ModelEstimate {
            costs: costs.collect(),
            limits: limits.map_err(could_not_run)?,
            bills_searches: prices.is_some_and(|prices| prices.bills_searches()),
            model,
            estimate,
        })
    }
}
