//! `batchwright work`: a worker of the queue in the foreground.

mod queue_progress;
mod report;

use std::sync::Arc;

use batchwright::plan::SettingsEvent;
use batchwright::queue::EMBEDDING_KIND;
use batchwright::{Context, ErrorPolicy, JobQueue, LlmManager, Strategy};

use self::queue_progress::QueueProgress;
use self::report::Remaining;
use crate::args::work::WorkArgs;
use crate::display;
use crate::exit::{Early, Exit, could_not_run};
use crate::format::count;
use crate::job_types;
use crate::queue::{all_of, folder};
use crate::settings::in_folder;
use crate::signals::{GRACE, Signals, stopping_line};
use crate::worker;

pub fn execute(args: &WorkArgs) -> Result<Exit, Early> {
    args.worker.memory.apply();
    let ctx = Context::new().with_grace(GRACE);
    let signals = Signals::watch(&ctx, stopping_line(&ctx, ""))?;
    let folder = folder()?;
    let watch = worker::settings(&args.worker, Arc::new(in_folder(&folder)))?;
    let manager = worker::manager(&args.worker, watch.settings())?;
    let queue = worker::queue(&args.worker, args.file.queue.as_deref(), &folder)?;
    let processes = all_of(&queue, &args.processes)?;
    display::note(worker::line(manager.plan())?);
    note_full_price(&manager, &queue);
    let progress = Arc::new(QueueProgress::new(&args.show, &queue).map_err(could_not_run)?);
    let audio = args.worker.audio_dir.as_deref();
    let types = job_types::of_worker(watch.settings(), audio, &folder).map_err(could_not_run)?;
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
        .job_types(types)
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
    progress.clear();
    let remaining = Remaining::of(args, &processes, &queue).map_err(could_not_run)?;
    Ok(report::report(args, &report, &remaining, &queue, &signals))
}

/// Reports what is called at the full price although batches were asked for or are there.
fn note_full_price(manager: &LlmManager, queue: &JobQueue) {
    // The worker itself reports a queue that cannot be read.
    if manager.effective_strategy().strategy == Strategy::Batch {
        let waiting = queue.waiting(EMBEDDING_KIND).unwrap_or(0);
        if waiting > 0 {
            let waiting = count(waiting);
            display::note(format!(
                "{waiting} embeddings wait: they are not made in batches, but by individual calls"
            ));
        }
    } else if queue.batches(None).is_ok_and(|batches| !batches.is_empty()) {
        display::note(
            "strategy sync: batches are collected, and their unanswered requests are sent as calls, at the full \
             price; to use only batches: --strategy batch",
        );
    }
}
