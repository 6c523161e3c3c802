//! The lines of a run about itself at its end: its summary.

use batchwright::files::RunReport;
use batchwright::plan::{Concurrency, EffectiveStrategy};
use batchwright::{Budget, ErrorKind, StopReason, Summary};

use crate::args::run::{Resend, RunArgs};
use crate::budget;
use crate::command_line::{command_line, command_line_with_budget};
use crate::display;
use crate::exit::Exit;
use crate::format::{count, counts, number_of, span};
use crate::sanitize::shortened;
use crate::stdout;

/// Causes of failures that have a line each.
const MOST_CAUSES: usize = 10;

/// The options of the calls of a run.
pub struct Setup {
    pub concurrency: Concurrency,
    /// The provider of each step.
    pub steps: Vec<&'static str>,
    pub strategy: EffectiveStrategy,
    /// Rows of the input that make no prompt, each of them a failure.
    pub bad_rows: u64,
    pub budget: Option<Budget>,
}

/// Facts about a run through the queue.
pub struct QueueFacts {
    /// What became of the items that went through it.
    pub batches: String,
    /// What remains, and how to continue.
    pub remaining: Vec<String>,
    pub json: Vec<(&'static str, serde_json::Value)>,
    /// The queue still has something of this run.
    pub has_remaining: bool,
    /// Items in batches that have not ended.
    pub in_batches: u64,
    /// Whether a batch on hold needs a decision.
    pub has_held: bool,
}

/// The summary for people.
pub fn print(args: &RunArgs, report: &RunReport, setup: &Setup, queue: Option<&QueueFacts>) {
    let summary = &report.summary;
    if let Some(stop) = &report.stop {
        display::note(stop_line(stop));
    }
    let mut lines = vec![format!(
        "{} items: {} completed{}, {} failed, {} pending",
        count(summary.total),
        count(summary.completed),
        match summary.completed_before {
            0 => String::new(),
            n => format!(" ({} before)", count(n)),
        },
        count(summary.failed),
        count(summary.pending),
    )];
    if let Some(reason) = &setup.strategy.fallback_reason {
        lines.push(row("strategy", reason));
    }
    if let Some(queue) = queue {
        lines.push(row("strategy", setup.strategy.strategy.as_str()));
        lines.push(row("batches", &queue.batches));
    }
    lines.extend(calls(summary));
    if summary.calls > 0 || summary.completed > summary.completed_before {
        lines.extend(usage(summary));
    }
    if let Some(budget) = &setup.budget {
        let has_batches = queue.is_some_and(|queue| queue.in_batches > 0);
        lines.push(row("budget", &budget::line(budget, has_batches)));
    }
    lines.extend(failures(summary));
    if summary
        .answered_by
        .keys()
        .any(|name| setup.steps.first() != Some(&name.as_str()))
    {
        let by = summary.answered_by.iter();
        let by: Vec<String> = by
            .map(|(name, n)| format!("{name} {}", count(*n)))
            .collect();
        lines.push(row("answers by", &by.join(", ")));
    }
    if let Some(path) = &args.output {
        lines.push(row("results", &path.display().to_string()));
    }
    lines.extend(how_to_go_on(args, report, setup, queue));
    display::note(lines.join("\n"));
}

fn row(name: &str, text: &str) -> String {
    format!("  {name:<10} {text}")
}

/// Calls, and items that equal ones have answered.
fn calls(summary: &Summary) -> Vec<String> {
    let notes = counts([
        (summary.retries, "retries"),
        (summary.moved_on, "failed over"),
        (summary.divided, "to single out refused texts"),
        (summary.extracted, "to extract"),
        (summary.rate_limited, "rate limited"),
        (summary.possibly_paid_twice, "possibly paid twice"),
        (summary.cut_off, "cut off in flight"),
    ]);
    let notes = match notes.as_slice() {
        [] => String::new(),
        notes => format!(" ({})", notes.join(", ")),
    };
    let mut lines = Vec::new();
    if summary.calls > 0 {
        lines.push(row("calls", &(count(summary.calls) + &notes)));
    }
    let saved = summary.calls_saved;
    let equal = summary.answered_by_equals;
    let ends = counts([
        (equal, "answered by equal prompts"),
        (saved.saturating_sub(equal), "failed with equal prompts"),
    ]);
    if !ends.is_empty() {
        let saved = match saved {
            0 => String::new(),
            n => format!(" ({} saved)", number_of(n, "call", "calls")),
        };
        lines.push(row("equal", &(ends.join(", ") + &saved)));
    }
    lines
}

/// Tokens, cost, latency and rate.
fn usage(summary: &Summary) -> Vec<String> {
    let usage = &summary.usage;
    let cached = match usage.cached_input_tokens {
        0 => String::new(),
        n => format!(" ({} cached)", count(n)),
    };
    let tokens = match (usage.input_tokens, usage.output_tokens) {
        // No call uses zero tokens: the provider did not report them.
        (0, 0) if summary.completed > 0 => "unknown".to_owned(),
        (read, written) => format!("{} in{cached}, {} out", count(read), count(written)),
    };
    let cost = match (summary.cost_usd, summary.unpriced) {
        (Some(usd), 0) => usd.to_string(),
        (Some(usd), unknown) => {
            let items = number_of(unknown, "item", "items");
            format!("{usd}, and {items} without a known price")
        }
        (None, _) => "unknown".to_owned(),
    };
    let mut lines = vec![row("tokens", &tokens), row("cost", &cost)];
    if let (Some(p50), Some(p95)) = (summary.latency_p50, summary.latency_p95) {
        let text = format!("p50 {}, p95 {}", span(p50), span(p95));
        lines.push(row("latency", &text));
    }
    if summary.vectors > 0 {
        lines.push(row("vectors", &vectors(summary)));
    }
    if summary.completed > summary.completed_before {
        let at_once = match (summary.latency_p50, summary.most_in_flight) {
            (Some(_), most) => format!(
                ", up to {}",
                number_of(most as u64, "call", "calls") + " at once"
            ),
            // Batches.
            (None, _) => String::new(),
        };
        let (rate, busy) = (summary.rate, span(summary.busy));
        lines.push(row(
            "rate",
            &format!("{rate:.1} items/s over {busy}{at_once}"),
        ));
    }
    let answers = counts([
        (summary.truncated, "were cut at the token limit"),
        (summary.warnings, "have a warning"),
    ]);
    if !answers.is_empty() {
        lines.push(row("answers", &answers.join(", ")));
    }
    lines
}

fn vectors(summary: &Summary) -> String {
    let (shortest, longest) = (summary.min_dimensions, summary.dimensions);
    let vectors = count(summary.vectors);
    if shortest < longest {
        return format!(
            "{vectors} of {shortest} to {longest} numbers: they differ in length, so they cannot be compared"
        );
    }
    format!("{vectors} of {longest} numbers")
}

/// Each cause of failures with its number of items.
fn failures(summary: &Summary) -> Vec<String> {
    let causes = summary.causes.iter();
    let shown = causes.clone().take(MOST_CAUSES).map(|cause| {
        let message = shortened(&cause.message, 160);
        format!("{} {}: {message}", count(cause.items), cause.kind)
    });
    let mut lines: Vec<String> = shown.collect();
    let now: u64 = causes.clone().map(|cause| cause.items).sum();
    let others: u64 = causes.skip(MOST_CAUSES).map(|cause| cause.items).sum();
    lines.extend(counts([
        (others, "for other causes (all in \"error\" of the results)"),
        (
            summary.failed.saturating_sub(now),
            "in earlier runs, not sent again",
        ),
    ]));
    if summary.unusable_replies > 0 {
        lines.push(format!(
            "{} replies were paid for and cannot be read; only --resend all sends their items again",
            count(summary.unusable_replies)
        ));
    }
    lines.iter().map(|text| row("failures", text)).collect()
}

/// What to do about the rest.
fn how_to_go_on(
    args: &RunArgs,
    report: &RunReport,
    setup: &Setup,
    queue: Option<&QueueFacts>,
) -> Vec<String> {
    let (summary, stop) = (&report.summary, report.stop.as_ref());
    let once = stdout::is_named(args.output.as_deref());
    let resumable = !once && !args.input.is_stream();
    let mut lines = Vec::new();
    match (&setup.budget, stop) {
        (Some(budget), Some(StopReason::BudgetExceeded(_))) => {
            let in_batches = queue.map_or(0, |queue| queue.in_batches);
            let waiting = summary.pending.saturating_sub(in_batches);
            if let Some((cost, enough)) =
                budget::remaining(budget, summary, setup.bad_rows, waiting)
            {
                let items = number_of(waiting, "remaining item", "remaining items");
                let is_known = cost.is_some();
                lines.extend(cost.map(|cost| format!("the {items} would cost about {cost}")));
                let command = command_line_with_budget(&enough);
                let next = if is_known {
                    "to go on"
                } else {
                    "to go on, with a budget for the next call"
                };
                lines.extend(resumable.then(|| {
                    format!(
                        "{next}:
    {command}"
                    )
                }));
            }
        }
        _ if resumable => lines.extend(resume_line(args, summary, setup)),
        _ => {}
    }
    lines.extend(queue.iter().flat_map(|queue| queue.remaining.clone()));
    match stop.filter(|_| queue.is_none()) {
        // Who closes the pipe wants no more results.
        None | Some(StopReason::SinkClosed) => {}
        Some(_) if once => lines.push(
            "this run cannot be resumed: the same command sends all items again. With -o FILE, a run can be resumed"
                .to_owned(),
        ),
        Some(_) if args.input.is_stream() => lines.push(
            "standard input was not read to its end: pipe it again to go on".to_owned(),
        ),
        Some(_) => {}
    }
    lines.iter().map(|line| format!("  {line}")).collect()
}

/// The command that sends pending or failed items again, if they can be sent again.
fn resume_line(args: &RunArgs, summary: &Summary, setup: &Setup) -> Option<String> {
    let again = summary.failed > summary.unusable_replies && args.resend != Resend::None;
    let errors = &summary.errors;
    let why = match summary.pending {
        0 if !again => return None,
        0 if summary.failed <= setup.bad_rows => {
            "once the rows that fail are corrected, to send them"
        }
        0 if errors.contains_key(ErrorKind::UnknownModel.as_str()) => {
            "to try the failed ones again, with another --model than the unknown one"
        }
        0 => "to try the failed ones again",
        _ => "to go on",
    };
    Some(format!("{why}:\n    {}", command_line()))
}

pub const INTERRUPTED: &str = "interrupted; what finished is saved";

fn stop_line(stop: &StopReason) -> String {
    match stop {
        StopReason::Cancelled => INTERRUPTED.to_owned(),
        StopReason::SinkClosed => "the reader of the results went away".to_owned(),
        other => format!("stopped: {other}"),
    }
}

/// Prints the summary for programs. Returns `exit`, or an error where it could not be printed.
pub fn print_json(
    args: &RunArgs,
    report: &RunReport,
    setup: &Setup,
    exit: Exit,
    queue: Option<&QueueFacts>,
) -> Exit {
    let mut value = serde_json::json!({
        "summary": report.summary,
        "stopped": report.stop.as_ref().map(ToString::to_string),
        "output": args.output.as_ref().map(|path| path.to_string_lossy()),
        "exit_code": exit.code(),
        "budget": setup.budget.as_ref().map(budget::json),
        "strategy": setup.strategy.strategy.as_str(),
        "fallback_reason": setup.strategy.fallback_reason,
    });
    for (name, fact) in queue.iter().flat_map(|queue| &queue.json) {
        value[name] = fact.clone();
    }
    stdout::json(&value, exit)
}
