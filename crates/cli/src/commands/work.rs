//! `batchwright work`: a worker of the queue in the foreground.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use batchwright::plan::SettingsEvent;
use batchwright::progress::Phase;
use batchwright::queue::{EMBEDDING_KIND, ProcessTracker, WorkerReport};
use batchwright::{
    Context, Error, ErrorPolicy, JobQueue, LlmManager, ProcessId, Progress, ProgressNotifier,
    StopReason, Strategy,
};
use parking_lot::Mutex;

use super::status::{self, Row};
use crate::args::worker::WorkArgs;
use crate::display::{self, Display};
use crate::exit::{Exit, Refusal, could_not_run};
use crate::format::{count, counts, number_of};
use crate::queue::{PAUSED, all_of, command, folder, how_to_list};
use crate::settings::in_folder;
use crate::signals::{GRACE, Signals, stopping_line};
use crate::stderr::{is_json, is_quiet};
use crate::stdout;
use crate::worker;

pub fn execute(args: &WorkArgs) -> Result<Exit, Refusal> {
    args.worker.memory.apply();
    let ctx = Context::new().with_grace(GRACE);
    let signals = Signals::watch(&ctx, stopping_line(&ctx, ""))?;
    let folder = folder()?;
    let watch = worker::settings(&args.worker, Arc::new(in_folder(&folder)))?;
    let manager = worker::manager(&args.worker, watch.settings())?;
    let queue = worker::queue(&args.worker, args.file.queue.as_deref(), &folder, &ctx)?;
    let list = how_to_list(&args.file, &args.worker.store);
    let processes = all_of(&queue, &args.processes, &list)?;
    display::note(worker::line(manager.plan())?);
    note_full_price(&manager, &queue);
    let progress = Arc::new(QueueProgress::new(Display::new(&args.show)));
    let audio = args.worker.audio_dir.as_deref();
    let types =
        worker::job_types_of_worker(watch.settings(), audio, &folder).map_err(could_not_run)?;
    let of_events = queue.clone();
    let tell = move |event: &SettingsEvent<'_>| {
        worker::tell_change(event);
        if let SettingsEvent::Applied(manager) = event {
            note_full_price(manager, &of_events);
        }
    };
    let worker = manager
        .context(&ctx)
        .notifier(progress.clone())
        .follow(watch)
        .job_types(&types)
        .on_settings(tell)
        .worker(&queue)
        .map_err(could_not_run)?;
    let report = worker
        .processes(processes.clone())
        .until_empty(args.until_empty)
        .until_submitted(args.until_submitted)
        .on_error(if args.ends() {
            ErrorPolicy::StopOnCriticalError
        } else {
            ErrorPolicy::ContinueOnError
        })
        .run()
        .map_err(could_not_run)?;
    progress.display.clear();
    let left = Left::of(args, &processes, &queue).map_err(could_not_run)?;
    Ok(ended(args, &report, &left, &signals))
}

/// What is left after a worker has ended.
#[derive(Default)]
struct Left {
    /// The processes that are not finished, or whose results another command collects.
    rows: Vec<Row>,
    /// There are batches without a worker, those of child jobs included.
    has_batches: bool,
    is_paused: bool,
}

impl Left {
    fn of(args: &WorkArgs, only: &[ProcessId], queue: &JobQueue) -> Result<Self, Error> {
        if is_gone(args) {
            return Ok(Self::default());
        }
        let mut rows = status::rows(queue, only, &mut ProcessTracker::new())?;
        rows.retain(|row| !row.process.is_finished() || row.process.info.output.is_some());
        let mut batches = Vec::new();
        match only {
            [] => batches = queue.batches(None)?,
            only => {
                for id in only {
                    batches.extend(queue.batches(Some(*id))?);
                }
            }
        }
        Ok(Self {
            rows,
            has_batches: batches.iter().any(|batch| !batch.attended),
            is_paused: queue.is_paused()?,
        })
    }
}

/// Says how the worker went and what is left: the table of `status`, and how to go on.
fn ended(args: &WorkArgs, report: &WorkerReport, left: &Left, signals: &Signals) -> Exit {
    display::unsaved(report);
    let mut exit = exit(args, report, left, signals);
    if is_json() {
        exit = stdout::json(&serde_json::json!(report), exit);
    }
    let stop = report.stop.as_ref();
    let stop = stop.filter(|stop| !matches!(stop, StopReason::Cancelled));
    if let Some(stop) = stop.filter(|_| is_quiet()) {
        display::error(&format!("stopped: {stop}"));
    }
    display::note(summary(report, stop));
    if !left.rows.is_empty() {
        display::note(format!(
            "left in the queue:\n{}",
            status::table(&left.rows).trim_end()
        ));
    }
    if left.is_paused {
        display::note(PAUSED);
    }
    let command = |words: &str| command(words, &args.file, &args.worker.store);
    status::ways_on(&left.rows, &command)
        .iter()
        .for_each(display::note);
    if left.has_batches {
        let collect = command("work --strategy batch");
        display::note(format!("to collect the batches of no run: {collect}"));
    }
    exit
}

fn summary(report: &WorkerReport, stop: Option<&StopReason>) -> String {
    let others = counts([
        (report.batches, "batch|batches created"),
        (report.failed, "failed"),
        (report.given_back, "given back"),
        (report.retries, "retry|retries"),
        (report.rate_limited, "rate limited"),
        (report.possibly_paid_twice, "possibly paid twice"),
    ]);
    let done = format!("{} done", count(report.completed));
    let line = [vec![done], others].concat().join(", ");
    stop.map_or(line.clone(), |stop| format!("{line}; stopped: {stop}"))
}

/// Whether the run that owned the queue has ended and removed it.
fn is_gone(args: &WorkArgs) -> bool {
    let file = args.file.queue.as_ref();
    file.is_some_and(|file| !file.exists())
}

fn exit(args: &WorkArgs, report: &WorkerReport, left: &Left, signals: &Signals) -> Exit {
    match &report.stop {
        _ if !report.unsaved.is_empty() => Exit::CouldNotRun,
        // A worker that runs until it is stopped has ended as intended.
        Some(StopReason::Cancelled) if !args.ends() => Exit::Success,
        Some(StopReason::Cancelled) => signals.exit().unwrap_or(Exit::StoppedEarly),
        Some(StopReason::Fatal(error)) if error.is_storage() && is_gone(args) => Exit::Success,
        Some(StopReason::Fatal(_)) => Exit::CouldNotRun,
        Some(_) => Exit::StoppedEarly,
        // Batches remain that would not have ended by waiting longer.
        None if args.until_empty && left.has_batches => Exit::StoppedEarly,
        None if args.until_submitted && report.batches_held > 0 => Exit::StoppedEarly,
        None if report.failed > 0 => Exit::SomeFailed,
        None => Exit::Success,
    }
}

/// Reports what is called at the full price although batches were asked for or are there.
fn note_full_price(manager: &LlmManager, queue: &JobQueue) {
    // The worker itself reports a queue that cannot be read.
    if manager.effective_strategy().strategy == Strategy::Batch {
        let waiting = queue.waiting(EMBEDDING_KIND).unwrap_or(0);
        if waiting > 0 {
            let wait = "embedding|embeddings waits:|wait: it|they is|are not made in batches, but by individual calls";
            display::note(number_of(waiting, wait));
        }
    } else if queue.batches(None).is_ok_and(|batches| !batches.is_empty()) {
        display::note(
            "strategy sync: batches are collected, and their unanswered requests are sent as calls, at the full \
             price; to use only batches: --strategy batch",
        );
    }
}

/// The progress of a worker: the sum of all open processes of the queue.
struct QueueProgress {
    display: Display,
    /// The open processes, and when they are summed up next.
    known: Mutex<(HashMap<ProcessId, Progress>, Instant)>,
}

/// Minimum time between two sums.
const SUM_INTERVAL: Duration = Duration::from_millis(200);

impl QueueProgress {
    fn new(display: Display) -> Self {
        Self {
            display,
            known: Mutex::new((HashMap::new(), Instant::now())),
        }
    }
}

impl ProgressNotifier for QueueProgress {
    fn on_progress(&self, progress: &Progress) {
        let Some(id) = progress.process_id else {
            return;
        };
        let mut known = self.known.lock();
        let (open, next_sum) = &mut *known;
        match progress.phase {
            Phase::Deleted | Phase::Finished => open.remove(&id),
            _ => open.insert(id, progress.clone()),
        };
        // Summing up thousands of processes at each of thousands of events would take too long.
        let now = Instant::now();
        if !open.is_empty() && now < *next_sum {
            return;
        }
        *next_sum = now + SUM_INTERVAL;
        let mut all = open.values();
        let Some(mut sum) = all.next().cloned() else {
            return self.display.clear();
        };
        for one in all {
            sum.total = sum.total.zip(one.total).map(|(a, b)| a + b);
            sum.completed += one.completed;
            sum.failed += one.failed;
            sum.cancelled += one.cancelled;
            sum.in_flight += one.in_flight;
            sum.at_provider += one.at_provider;
            sum.at_provider_done = match (sum.at_provider_done, one.at_provider_done) {
                (Some(a), Some(b)) => Some(a + b),
                (a, b) => a.or(b),
            };
            sum.rate += one.rate;
            sum.input_tokens += one.input_tokens;
            sum.output_tokens += one.output_tokens;
            sum.trouble = sum.trouble.take().or(one.trouble.clone());
        }
        // What limits the worker is the same for all, and known best from the latest event.
        if progress.limited_by.is_some() {
            sum.limited_by = progress.limited_by;
        }
        let done = sum.completed + sum.failed + sum.cancelled;
        let total = sum.total.unwrap_or(done);
        let left = total.saturating_sub(done);
        sum.percent = (total > 0).then(|| (done as f64 * 1000.0 / total as f64).floor() / 10.0);
        sum.eta =
            (sum.rate > 0.0).then(|| Duration::from_secs_f64((left as f64 / sum.rate).min(1e9)));
        self.display.on_progress(&sum);
    }
}
