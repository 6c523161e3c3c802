//! How a run went: the exit code, results that no file would take, and the summary.

use std::io::Write;

use batchwright::StopReason;
use batchwright::files::RunReport;

use super::execute::Ended;
use super::summary::{self, QueueFacts};
use crate::args::run::RunArgs;
use crate::display;
use crate::exit::Exit;
use crate::format::number_of;
use crate::session::Session;
use crate::signals::Signals;
use crate::{stderr, stdout};

pub fn report(args: &RunArgs, ended: &Ended, session: &Session) -> Exit {
    let Ended {
        report,
        setup,
        queue,
    } = ended;
    let queue = queue.as_ref();
    let mut exit = match queue {
        Some(queue) => exit_of_queued(args, report, queue, &session.signals),
        None => exit_of_direct(args, report, &session.signals),
    };
    print_unsaved(report);
    if let Err(error) = &report.compaction {
        display::error(error.message());
    }
    if args.json {
        exit = summary::print_json(args, report, setup, exit, queue);
    }
    if !args.show.say.quiet {
        summary::print(args, report, setup, queue);
    } else {
        match &report.stop {
            // It was asked for, and batches go on at the provider.
            Some(StopReason::Cancelled) => {
                display::say(summary::INTERRUPTED);
                let remaining = queue.iter().flat_map(|queue| &queue.remaining);
                remaining.for_each(|line| display::say(line));
            }
            Some(stop) => display::error(&format!("stopped: {stop}")),
            None => {}
        }
    }
    exit
}

fn exit_of_direct(args: &RunArgs, report: &RunReport, signals: &Signals) -> Exit {
    if has_unsaved(report) {
        return Exit::CouldNotRun;
    }
    match &report.stop {
        Some(StopReason::Cancelled) => return signals.exit().unwrap_or(Exit::StoppedEarly),
        Some(StopReason::Fatal(error)) if error.is_storage() => return Exit::CouldNotRun,
        Some(_) => return Exit::StoppedEarly,
        None => {}
    }
    let summary = &report.summary;
    if report.compaction.is_err() {
        Exit::CouldNotRun
    } else if summary.pending > 0 && args.max_items.is_none() {
        Exit::StoppedEarly
    } else if summary.failed > 0 {
        Exit::SomeFailed
    } else {
        Exit::Success
    }
}

fn exit_of_queued(
    args: &RunArgs,
    report: &RunReport,
    queue: &QueueFacts,
    signals: &Signals,
) -> Exit {
    let summary = &report.summary;
    match &report.stop {
        _ if !report.unsaved.is_empty() => Exit::CouldNotRun,
        Some(StopReason::Cancelled) => signals.exit().unwrap_or(Exit::StoppedEarly),
        Some(StopReason::Fatal(error)) if error.is_storage() => Exit::CouldNotRun,
        Some(_) => Exit::StoppedEarly,
        None if report.compaction.is_err() => Exit::CouldNotRun,
        // The rest waits in the queue, as `--no-wait` requests; but a batch on hold needs a decision.
        None if args.no_wait && queue.has_remaining => {
            if queue.has_held {
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
fn print_unsaved(report: &RunReport) {
    if !has_unsaved(report) {
        if !report.unsaved.is_empty() {
            let unread = number_of(
                report.unsaved.len() as u64,
                "finished result",
                "finished results",
            );
            display::say(&format!(
                "the reader closed the output before it took {unread}"
            ));
        }
        return;
    }
    display::error(&format!(
        "{} results could not be saved; here they are:",
        report.unsaved.len()
    ));
    stderr::flush();
    for line in &report.unsaved {
        let _ = std::io::stderr().write_all(line);
        stdout::note_written();
    }
}
