//! `batchwright work`: a worker of the queue in the foreground.

mod queue_progress;
mod remaining;
mod report;

use std::sync::{Arc, Mutex};

use batchwright::plan::SettingsEvent;
use batchwright::{Context, ErrorPolicy, JobQueue};

use self::queue_progress::QueueProgress;
use self::remaining::{EmbeddingsNote, Remaining};
use crate::args::work::WorkArgs;
use crate::exit::{Exit, Refusal, could_not_run};
use crate::job_types;
use crate::queue::all_of;
use crate::routes;
use crate::signals::{Signals, stopping_line};
use crate::worker::Home;

pub fn execute(args: &WorkArgs) -> Exit {
    args.show.say.start_log();
    args.worker.memory.apply();
    work(args).unwrap_or_else(|refusal| refusal.end(args.json, args.show.say.quiet))
}

fn work(args: &WorkArgs) -> Result<Exit, Refusal> {
    let ctx = Context::new().with_grace(args.worker.grace);
    let signals = Signals::watch(
        &ctx,
        (!args.show.say.quiet).then(|| stopping_line(&ctx, "")),
    )?;
    let say = |line: String| args.show.say.say(&line);
    let home = Home::open(&args.worker)?;
    let watch = home.settings(&args.worker)?;
    let manager = routes::manager(&args.worker, watch.settings(), args.show.say.quiet)?;
    let queue = home.queue(&args.worker, args.file.queue.as_deref())?;
    let processes = all_of(&queue, &args.processes)?;
    say(routes::line(manager.plan())?);
    let mut note = EmbeddingsNote::default();
    note.update(&manager, &queue, &say);
    let progress = Arc::new(QueueProgress::new(&args.show, &queue).map_err(could_not_run)?);
    let audio = args.worker.audio_dir.as_deref();
    let types =
        job_types::of_worker(watch.settings(), audio, &home.folder).map_err(could_not_run)?;
    let worker = manager
        .context(&ctx)
        .notifier(progress.clone())
        .follow(watch)
        .job_types(types)
        .on_settings(tell_changes(progress.clone(), queue.clone(), note))
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
    Ok(report::report(
        args, &report, &remaining, &queue, &signals, &ctx,
    ))
}

/// Reports the effect of settings that change while the worker runs.
fn tell_changes(
    progress: Arc<QueueProgress>,
    queue: JobQueue,
    note: EmbeddingsNote,
) -> impl Fn(&SettingsEvent<'_>) + Send + Sync {
    let note = Mutex::new(note);
    move |event| {
        let say = |line: String| progress.say(&line);
        routes::tell_change(event, &say);
        if let (SettingsEvent::Applied(manager), Ok(mut note)) = (event, note.lock()) {
            note.update(manager, &queue, &say);
        }
    }
}
