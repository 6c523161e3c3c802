//! `batchwright work`: a worker of the queue in the foreground.

pub mod queue_progress;
pub mod remaining;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use batchwright::config::{SettingKey, SettingsWatch};
use batchwright::queue::{Durability, SqliteOptions, WorkerReport};
use batchwright::{
    Context, Error, ErrorPolicy, JobQueue, RunningWorker, Settings, StopReason, Worker,
};
use crossbeam_channel::RecvTimeoutError;

use crate::args::work::WorkArgs;
use crate::background::Cancelled;
use crate::commands::work::queue_progress::QueueProgress;
use crate::commands::work::remaining::{EmbeddingsNote, Remaining};
use crate::data_dir::data_dir;
use crate::display;
use crate::exit::{Exit, Refusal};
use crate::format::count;
use crate::pacing::Pacing;
use crate::provider;
use crate::queue::all_of;
use crate::routes::Routes;
use crate::settings::{refused, store};
use crate::signals::{Signals, stopping_line};
use crate::stdout;

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
    for result in &report.unsaved {
        display::error("a result could not be recorded; here it is:");
        crate::stderr::flush();
        let _ = writeln!(std::io::stderr(), "{result}");
    }
    let mut exit = exit(args, &report, &signals, &remaining);
    if args.json {
        exit = print_json(&report, exit);
    }
    if !args.show.quiet {
        display::say(&summary(&report));
        let waiting = queue.open_processes().map_or(0, |all| {
            let sealed = all.iter().filter(|process| process.sealed);
            sealed.map(|process| process.counts.pending).sum()
        });
        if waiting > 0 {
            display::say(&format!("{} jobs still wait", count(waiting)));
        }
        let waited = args.until_empty && report.stop.is_none();
        remaining
            .lines(waited)
            .iter()
            .for_each(|line| display::say(line));
    } else if let Some(stop) = report.stop.as_ref().filter(|_| !ctx.is_cancelled()) {
        display::error(&format!("stopped: {stop}"));
    }
    Ok(exit)
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

fn summary(report: &WorkerReport) -> String {
    let mut line = format!("{} done", count(report.completed));
    for (n, what) in [
        (
            report.batches,
            match report.batches {
                1 => "batch created",
                _ => "batches created",
            },
        ),
        (report.failed, "failed"),
        (report.given_back, "given back"),
        (report.retries, "retries"),
        (report.rate_limited, "rate limited"),
        (report.possibly_paid_twice, "possibly paid twice"),
    ] {
        if n > 0 {
            line.push_str(&format!(", {} {what}", count(n)));
        }
    }
    match &report.stop {
        None | Some(StopReason::Cancelled) => line,
        Some(stop) => format!("{line}; stopped: {stop}"),
    }
}

fn print_json(report: &WorkerReport, exit: Exit) -> Exit {
    let stop = report.stop.as_ref().map(ToString::to_string);
    let line = serde_json::json!({
        "completed": report.completed,
        "failed": report.failed,
        "given_back": report.given_back,
        "calls": report.calls,
        "batches": report.batches,
        "batches_open": report.batches_open,
        "batches_held": report.batches_held,
        "batches_uncollected": report.batches_uncollected,
        "retries": report.retries,
        "rate_limited": report.rate_limited,
        "possibly_paid_twice": report.possibly_paid_twice,
        "stop": stop,
    });
    stdout::json(&line, exit)
}

fn exit(args: &WorkArgs, report: &WorkerReport, signals: &Signals, remaining: &Remaining) -> Exit {
    match &report.stop {
        _ if !report.unsaved.is_empty() => Exit::CouldNotRun,
        // A worker that runs until it is stopped has ended as it should.
        Some(StopReason::Cancelled) if !args.ends() => Exit::Success,
        Some(StopReason::Cancelled) => signals.exit().unwrap_or(Exit::StoppedEarly),
        Some(StopReason::Fatal(_)) => Exit::CouldNotRun,
        Some(_) => Exit::StoppedEarly,
        // Batches remain that waiting longer would not have ended.
        None if args.until_empty && remaining.has_batches() => Exit::StoppedEarly,
        None if args.until_submitted && report.batches_held > 0 => Exit::StoppedEarly,
        None if report.failed > 0 => Exit::SomeFailed,
        None => Exit::Success,
    }
}
