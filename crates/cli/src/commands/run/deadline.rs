//! A run with a deadline: how it is announced, carried out and reported.

use std::time::SystemTime;

use batchwright::LlmManager;
use batchwright::files::{InTime, QueueRun, QueueRunReport};
use batchwright::plan::DeadlinePlan;
use serde_json::{Value, json};

use crate::args::deadline::{GivenDeadline, shown};
use crate::args::run::RunArgs;
use crate::display;
use crate::exit::{Refusal, could_not_run};
use crate::format::span;
use crate::session::Session;
use batchwright::unstable::Optional;

/// The deadline that applies: that of the run that this one continues, if it was given in the same words. A time of day
/// that is over is again the next one.
fn known<'p>(given: &GivenDeadline, known: Option<&'p DeadlinePlan>) -> Option<&'p DeadlinePlan> {
    same_words(given, known).filter(|plan| !(given.recurs && plan.deadline.is_missed()))
}

fn same_words<'p>(
    given: &GivenDeadline,
    known: Option<&'p DeadlinePlan>,
) -> Option<&'p DeadlinePlan> {
    known.filter(|plan| plan.given.as_ref() == Some(&given.words))
}

/// A line about the deadline, before the run.
pub fn line(given: &GivenDeadline, before: Option<&DeadlinePlan>) -> String {
    let same = known(given, before);
    let deadline = same.map_or(given.deadline, |plan| plan.deadline);
    let from = same.map_or("", |_| " of the run that this one continues");
    let time = shown(deadline);
    if deadline.is_missed() {
        return format!("strategy auto: the deadline{from} was missed: {time}");
    }
    let left = span(deadline.left());
    let over = same_words(given, before).filter(|_| same.is_none());
    let over = over.map_or_else(String::new, |plan| {
        let over = shown(plan.deadline);
        format!("; the deadline of the run that this one continues, {over}, was missed")
    });
    format!("strategy auto: the cheapest way to finish by {time} (in {left}){from}{over}")
}

/// How the run meets its deadline, if it has one.
pub fn in_time(
    args: &RunArgs,
    run: &QueueRun,
    manager: Option<&LlmManager>,
    session: &Session,
) -> Result<Option<InTime>, Refusal> {
    let (Some(given), Some(manager)) = (args.time.given(), manager) else {
        return Ok(None);
    };
    let is_continued = known(given, run.known_deadline()).is_some();
    if args.time.by.is_some() && given.deadline.is_missed() && !is_continued {
        let time = shown(given.deadline);
        return Err(Refusal::usage(format!(
            "{}: this time is over ({time}); nothing was sent",
            given.words
        )));
    }
    let flex = manager.flex_route().map_err(could_not_run)?;
    let display = session.display.clone();
    let quiet = args.show.say.quiet;
    let tell = move |line: &str| {
        if !quiet {
            display.clear();
            display::say(line);
        }
    };
    let in_time = InTime::new(given.deadline)
        .given(&given.words)
        .recurs(given.recurs)
        .prices(manager.way_prices())
        .on_change(tell)
        .set(flex, InTime::flex);
    Ok(Some(in_time))
}

/// Whether the deadline was met, for people.
pub fn outcome(ended: &QueueRunReport) -> Option<String> {
    let plan = ended.deadline.as_ref()?;
    let time = shown(plan.deadline);
    let left = span(plan.deadline.left());
    Some(if ended.deadline_missed {
        let late = SystemTime::now().duration_since(plan.deadline.time());
        let late = span(late.unwrap_or_default());
        format!("missed: {time}, {late} ago")
    } else if ended.report.summary.pending > 0 {
        format!("{time}, in {left}")
    } else {
        format!("met: {time}, with {left} to spare")
    })
}

/// The same as JSON, with all changes of the plan.
pub fn json(ended: &QueueRunReport) -> Value {
    match &ended.deadline {
        Some(plan) => json!({
            "by": plan.deadline,
            "given": plan.given,
            "missed": ended.deadline_missed,
            "changes": plan.changes,
        }),
        None => Value::Null,
    }
}
