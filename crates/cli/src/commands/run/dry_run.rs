//! The result of a dry run.

use batchwright::Strategy;
use serde_json::Value;

use super::estimate::RunEstimate;
use super::prepare::Prepared;
use crate::args::run::RunArgs;
use crate::args::shared::TaskArg;
use crate::display;
use crate::exit::Exit;
use crate::format::{count, number_of};
use crate::provider::in_flight;
use crate::stdout;

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
fn json(args: &RunArgs, prepared: &Prepared, estimate: &RunEstimate) -> Value {
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
        "estimated_input_tokens": estimate.input_tokens(),
        "concurrency": setup.concurrency.start(),
        "max_concurrency": setup.concurrency.most(),
        "strategy": setup.strategy.strategy.as_str(),
        "fallback_reason": setup.strategy.fallback_reason,
        "models": estimate.json(),
    });
    if args.shown_requests.is_some() {
        value["requests"] = prepared.shown.as_slice().into();
    }
    value
}

/// Shows the result of a dry run.
pub fn dry_run(args: &RunArgs, prepared: &Prepared, estimate: &RunEstimate) -> Exit {
    let (plan, setup) = (&prepared.plan, &prepared.setup);
    let mut exit = Exit::Success;
    if args.json {
        exit = stdout::json(&json(args, prepared, estimate), exit);
    } else {
        for request in &prepared.shown {
            exit = stdout::json(request, exit);
        }
    }
    if args.show.say.quiet {
        return exit;
    }
    let to_send = count(plan.to_send);
    let tokens = count(estimate.input_tokens());
    let how = match setup.strategy.strategy {
        Strategy::Sync => in_flight(setup.concurrency),
        Strategy::Batch => "in batches".to_owned(),
    };
    let mut line =
        format!("dry run: would send {to_send} items, about {tokens} input tokens, {how}");
    let saved = saved_calls(args, prepared);
    if saved > 0 {
        let calls = number_of(saved, "call", "calls");
        line.push_str(&format!("; equal prompts save {calls}"));
    }
    display::say(&format!("{line}; nothing was sent"));
    let costs = estimate.lines();
    costs.iter().for_each(|line| display::say(line));
    exit
}
