//! The end of a worker: results that could not be recorded, the exit code and the summary.

use std::io::{self, Write};

use batchwright::queue::WorkerReport;
use batchwright::{Context, JobQueue, StopReason};

use super::remaining::Remaining;
use crate::args::work::WorkArgs;
use crate::budget::advice;
use crate::display;
use crate::exit::Exit;
use crate::format::{count, counts};
use crate::queue::queue_flags;
use crate::signals::Signals;
use crate::stderr;
use crate::stdout;

pub fn report(
    args: &WorkArgs,
    report: &WorkerReport,
    remaining: &Remaining,
    queue: &JobQueue,
    signals: &Signals,
    ctx: &Context,
) -> Exit {
    for result in &report.unsaved {
        display::error("a result could not be recorded; here it is:");
        stderr::flush();
        let _ = writeln!(io::stderr(), "{result}");
    }
    let mut exit = exit(args, report, remaining, signals);
    if args.json {
        exit = stdout::json(&serde_json::json!(report), exit);
    }
    if !args.show.say.quiet {
        display::say(&summary(report));
        let waiting = queue.open_processes().map_or(0, |all| {
            let sealed = all.iter().filter(|process| process.sealed);
            sealed.map(|process| process.counts.pending).sum()
        });
        if waiting > 0 {
            display::say(&format!("{} jobs still wait", count(waiting)));
        }
        if let Some(StopReason::BudgetExceeded(_)) = report.stop {
            tell_budgets(args, queue);
        }
        let waited = args.until_empty && report.stop.is_none();
        remaining
            .lines(waited)
            .iter()
            .for_each(|line| display::say(line));
    } else if let Some(stop) = report.stop.as_ref().filter(|_| !ctx.is_cancelled()) {
        display::error(&format!("stopped: {stop}"));
    }
    exit
}

/// How the processes continue that their budgets have paused.
fn tell_budgets(args: &WorkArgs, queue: &JobQueue) {
    let worker = &args.worker;
    let (folder, file) = (worker.data_dir.as_deref(), args.file.queue.as_deref());
    let flags = queue_flags(folder, file, &worker.store);
    let command = |words: &str| format!("batchwright {words}{flags}");
    for process in queue.open_processes().unwrap_or_default() {
        let id = process.process_id;
        let budget = process.budget.as_ref();
        if let Some(text) = budget.and_then(|budget| advice(&command, id, budget)) {
            display::say(&format!("process {id} is {text}"));
        }
    }
}

fn summary(report: &WorkerReport) -> String {
    let batches = match report.batches {
        1 => "batch created",
        _ => "batches created",
    };
    let others = counts([
        (report.batches, batches),
        (report.failed, "failed"),
        (report.given_back, "given back"),
        (report.retries, "retries"),
        (report.rate_limited, "rate limited"),
        (report.possibly_paid_twice, "possibly paid twice"),
    ]);
    let done = format!("{} done", count(report.completed));
    let line = [vec![done], others].concat().join(", ");
    match &report.stop {
        None | Some(StopReason::Cancelled) => line,
        Some(stop) => format!("{line}; stopped: {stop}"),
    }
}

fn is_gone(args: &WorkArgs) -> bool {
    let file = args.file.queue.as_ref();
    file.is_some_and(|file| !file.exists())
}

fn exit(args: &WorkArgs, report: &WorkerReport, remaining: &Remaining, signals: &Signals) -> Exit {
    match &report.stop {
        _ if !report.unsaved.is_empty() => Exit::CouldNotRun,
        // A worker that runs until it is stopped has ended as intended.
        Some(StopReason::Cancelled) if !args.ends() => Exit::Success,
        Some(StopReason::Cancelled) => signals.exit().unwrap_or(Exit::StoppedEarly),
        // The run that owned the queue has ended and removed it.
        Some(StopReason::Fatal(error)) if error.is_storage() && is_gone(args) => Exit::Success,
        Some(StopReason::Fatal(_)) => Exit::CouldNotRun,
        Some(_) => Exit::StoppedEarly,
        // Batches remain that would not have ended by waiting longer.
        None if args.until_empty && remaining.has_batches() => Exit::StoppedEarly,
        None if args.until_submitted && report.batches_held > 0 => Exit::StoppedEarly,
        None if report.failed > 0 => Exit::SomeFailed,
        None => Exit::Success,
    }
}
