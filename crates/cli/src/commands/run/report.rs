//! How a run went: the exit code, results that no file would take, and the summary.

use std::io::Write;

use batchwright::files::RunReport;
use batchwright::{StopReason, Summary};

use super::Ended;
use super::via_queue::QueueFacts;
use crate::args::run::{Resend, RunArgs};
use crate::budget;
use crate::command_line::{command_line, command_line_with_budget};
use crate::display;
use crate::exit::Exit;
use crate::format::{count, counts, number_of, span};
use crate::sanitize::shortened;
use crate::signals::{Session, Signals};
use crate::stderr::{is_json, is_quiet};
use crate::{stderr, stdout};

/// Causes of failures that have a line each.
const MOST_CAUSES: usize = 10;

const INTERRUPTED: &str = "interrupted; what finished is saved";

pub fn report(args: &RunArgs, ended: &Ended, session: &Session) -> Exit {
    let Ended { report, queue, .. } = ended;
    let mut exit = exit_of(args, report, queue.as_ref(), &session.signals);
    show_unsaved(report);
    if let Err(error) = &report.compaction {
        display::error(error.message());
    }
    if is_json() {
        exit = print_json(args, ended, exit);
    }
    if !is_quiet() {
        print(args, ended);
        return exit;
    }
    match &report.stop {
        // It was asked for, and batches go on at the provider.
        Some(StopReason::Cancelled) => {
            display::say(INTERRUPTED);
            let remaining = queue.iter().flat_map(|queue| &queue.remaining);
            remaining.for_each(|line| display::say(line));
        }
        Some(stop) => display::error(&format!("stopped: {stop}")),
        None => {}
    }
    exit
}

fn exit_of(
    args: &RunArgs,
    report: &RunReport,
    queue: Option<&QueueFacts>,
    signals: &Signals,
) -> Exit {
    let summary = &report.summary;
    match &report.stop {
        _ if has_unsaved(report) => Exit::CouldNotRun,
        Some(StopReason::Cancelled) => signals.exit().unwrap_or(Exit::StoppedEarly),
        Some(StopReason::Fatal(error)) if error.is_storage() => Exit::CouldNotRun,
        Some(_) => Exit::StoppedEarly,
        None if report.compaction.is_err() => Exit::CouldNotRun,
        // The rest waits in the queue, as `--no-wait` requests; but a batch on hold needs a decision.
        None if args.no_wait && queue.is_some_and(|queue| queue.has_remaining) => {
            if queue.is_some_and(|queue| queue.has_held) {
                Exit::StoppedEarly
            } else {
                Exit::Success
            }
        }
        None if summary.pending > 0 && args.max_items.is_none() => Exit::StoppedEarly,
        None if summary.failed > 0 => Exit::SomeFailed,
        None => Exit::Success,
    }
}

/// Whether there are results that could not be written. A reader that closed the pipe wants no more:
/// these are only counted.
fn has_unsaved(report: &RunReport) -> bool {
    !report.unsaved.is_empty() && !matches!(report.stop, Some(StopReason::SinkClosed))
}

/// Shows such results rather than to drop them.
fn show_unsaved(report: &RunReport) {
    let unsaved = report.unsaved.len() as u64;
    if has_unsaved(report) {
        let what = "result|results could not be saved; here it|they is:|are:";
        display::error(&number_of(unsaved, what));
        stderr::flush();
        for line in &report.unsaved {
            let _ = std::io::stderr().write_all(line);
            stdout::note_written();
        }
    } else if unsaved > 0 {
        let unread = number_of(unsaved, "finished result|results");
        display::say(&format!(
            "the reader closed the output before it took {unread}"
        ));
    }
}

/// The summary for people.
fn print(args: &RunArgs, ended: &Ended) {
    let (report, setup, queue) = (&ended.report, &ended.setup, &ended.queue);
    let summary = &report.summary;
    let before = match summary.completed_before {
        0 => String::new(),
        n => format!(" ({} before)", count(n)),
    };
    let mut lines = vec![format!(
        "{}: {} completed{before}, {} failed, {} pending",
        number_of(summary.total, "item|items"),
        count(summary.completed),
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
        let has_batches = queue.as_ref().is_some_and(|queue| queue.in_batches > 0);
        lines.push(row("budget", &budget::line(budget, has_batches)));
    }
    lines.extend(failures(summary));
    let answered_by = &summary.answered_by;
    let is_first = |name: &String| setup.steps.first().is_some_and(|first| first == name);
    if !answered_by.keys().all(is_first) {
        let by = answered_by.iter();
        let by = by.map(|(name, n)| format!("{name} {}", count(*n)));
        lines.push(row("answers by", &by.collect::<Vec<_>>().join(", ")));
    }
    if let Some(path) = &args.output {
        lines.push(row("results", &path.display().to_string()));
    }
    if setup.rows_cut > 0 {
        let rows = number_of(
            setup.rows_cut,
            "row|rows over 4 KiB keeps|keep only short columns",
        );
        lines.push(row(
            "columns",
            &format!("{rows}: --keep all keeps all of rows that are sent"),
        ));
    }
    lines.extend(
        how_to_go_on(args, ended)
            .iter()
            .map(|line| format!("  {line}")),
    );
    match &report.stop {
        None => {}
        Some(StopReason::Cancelled) => display::note(INTERRUPTED),
        Some(StopReason::SinkClosed) => display::note("the reader of the results went away"),
        Some(stop) => display::note(format!("stopped: {stop}")),
    }
    display::note(lines.join("\n"));
}

fn row(name: &str, text: &str) -> String {
    format!("  {name:<10} {text}")
}

/// Calls, and why there were more or fewer than items.
fn calls(summary: &Summary) -> Option<String> {
    let notes = counts([
        (summary.retries, "retry|retries"),
        (summary.moved_on, "failed over"),
        (summary.divided, "to single out refused texts"),
        (summary.extracted, "to extract"),
        (summary.rate_limited, "rate limited"),
        (summary.possibly_paid_twice, "possibly paid twice"),
        (summary.cut_off, "cut off in flight"),
        (summary.answered_by_equals, "saved by equal prompts"),
    ]);
    let notes = match notes.as_slice() {
        [] => String::new(),
        notes => format!(" ({})", notes.join(", ")),
    };
    let calls = count(summary.calls) + &notes;
    (summary.calls + summary.answered_by_equals > 0).then(|| row("calls", &calls))
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
            let items = number_of(unknown, "item|items");
            format!("{usd}, and {items} without a known price")
        }
        (None, _) => "unknown".to_owned(),
    };
    let mut lines = vec![row("tokens", &tokens), row("cost", &cost)];
    if let (Some(p50), Some(p95)) = (summary.latency_p50, summary.latency_p95) {
        lines.push(row(
            "latency",
            &format!("p50 {}, p95 {}", span(p50), span(p95)),
        ));
    }
    if summary.completed > summary.completed_before {
        // Calls of batches are the provider's.
        let at_once = match summary.latency_p50 {
            Some(_) => {
                let calls = number_of(summary.most_in_flight as u64, "call|calls");
                format!(", up to {calls} at once")
            }
            None => String::new(),
        };
        let (rate, busy) = (summary.rate, span(summary.busy));
        lines.push(row(
            "rate",
            &format!("{rate:.1} items/s over {busy}{at_once}"),
        ));
    }
    let answers = counts([
        (summary.truncated, "was|were cut at the token limit"),
        (summary.warnings, "has|have a warning"),
    ]);
    lines.extend((!answers.is_empty()).then(|| row("answers", &answers.join(", "))));
    lines
}

/// Each cause of failures with its number of items.
fn failures(summary: &Summary) -> Vec<String> {
    let causes = summary.causes.iter();
    let now: u64 = causes.clone().map(|cause| cause.items).sum();
    let others: u64 = causes
        .clone()
        .skip(MOST_CAUSES)
        .map(|cause| cause.items)
        .sum();
    let shown = causes.take(MOST_CAUSES).map(|cause| {
        let message = shortened(&cause.message, 160);
        format!("{} {}: {message}", count(cause.items), cause.kind)
    });
    let rest = counts([
        (others, "for other causes (all in \"error\" of the results)"),
        (
            summary.failed.saturating_sub(now),
            "in earlier runs, not sent again",
        ),
        (
            summary.unusable_replies,
            "reply|replies was|were paid for and cannot be read; only --resend all sends such items again",
        ),
    ]);
    shown
        .chain(rest)
        .map(|text| row("failures", &text))
        .collect()
}

/// What to do about the rest.
fn how_to_go_on(args: &RunArgs, ended: &Ended) -> Vec<String> {
    let (report, setup, queue) = (&ended.report, &ended.setup, &ended.queue);
    let (summary, stop) = (&report.summary, report.stop.as_ref());
    let once = stdout::is_named(args.output.as_deref());
    let mut lines = Vec::new();
    let fails_again =
        summary.failed <= setup.bad_rows + summary.unusable_replies || args.resend == Resend::None;
    match stop {
        _ if once || args.input.is_stream() => {}
        Some(StopReason::BudgetExceeded(_)) => {
            let command = command_line_with_budget();
            lines.push(format!(
                "to go on, give the same command with a higher --budget:\n    {command}"
            ));
        }
        _ if summary.pending > 0 => lines.push(format!("to go on:\n    {}", command_line())),
        _ if !fails_again => {
            lines.push(format!(
                "to try the failed ones again:\n    {}",
                command_line()
            ));
        }
        _ => {}
    }
    lines.extend(queue.iter().flat_map(|queue| queue.remaining.clone()));
    // A reader that closes the pipe wants no more results.
    if queue.is_none() && !matches!(stop, None | Some(StopReason::SinkClosed)) {
        if once {
            let why = "this run cannot be resumed: the same command sends all items again. With -o FILE, a run can be resumed";
            lines.push(why.to_owned());
        } else if args.input.is_stream() {
            let why = "standard input was not read to its end: pipe it again to go on";
            lines.push(why.to_owned());
        }
    }
    lines
}

/// Prints the summary for programs. Returns `exit`, or an error where it could not be printed.
fn print_json(args: &RunArgs, ended: &Ended, exit: Exit) -> Exit {
    let (report, setup, queue) = (&ended.report, &ended.setup, &ended.queue);
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
