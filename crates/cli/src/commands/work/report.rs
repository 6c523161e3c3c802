//! The end of a worker: results that could not be recorded, the exit code, the summary, and the batches that go on.

use std::collections::HashSet;

use batchwright::batch::BatchInfo;
use batchwright::queue::{ProcessState, WorkerReport};
use batchwright::{Error, JobQueue, ProcessId, StopReason};

use crate::args::work::WorkArgs;
use crate::batches;
use crate::budget::advice;
use crate::display;
use crate::exit::Exit;
use crate::format::{count, counts};
use crate::logging::{is_json, is_quiet};
use crate::queue::{PAUSED, command};
use crate::run_process;
use crate::signals::Signals;
use crate::stdout;

/// What is left after a worker has ended.
pub struct Remaining {
    processes: Vec<ProcessState>,
    /// The batches without a worker.
    batches: Vec<BatchInfo>,
}

impl Remaining {
    pub fn of(args: &WorkArgs, only: &[ProcessId], queue: &JobQueue) -> Result<Self, Error> {
        if is_gone(args) {
            let (processes, batches) = (Vec::new(), Vec::new());
            return Ok(Self { processes, batches });
        }
        let mut processes = queue.open_processes()?;
        processes.retain(|process| only.is_empty() || only.contains(&process.process_id));
        let mut batches = Vec::new();
        match only {
            [] => batches = queue.batches(None)?,
            // Including those of child jobs.
            only => {
                for id in only {
                    batches.extend(queue.batches(Some(*id))?);
                }
            }
        }
        let mut seen = HashSet::new();
        batches.retain(|batch| !batch.attended && seen.insert(batch.label.clone()));
        Ok(Self { processes, batches })
    }

    /// Lines about budgets, the batches, and how to collect them.
    fn lines(&self, args: &WorkArgs) -> Vec<String> {
        let command = |words: &str| command(words, &args.file, &args.worker.store);
        let mut lines = Vec::new();
        for process in &self.processes {
            let (id, budget) = (process.process_id, process.budget.as_ref());
            let text = budget.and_then(|budget| advice(&command, id, budget));
            lines.extend(text.map(|text| format!("process {id} is {text}")));
        }
        lines.extend(self.processes.iter().filter_map(run_process::line));
        lines.extend(self.batches.iter().map(batches::line));
        if !self.batches.is_empty() {
            let collect = command("work --strategy batch");
            lines.push(format!("to collect the batches of no run: {collect}"));
        }
        lines
    }
}

pub fn report(
    args: &WorkArgs,
    report: &WorkerReport,
    remaining: &Remaining,
    queue: &JobQueue,
    signals: &Signals,
) -> Exit {
    display::unsaved(report);
    let mut exit = exit(args, report, remaining, signals);
    if is_json() {
        exit = stdout::json(&serde_json::json!(report), exit);
    }
    let stop = report.stop.as_ref();
    let stop = stop.filter(|stop| !matches!(stop, StopReason::Cancelled));
    if let Some(stop) = stop.filter(|_| is_quiet()) {
        display::error(&format!("stopped: {stop}"));
    }
    display::note(summary(report, stop));
    let waiting = queue.open_processes().map_or(0, |all| {
        let sealed = all.iter().filter(|process| process.sealed);
        sealed.map(|process| process.counts.pending).sum()
    });
    if waiting > 0 {
        display::note(format!("{} jobs still wait", count(waiting)));
        if queue.is_paused().unwrap_or(false) {
            display::note(PAUSED);
        }
    }
    remaining.lines(args).iter().for_each(display::note);
    exit
}

fn summary(report: &WorkerReport, stop: Option<&StopReason>) -> String {
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
    match stop {
        None => line,
        Some(stop) => format!("{line}; stopped: {stop}"),
    }
}

/// Whether the run that owned the queue has ended and removed it.
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
        Some(StopReason::Fatal(error)) if error.is_storage() && is_gone(args) => Exit::Success,
        Some(StopReason::Fatal(_)) => Exit::CouldNotRun,
        Some(_) => Exit::StoppedEarly,
        // Batches remain that would not have ended by waiting longer.
        None if args.until_empty && !remaining.batches.is_empty() => Exit::StoppedEarly,
        None if args.until_submitted && report.batches_held > 0 => Exit::StoppedEarly,
        None if report.failed > 0 => Exit::SomeFailed,
        None => Exit::Success,
    }
}
