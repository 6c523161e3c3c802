//! What a dry run reports of the cost.

use std::time::SystemTime;

use batchwright::plan::{EffectiveStrategy, EstimatedCost};
use batchwright::{Estimate, FileRun, LlmManager, Prices, Settings, Strategy};
use serde_json::{Value, json};

use crate::args::run::RunArgs;
use crate::args::shared::TaskArg;
use crate::exit::{About, Refusal};
use crate::format::number_of;
use crate::settings::refused;

/// What a run would use of the models of its first provider.
pub struct RunEstimate(Vec<ModelEstimate>);

struct ModelEstimate {
    /// `PROVIDER/MODEL`; `None` if one of them is unknown.
    name: Option<String>,
    estimate: Estimate,
    /// By each strategy that the provider has; `None` if the price is unknown. Empty if it bills nothing.
    costs: Vec<(Strategy, Option<EstimatedCost>)>,
}

impl RunEstimate {
    /// The estimate of what this run would send.
    pub fn of(
        args: &RunArgs,
        settings: &Settings,
        manager: Option<&LlmManager>,
        run: &FileRun<'_>,
    ) -> Result<Self, Refusal> {
        let first = manager.map(|manager| &manager.plan().first);
        let (provider, default) = match first {
            Some(first) => (Some(first.provider.to_owned()), first.model.clone()),
            None => (
                settings.provider().map_err(refused)?,
                settings.model().map_err(refused)?,
            ),
        };
        let prices = settings.model_prices().map_err(refused)?;
        let estimates = run.estimates();
        let estimates = estimates.map_err(|error| refused(error).about(About::Input))?;
        let models = estimates.into_iter().map(|(named, estimate)| {
            let model = named.or_else(|| default.clone());
            let named = provider.as_deref().zip(model.as_deref());
            ModelEstimate {
                costs: named.map_or_else(Vec::new, |named| costs(args, &prices, named, &estimate)),
                name: named.map(|(provider, model)| format!("{provider}/{model}")),
                estimate,
            }
        });
        Ok(Self(models.collect()))
    }

    /// The number of input tokens.
    pub fn input_tokens(&self) -> u64 {
        self.0.iter().map(|model| model.estimate.input_tokens).sum()
    }

    /// The lines about the cost, for people.
    pub fn lines(&self) -> Vec<String> {
        let of_model = |model: &ModelEstimate| {
            let name = model.name.as_deref().unwrap_or_default();
            let requests = number_of(model.estimate.requests, "request", "requests");
            let costs = model.costs.iter();
            let costs = costs.map(|(strategy, cost)| match cost {
                None => {
                    format!("  {name}, {strategy}: the price is unknown: name it with --prices")
                }
                Some(EstimatedCost { input, most, .. }) => {
                    let most = most.map_or_else(
                        || "the length of answers is unknown: --max-tokens limits it".to_owned(),
                        |most| format!("at most {most}"),
                    );
                    format!("  {name}, {strategy}: {input} for the input of {requests}; {most}")
                }
            });
            costs.collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of_model).collect()
    }

    /// The same for scripts: a list of models.
    pub fn json(&self) -> Value {
        let of_model = |model: &ModelEstimate| {
            let costs = model.costs.iter();
            let costs = costs.map(|(strategy, cost)| (strategy.to_string(), json!(cost)));
            json!({
                "model": model.name,
                "requests": model.estimate.requests,
                "input_tokens": model.estimate.input_tokens,
                "max_output_tokens": model.estimate.max_output_tokens,
                "cost_usd": costs.collect::<serde_json::Map<_, _>>(),
            })
        };
        self.0.iter().map(of_model).collect()
    }
}

/// The cost by each strategy that the provider has for such a task.
fn costs(
    args: &RunArgs,
    prices: &Prices,
    (provider, model): (&str, &str),
    estimate: &Estimate,
) -> Vec<(Strategy, Option<EstimatedCost>)> {
    if provider == "extract" || provider == "local" {
        return Vec::new();
    }
    let has_batches = args.prompt.task == TaskArg::Complete
        && EffectiveStrategy::new(Strategy::Batch, provider).strategy == Strategy::Batch;
    let strategies = [Strategy::Sync, Strategy::Batch].into_iter();
    let strategies = strategies.filter(|strategy| *strategy == Strategy::Sync || has_batches);
    let prices = prices.of_model(provider, model);
    let now = SystemTime::now().into();
    let priced = strategies.map(|strategy| {
        let tier = match strategy {
            Strategy::Sync => args.prompt.service_tier.as_deref().unwrap_or_default(),
            Strategy::Batch => "batch",
        };
        let cost = prices.as_ref();
        let cost = cost.and_then(|prices| estimate.cost(prices, tier, now));
        (strategy, cost)
    });
    priced.collect()
}
