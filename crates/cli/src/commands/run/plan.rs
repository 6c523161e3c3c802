//! What a run will do: the lines at its start, and the result of a dry run with what it would cost.

use std::time::SystemTime;

use batchwright::client::RequestTask;
use batchwright::files::RunPlan;
use batchwright::plan::{Concurrency, EffectiveStrategy, EstimatedCost};
use batchwright::{Budget, Estimate, FileRun, LlmManager, Prices, Request, Settings, Strategy};
use serde_json::{Value, json};

use crate::args::run::{Resend, RunArgs};
use crate::display;
use crate::exit::{About, Exit, Refusal};
use crate::format::{count, counts, number_of};
use crate::provider::in_flight;
use crate::sanitize::{one_line, shortened};
use crate::settings::refused;
use crate::stderr::is_json;
use crate::stdout;

/// The options of the calls of a run.
pub struct Setup {
    pub concurrency: Concurrency,
    /// The provider of each step.
    pub steps: Vec<&'static str>,
    pub strategy: EffectiveStrategy,
    /// Rows of the input that make no prompt, each of them a failure.
    pub bad_rows: u64,
    /// Rows whose results lack columns.
    pub rows_cut: u64,
    pub budget: Option<Budget>,
}

/// The plan, and what happens to earlier answers.
pub fn lines(args: &RunArgs, plan: &RunPlan) -> Vec<String> {
    let mut lines = vec![plan_line(plan)];
    if let Some(output) = args.output.as_ref().filter(|_| plan.differing > 0) {
        let answers = match plan.total.saturating_sub(plan.without_id) {
            0 => "their earlier answers stay in the output".to_owned(),
            _ => format!(
                "their earlier answers move to {}.superseded.jsonl when the run ends",
                output.display()
            ),
        };
        let of = number_of(plan.total, "request|requests");
        let of = format!("of {of} differs|differ from those answered before");
        lines.push(format!("{}; {answers}", number_of(plan.differing, &of)));
    }
    let unusable = plan.unusable_before + plan.unusable_equal;
    if unusable > 0 {
        let what = if args.resend == Resend::All {
            "they are sent, and paid for, again"
        } else {
            "--resend all sends them again"
        };
        let items = "item|items has|have replies that were paid for and cannot be read";
        lines.push(format!("{}; {what}", number_of(unusable, items)));
    }
    lines
}

fn plan_line(plan: &RunPlan) -> String {
    let mut parts = counts([
        (plan.done, "finished before"),
        (plan.failed_before, "failed before"),
        (plan.unusable_before, "with unusable replies"),
        (plan.changed, "changed"),
        (plan.bad_rows, "bad row|rows that is|are not sent"),
        (plan.under_way, "under way"),
        (plan.to_collect, "done, to be collected"),
        (plan.to_send, "to send"),
        (
            plan.repeated,
            "of them equal to others (--dedupe sends those once)",
        ),
        (plan.equal, "answered with equal ones"),
        (plan.answered, "answered by earlier results of equal ones"),
        (
            plan.unusable_equal,
            "equal to ones with unusable replies, not sent",
        ),
    ]);
    if plan.to_send == 0 {
        parts.push("nothing to send".to_owned());
    }
    let items = number_of(plan.total, "item|items");
    let mut line = format!("{items}: {}", parts.join(", "));
    if plan.without_id > 0 && plan.done + plan.failed_before + plan.foreign == 0 {
        let rows = number_of(plan.without_id, "row|rows has|have no id; each gets one");
        line.push_str(&format!(
            "; {rows} made from its request. To match results with rows, add a column id or --column id=NAME"
        ));
    }
    if plan.rows_cut > 0 && plan.to_send > 0 {
        let rows = number_of(
            plan.rows_cut,
            "row|rows over 4 KiB keeps|keep only short columns",
        );
        line.push_str(&format!("; {rows}: --keep all keeps all"));
    }
    let earlier = counts([
        (
            plan.foreign,
            "result|results of other items stays|stay in the output",
        ),
        (plan.restored, "answer|answers is|are taken back"),
    ]);
    for text in earlier {
        line.push_str(&format!("; {text}"));
    }
    line
}

/// What a run would use of a model of its first provider.
struct ModelEstimate {
    /// `PROVIDER/MODEL`; `None` if one of them is unknown.
    name: Option<String>,
    estimate: Estimate,
    /// By each strategy that the provider has; `None` if the price is unknown. Empty if it bills nothing.
    costs: Vec<(Strategy, Option<EstimatedCost>)>,
}

/// Shows what this run would send.
pub fn dry_run(
    args: &RunArgs,
    settings: &Settings,
    manager: Option<&LlmManager>,
    run: &FileRun<'_>,
    setup: &Setup,
) -> Result<Exit, Refusal> {
    let models = estimates(args, settings, manager, run)?;
    let tokens: u64 = models.iter().map(|model| model.estimate.input_tokens).sum();
    let plan = run.plan();
    // Many embeddings share a call, so no call may be saved.
    let saved = match args.prompt.task {
        RequestTask::Embed => 0,
        _ => plan.equal + plan.answered + plan.unusable_equal,
    };
    let exit = if is_json() {
        let mut value = json!(plan);
        value["concurrency"] = setup.concurrency.start().into();
        value["max_concurrency"] = setup.concurrency.most().into();
        value["strategy"] = setup.strategy.strategy.as_str().into();
        value["fallback_reason"] = json!(setup.strategy.fallback_reason);
        value["calls_saved"] = saved.into();
        value["estimated_input_tokens"] = tokens.into();
        value["models"] = models.iter().map(ModelEstimate::json).collect();
        stdout::json(&value, Exit::Success)
    } else {
        Exit::Success
    };
    let (to_send, tokens) = (number_of(plan.to_send, "item|items"), count(tokens));
    let how = match setup.strategy.strategy {
        Strategy::Sync => in_flight(setup.concurrency),
        Strategy::Batch => "in batches".to_owned(),
    };
    let mut line = format!("dry run: would send {to_send}, about {tokens} input tokens, {how}");
    if saved > 0 {
        let calls = number_of(saved, "call|calls");
        line.push_str(&format!("; equal prompts save {calls}"));
    }
    display::note(format!("{line}; nothing was sent"));
    models
        .iter()
        .flat_map(ModelEstimate::lines)
        .for_each(display::note);
    let first = run.first_request();
    let first = first.map_err(|error| refused(error).about(About::Input))?;
    let first = first.iter().flat_map(first_lines);
    first.for_each(display::note);
    Ok(exit)
}

/// The first prompt as it will be sent, cut to a screen.
fn first_lines(request: &Request) -> Vec<String> {
    const LINES: usize = 16;
    const WIDTH: usize = 110;
    let texts = match &request.native {
        Some(native) => vec![("body", format!("{:#}", json!(native.body())))],
        None => {
            let system = request.system.iter().map(|text| ("system", text.clone()));
            let messages = request.messages.iter().map(|message| {
                let content = match &message.content {
                    Value::String(text) => text.clone(),
                    parts => parts.to_string(),
                };
                (message.role.as_str(), content)
            });
            system.chain(messages).collect()
        }
    };
    let lines = texts.iter().flat_map(|(role, text)| {
        let lines = text.lines().enumerate();
        lines.map(move |(i, line)| match i {
            0 => format!("  {role}: {}", shortened(line, WIDTH)),
            _ => format!("    {}", shortened(line, WIDTH)),
        })
    });
    let mut lines: Vec<String> = lines.collect();
    let more = lines.len().saturating_sub(LINES);
    lines.truncate(LINES);
    let id = one_line(request.id.as_deref().unwrap_or_default());
    lines.insert(0, format!("the first prompt, {id}:"));
    if more > 0 {
        lines.push(format!(
            "  and {}",
            number_of(more as u64, "more line|more lines")
        ));
    }
    lines
}

fn estimates(
    args: &RunArgs,
    settings: &Settings,
    manager: Option<&LlmManager>,
    run: &FileRun<'_>,
) -> Result<Vec<ModelEstimate>, Refusal> {
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
    Ok(models.collect())
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
    let has_batches = args.prompt.task == RequestTask::Complete
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

impl ModelEstimate {
    /// The cost by each strategy, for people.
    fn lines(&self) -> Vec<String> {
        let name = self.name.as_deref().unwrap_or_default();
        let requests = number_of(self.estimate.requests, "request|requests");
        let costs = self.costs.iter();
        let lines = costs.map(|(strategy, cost)| match cost {
            None => format!("  {name}, {strategy}: the price is unknown: name it with --prices"),
            Some(EstimatedCost { input, most, .. }) => {
                let most = most.map_or_else(
                    || "the length of answers is unknown: --max-tokens limits it".to_owned(),
                    |most| format!("at most {most}"),
                );
                format!("  {name}, {strategy}: {input} for the input of {requests}; {most}")
            }
        });
        lines.collect()
    }

    fn json(&self) -> Value {
        let costs = self.costs.iter();
        let costs = costs.map(|(strategy, cost)| (strategy.to_string(), json!(cost)));
        json!({
            "model": self.name,
            "requests": self.estimate.requests,
            "input_tokens": self.estimate.input_tokens,
            "max_output_tokens": self.estimate.max_output_tokens,
            "cost_usd": costs.collect::<serde_json::Map<_, _>>(),
        })
    }
}
