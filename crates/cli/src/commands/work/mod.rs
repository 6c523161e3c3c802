//! `batchwright work`: a worker of the queue in the foreground.

mod queue_progress;
mod remaining;
mod report;

use std::sync::Arc;
use std::time::Duration;

use batchwright::config::{SettingKey, SettingsWatch};
use batchwright::queue::{Durability, SqliteOptions, WorkerReport};
use batchwright::{Context, Error, ErrorPolicy, JobQueue, RunningWorker, Settings, Worker};
use crossbeam_channel::RecvTimeoutError;

use self::queue_progress::QueueProgress;
use self::remaining::{EmbeddingsNote, Remaining};
use crate::args::work::WorkArgs;
use crate::background::Cancelled;
use crate::data_dir::data_dir;
use crate::display;
use crate::exit::{Exit, Refusal};
use crate::pacing::Pacing;
use crate::provider;
use crate::queue::all_of;
use crate::routes::Routes;
use crate::settings::{refused, store};
use crate::signals::{Signals, stopping_line};

/// How often changed settings are looked for.
const SETTINGS_INTERVAL: Duration = Duration::from_millis(300);

pub fn execute(args: &WorkArgs) -> Exit {
    display::start_log(&args.show);
    work(args).unwrap_or_else(|refusal| refusal.end(args.json, args.show.quiet))
}

fn work(args: &WorkArgs) -> Result<Exit, Refusal> {
    let ctx = Context::new().with_grace(args.grace);
    let signals = Signals::watch(&ctx, (!args.show.quiet).then(|| stopping_line(&ctx, "")))?;
    let say = |line: String| {
        if !args.show.quiet {
            display::say(&line);
        }
    };
    let folder = data_dir(args.data_dir.as_deref()).ok_or_else(|| {
        Refusal::could_not_run("there is no place for the queue: name one with --data-dir")
    })?;
    let mut watch = settings(args)?;
    let pacing = Pacing::new(args, watch.settings())?;
    let mut routes = Routes::new(args, watch.settings(), &ctx, &say)?;
    if ctx.is_cancelled() {
        return Ok(signals.exit().unwrap_or(Exit::CouldNotRun));
    }
    let options = SqliteOptions::default().durability(match args.fsync {
        true => Durability::Full,
        false => Durability::Normal,
    });
    let queue = JobQueue::open_with(&folder.join("llm_jobs.db"), options)
        .map_err(|error| Refusal::could_not_run(error.message()))?;
    let processes = all_of(&queue, &args.processes)?;
    say(routes.line().to_owned());
    let mut note = EmbeddingsNote::default();
    note.update(&routes, &queue, &say);
    let failed = |error: Error| Refusal::could_not_run(error.message());
    let progress = Arc::new(QueueProgress::new(&args.show, &queue).map_err(failed)?);
    let worker = Worker::new(&queue)
        .context(&ctx)
        .notifier(progress.clone())
        .processes(processes.clone())
        .until_empty(args.until_empty)
        .until_submitted(args.until_submitted)
        .on_error(match args.ends() {
            true => ErrorPolicy::StopOnCriticalError,
            false => ErrorPolicy::ContinueOnError,
        });
    let worker = routes.give(pacing.give(worker))?;
    let worker = worker.start().map_err(failed)?;
    let mut on_change = |routes: &Routes| {
        progress.say(routes.line());
        note.update(routes, &queue, &|line| progress.say(&line));
    };
    let report = follow(
        args,
        worker,
        &mut watch,
        routes,
        &ctx,
        &progress,
        &mut on_change,
    )?;
    progress.clear();
    let remaining = Remaining::of(args, &processes, &queue).map_err(failed)?;
    Ok(report::report(
        args, &report, &remaining, &queue, &signals, &ctx,
    ))
}

/// Waits for the worker's end, and applies settings that change meanwhile.
fn follow(
    args: &WorkArgs,
    worker: RunningWorker,
    watch: &mut SettingsWatch,
    mut routes: Routes,
    ctx: &Context,
    progress: &QueueProgress,
    on_change: &mut dyn FnMut(&Routes),
) -> Result<WorkerReport, Refusal> {
    let mut known = values(watch.settings());
    let cancelled = Cancelled::of(ctx);
    // Settings that could not be applied yet are tried again: their provider may start to answer.
    let (mut pending, mut warned) = (false, None);
    while !worker.is_finished() && !ctx.is_cancelled() {
        if let Ok(()) | Err(RecvTimeoutError::Disconnected) =
            cancelled.receiver.recv_timeout(SETTINGS_INTERVAL)
        {
            continue;
        }
        let applied = match watch.refresh() {
            Ok(changed) => {
                pending |= changed;
                if !pending {
                    continue;
                }
                let now = values(watch.settings());
                for line in changes(&known, &now) {
                    progress.say(&line);
                }
                known = now;
                Pacing::new(args, watch.settings())
                    .map(|pacing| pacing.apply(&worker))
                    .and_then(|()| routes.follow(args, watch.settings(), &worker, ctx))
            }
            Err(error) => Err(Refusal::could_not_run(error.message())),
        };
        match applied {
            Ok(changed) => {
                (pending, warned) = (false, None);
                if changed {
                    on_change(&routes);
                }
            }
            // The old settings hold until the new ones can be applied.
            Err(refusal) if warned.as_ref() != Some(&refusal.message) => {
                progress.say(&format!("the old settings hold: {}", refusal.message));
                warned = Some(refusal.message);
            }
            Err(_) => {}
        }
    }
    let end = match ctx.is_cancelled() {
        true => worker.stop(),
        false => worker.join(),
    };
    end.map_err(|error| Refusal::could_not_run(error.message()))
}

type Values = Vec<(&'static str, Option<String>)>;

/// The value of every setting.
fn values(settings: &Settings) -> Values {
    let keys = SettingKey::all().iter().map(SettingKey::name);
    let value = |name| {
        settings
            .explain(name)
            .ok()
            .and_then(|setting| setting.value)
    };
    keys.map(|name| (name, value(name))).collect()
}

fn changes(before: &Values, now: &Values) -> Vec<String> {
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "unset".to_owned());
    let pairs = before.iter().zip(now).filter(|(before, now)| before != now);
    pairs
        .map(|((name, old), (_, new))| {
            format!("settings changed: {name} {} -> {}", shown(old), shown(new))
        })
        .collect()
}

/// The settings of this data folder and environment beneath the flags, and their later changes.
fn settings(args: &WorkArgs) -> Result<SettingsWatch, Refusal> {
    let settings = Settings::new().environment(|name| std::env::var(name).ok());
    let mut settings = provider::with_flags(settings, &args.provider)?;
    for (key, flag, words) in [
        ("llm.bulk_strategy", "--strategy", &args.strategy),
        ("llm.sync_concurrency", "--concurrency", &args.concurrency),
        ("llm.requests_per_minute", "--rpm", &args.rpm),
        ("llm.tokens_per_minute", "--tpm", &args.tpm),
        ("llm.request_timeout", "--timeout", &args.timeout),
        ("queue.max_retries", "--max-retries", &args.max_retries),
    ] {
        settings = settings.flag(key, flag, words.clone()).map_err(refused)?;
    }
    let store = store(args.data_dir.as_deref()).ok_or_else(|| {
        Refusal::could_not_run("there is no place for settings: name one with --data-dir")
    })?;
    SettingsWatch::new(settings, Arc::new(store))
        .map_err(|error| Refusal::could_not_run(error.message()))
}
