//! The estimate of a run, for people and for scripts.

use std::time::Duration;

use batchwright::plan::{BindingLimit, Bounds, EstimateBasis};
use serde_json::{Value, json};

use super::estimate::{ModelEstimate, RunEstimate};
use crate::args::run::RunArgs;
use crate::command_line::quoted;
use crate::exit::Exit;
use crate::format::{count, number_of, span};
use crate::stdout;
use crate::table::{Table, width};

/// Prints the estimate: to standard output as the result of `estimate`, otherwise with the other messages.
pub fn print(args: &RunArgs, estimate: &RunEstimate, exit: Exit) -> Exit {
    let text = text(estimate);
    if args.estimates && args.shown_requests.is_none() {
        return stdout::print(&text, exit);
    }
    text.lines().for_each(|line| args.show.say.say(line));
    exit
}

fn text(estimate: &RunEstimate) -> String {
    let mut table = Table::default();
    table.row(["", "at least", "at most"], "from");
    let several = estimate.models.len() != 1;
    for model in &estimate.models {
        if several {
            let requests = number_of(model.estimate.requests, "request", "requests");
            table.row([&model.model, &requests, ""], "");
        }
        tokens(&mut table, model);
        let costs = model.costs.iter().copied();
        costs_of(&mut table, estimate, costs, &model.model);
    }
    if several {
        table.row(["all models", "", ""], "");
        let costs = (0..estimate.strategies.len()).map(|at| estimate.total_cost(at));
        costs_of(&mut table, estimate, costs, "all models");
    }
    duration(&mut table, estimate);
    for line in missing(estimate) {
        table.below(&line);
    }
    if !estimate.fallbacks.is_empty() {
        table.below(&format!(
            "items that fail over to {} cost what that provider charges, which is not included",
            estimate.fallbacks.join(" or ")
        ));
    }
    table.lines(width())
}

fn tokens(table: &mut Table, model: &ModelEstimate) {
    let estimate = &model.estimate;
    for (what, tokens, from) in [
        ("input tokens", estimate.input_tokens, estimate.input_from),
        (
            "output tokens",
            estimate.output_tokens,
            estimate.output_from,
        ),
    ] {
        let high = tokens.high.map_or_else(open, count);
        table.row([what, &count(tokens.low), &high], basis(from));
    }
}

fn costs_of(
    table: &mut Table,
    estimate: &RunEstimate,
    costs: impl Iterator<Item = Option<Bounds<batchwright::Usd>>>,
    of: &str,
) {
    for (strategy, cost) in estimate.strategies.iter().zip(costs) {
        let what = format!("cost, {strategy}");
        match cost {
            Some(cost) => {
                let high = cost.high.map_or_else(open, |high| high.to_string());
                table.row([&what, &cost.low.to_string(), &high], "");
            }
            None => table.row(
                [&what, "unknown", "unknown"],
                &format!("no price of {of} for {strategy}"),
            ),
        }
    }
}

fn open() -> String {
    "open".to_owned()
}

fn basis(from: EstimateBasis) -> &'static str {
    match from {
        EstimateBasis::RequestSize => "the size of the requests",
        EstimateBasis::Tokenizer => "the tokenizer of the model",
        EstimateBasis::MaxTokens => "the maximum length of answers",
        EstimateBasis::EarlierReplies => "earlier replies of the model",
        EstimateBasis::SameInput => "replies to this input",
        _ => "unknown",
    }
}

fn duration(table: &mut Table, estimate: &RunEstimate) {
    let Some(duration) = &estimate.duration else {
        return table.row(
            ["duration", "", "1d 00h"],
            "the provider's time limit for batches",
        );
    };
    let high = duration.range.high.map_or_else(open, span);
    let low = match (duration.range.low, duration.limited_by) {
        (Duration::ZERO, None) => "unknown".to_owned(),
        (low, _) => span(low),
    };
    let note = match limit(estimate) {
        Some(limit) => format!("limited by {limit}"),
        None => "no known limit".to_owned(),
    };
    table.row(["duration", &low, &high], &note);
}

/// The limit that determines the duration.
fn limit(estimate: &RunEstimate) -> Option<String> {
    // Of several models, the lowest limit is shown; the JSON has the limits of each.
    let lowest = |limits: &mut dyn Iterator<Item = Option<f64>>| {
        let limit = limits.flatten().reduce(f64::min);
        limit.map_or_else(String::new, |limit| {
            format!(" ({})", count(limit.round() as u64))
        })
    };
    let limits = || estimate.models.iter().map(|model| model.limits);
    Some(match estimate.duration.as_ref()?.limited_by? {
        BindingLimit::RequestsPerMinute => format!(
            "requests per minute{}",
            lowest(&mut limits().map(|limits| limits.requests_per_minute))
        ),
        BindingLimit::TokensPerMinute => format!(
            "tokens per minute{}",
            lowest(&mut limits().map(|limits| limits.tokens_per_minute))
        ),
        BindingLimit::Concurrency => {
            let most = estimate.most_in_flight;
            let most = most.map_or_else(String::new, |most| format!(" (up to {most})"));
            format!("the calls in flight{most}")
        }
        other => format!("{other:?}"),
    })
}

/// What would close open ends.
fn missing(estimate: &RunEstimate) -> Vec<String> {
    let mut lines = Vec::new();
    let models = || {
        estimate
            .models
            .iter()
            .filter(|model| model.estimate.requests > 0)
    };
    for model in models().filter(|model| model.costs.first() == Some(&None)) {
        lines.push(format!(
            "the price of {}/{} is unknown: batchwright prices set {} --input USD --output USD",
            estimate.provider,
            model.model,
            quoted(&model.model),
        ));
    }
    for model in models().filter(|model| model.bills_searches) {
        lines.push(format!(
            "{} bills each search apart, and their number is unknown: the cost is a lower limit",
            model.model
        ));
    }
    if models().any(|model| model.estimate.output_tokens.high.is_none()) {
        let why = "the length of answers is unknown: --max-tokens limits it, --sample 50 (billed) measures it";
        lines.push(why.to_owned());
    }
    if models().any(|model| model.estimate.call_seconds.is_none()) {
        let why = "the duration of a call is unknown: --sample 50 (billed) measures it";
        lines.push(why.to_owned());
    }
    lines
}

/// The estimate as the field `estimate` of the JSON.
pub fn json(estimate: &RunEstimate) -> Value {
    let costs = |costs: &mut dyn Iterator<Item = Option<Bounds<batchwright::Usd>>>| -> Value {
        let named = estimate.strategies.iter().zip(costs);
        named
            .map(|(strategy, cost)| (strategy.to_string(), json!(cost)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let models: Vec<Value> = estimate
        .models
        .iter()
        .map(|model| {
            json!({
                "model": model.model,
                "requests": model.estimate.requests,
                "calls": model.estimate.calls,
                "input_tokens": model.estimate.input_tokens,
                "input_from": model.estimate.input_from,
                "output_tokens": model.estimate.output_tokens,
                "output_from": model.estimate.output_from,
                "call_seconds": model.estimate.call_seconds,
                "cost_usd": costs(&mut model.costs.iter().copied()),
                "limits": model.limits,
            })
        })
        .collect();
    let all = || estimate.models.iter().map(|model| &model.estimate);
    let seconds = |duration: &Bounds<Duration>| Bounds {
        low: duration.low.as_secs_f64(),
        high: duration.high.map(|high| high.as_secs_f64()),
    };
    let range = estimate
        .duration
        .as_ref()
        .map(|duration| seconds(&duration.range));
    let limited_by = estimate
        .duration
        .as_ref()
        .and_then(|duration| duration.limited_by);
    json!({
        "provider": estimate.provider,
        "fallbacks_not_included": estimate.fallbacks,
        "requests": all().map(|estimate| estimate.requests).sum::<u64>(),
        "input_tokens": all().map(|estimate| estimate.input_tokens).sum::<Bounds<u64>>(),
        "output_tokens": all().map(|estimate| estimate.output_tokens).sum::<Bounds<u64>>(),
        "cost_usd": costs(&mut (0..estimate.strategies.len()).map(|at| estimate.total_cost(at))),
        "duration_seconds": range,
        "limited_by": limited_by,
        "models": models,
        "missing": missing(estimate),
    })
}
