//! How a run went: the exit code, results that no file would take, and the summary.

use std::io::Write;

use batchwright::StopReason;
use batchwright::files::RunReport;

use super::prepare::Ended;
use super::summary::{self, QueueFacts};
use crate::args::run::RunArgs;
use crate::display;
use crate::exit::Exit;
use crate::format::number_of;
use crate::logging::{is_json, is_quiet};
use crate::signals::{Session, Signals};
use crate::{stderr, stdout};

pub fn report(args: &RunArgs, ended: &Ended, session: &Session) -> Exit {
    let Ended { report, setup, .. } = ended;
    let queue = ended.queue.as_ref();
    let mut exit = exit_of(args, report, queue, &session.signals);
    print_unsaved(report);
    if let Err(error) = &report.compaction {
        display::error(error.message());
    }
    if is_json() {
        exit = summary::print_json(args, report, setup, exit, queue);
    }
    summary::print(args, report, setup, queue);
    match report.stop.as_ref().filter(|_| is_quiet()) {
        // It was asked for, and batches go on at the provider.
        Some(StopReason::Cancelled) => {
            display::say(summary::INTERRUPTED);
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
