//! The result of a dry run.

use batchwright::Strategy;
use serde_json::Value;

use super::estimate_report;
use super::prepare::Prepared;
use crate::args::run::RunArgs;
use crate::args::shared::TaskArg;
use crate::display;
use crate::exit::Exit;
use crate::format::{count, number_of};
use crate::provider::in_flight;
use crate::stdout;

/// Shows the result of a dry run.
pub fn dry_run(args: &RunArgs, prepared: &Prepared) -> Exit {
    let plan = &prepared.plan;
    // The input's tokens, multiplied by the part of the items that would be sent.
    let tokens = match (prepared.input_tokens, plan.total, plan.to_send) {
        (Some(tokens), Some(total), Some(n)) if total > 0 => {
            Some((u128::from(tokens) * u128::from(n) / u128::from(total)) as u64)
        }
        _ => None,
    };
    let exit = print(args, prepared, tokens);
    match &prepared.estimate {
        Some(estimate) if !args.json => estimate_report::print(args, estimate, exit),
        _ => exit,
    }
}

/// The calls that are saved by equal prompts.
fn saved_calls(args: &RunArgs, prepared: &Prepared) -> u64 {
    let plan = &prepared.plan;
    // Many embeddings share a call, so no call may be saved.
    match args.prompt.task {
        TaskArg::Embed => 0,
        TaskArg::Complete => plan.equal + plan.answered + plan.unusable_equal,
    }
}

/// The result of a dry run for scripts.
fn json(args: &RunArgs, prepared: &Prepared, tokens: Option<u64>) -> Value {
    let (plan, setup) = (&prepared.plan, &prepared.setup);
    let mut value = serde_json::json!({
        "total": plan.total,
        "finished_before": plan.done,
        "failed_before": plan.failed_before,
        "unusable_before": plan.unusable_before,
        "changed": plan.changed,
        "superseded": plan.superseded,
        "under_way_superseded": plan.under_way_superseded,
        "restored": plan.restored,
        "differing": plan.differing,
        "bad_rows": plan.bad_rows,
        "bad_row_causes": plan.bad_row_causes,
        "under_way": plan.under_way,
        "to_collect": plan.to_collect,
        "to_send": plan.to_send,
        "repeated": plan.repeated,
        "equal": plan.equal,
        "answered_by_earlier_results": plan.answered,
        "unusable_equal": plan.unusable_equal,
        "calls_saved": saved_calls(args, prepared),
        "estimated_input_tokens": tokens,
        "concurrency": setup.concurrency.start(),
        "max_concurrency": setup.concurrency.most(),
        "strategy": setup.strategy.strategy.as_str(),
        "fallback_reason": setup.strategy.fallback_reason,
        "estimate": prepared.estimate.as_ref().map(estimate_report::json),
    });
    if args.shown_requests.is_some() {
        value["requests"] = prepared.shown.as_slice().into();
    }
    value
}

/// Prints the result of a dry run, except its estimate for people.
fn print(args: &RunArgs, prepared: &Prepared, tokens: Option<u64>) -> Exit {
    let (plan, setup) = (&prepared.plan, &prepared.setup);
    let mut exit = Exit::Success;
    if args.json {
        exit = stdout::json(&json(args, prepared, tokens), exit);
    } else {
        for request in &prepared.shown {
            exit = stdout::json(request, exit);
        }
    }
    if args.show.say.quiet {
        return exit;
    }
    let to_send = plan.to_send.map_or_else(
        || "every line".to_owned(),
        |n| format!("{} items", count(n)),
    );
    // The estimate has a range of them.
    let tokens = tokens.filter(|_| prepared.estimate.is_none());
    let tokens = tokens.map_or_else(String::new, |n| {
        format!(", about {} input tokens", count(n))
    });
    let how = match setup.strategy.strategy {
        Strategy::Sync => in_flight(setup.concurrency),
        Strategy::Batch => "in batches".to_owned(),
    };
    let name = if args.estimates {
        "estimate"
    } else {
        "dry run"
    };
    let mut line = format!("{name}: would send {to_send}{tokens}, {how}");
    let saved = saved_calls(args, prepared);
    if saved > 0 {
        let calls = number_of(saved, "call", "calls");
        line.push_str(&format!("; equal prompts save {calls}"));
    }
    let nothing = match args.sample {
        Some(_) => "nothing but the sample was sent",
        None => "nothing was sent",
    };
    display::say(&format!("{line}; {nothing}"));
    exit
}
