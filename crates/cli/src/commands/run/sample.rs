//! The sample of an estimate: real calls for some items of the run, whose results are kept.

use batchwright::Strategy;

use super::prepare::PreparedRun;
use super::{confirm, execute, prepare, report, resolve};
use crate::args::run::RunArgs;
use crate::exit::{Early, Refusal, could_not_run};
use crate::format::{count, number_of};
use crate::session::Session;
use crate::settings::refused;

/// Sends as many items as are missing to this number of replies in the output.
///
/// # Errors
/// If they cannot be sent, or the run is stopped early.
pub fn send(args: &mut RunArgs, items: usize, session: &Session) -> Result<(), Early> {
    if args.input.is_stream() {
        let why = "--sample reads the input twice, so it needs a file: save standard input or the pipe as one";
        return Err(Refusal::usage(why).into());
    }
    // A batch takes up to a day.
    let strategy = args.strategy.clone();
    if resolve::settings(args)?.bulk_strategy().map_err(refused)? == Strategy::Batch {
        if args.dedupe {
            // What the run rejects is rejected before calls that are billed.
            resolve::resolve(args, resolve::settings(args)?, session)?;
        }
        args.strategy = Some("sync".to_owned());
    }
    let no_wait = std::mem::take(&mut args.no_wait);
    args.dry_run = false;
    let sent = send_missing(args, items, session);
    args.dry_run = true;
    args.no_wait = no_wait;
    args.strategy = strategy;
    sent
}

fn send_missing(args: &RunArgs, items: usize, session: &Session) -> Result<(), Early> {
    let settings = resolve::settings(args)?;
    let resolved = resolve::resolve(args, settings, session)?;
    if resolved.queue.is_some() {
        let why = "--sample cannot be used while items of this output are in a queue or in batches: finish that run first";
        return Err(Refusal::usage(why).into());
    }
    let mut prepared = prepare::prepare(args, resolved, session)?;
    let (PreparedRun::Direct(run), Some(manager)) = (&mut prepared.run, &prepared.manager) else {
        return Ok(());
    };
    let replies = run.replies(manager.plan().first.provider);
    let known: u64 = replies
        .map_err(could_not_run)?
        .values()
        .map(|replies| replies.calls())
        .sum();
    let missing = items.saturating_sub(usize::try_from(known).unwrap_or(usize::MAX));
    if missing == 0 {
        let known = number_of(known, "reply", "replies");
        session.say(format!(
            "sample: the output already has {known} to this input"
        ));
        return Ok(());
    }
    run.sample(missing);
    prepared.plan = run.plan().clone();
    let to_send = prepared.plan.to_send.unwrap_or(0);
    session.say(format!(
        "sample: sends {} of the input, spread evenly; these calls are billed, and their results are kept",
        number_of(to_send, "item", "items")
    ));
    confirm::confirm(args, &prepared.plan, session)?;
    let ended = execute::execute(args, prepared, session)?;
    let summary = &ended.report.summary;
    let free = summary.completed_before + summary.answered_by_equals;
    let answered = summary.completed.saturating_sub(free);
    let cost = summary.cost_usd;
    session.say(format!(
        "sample: {} of {} answered; {} input and {} output tokens{}",
        count(answered),
        count(to_send),
        count(summary.usage.input_tokens),
        count(summary.usage.output_tokens),
        cost.map_or_else(String::new, |cost| format!(", {cost}")),
    ));
    report::sample(args, &ended, session)
}
