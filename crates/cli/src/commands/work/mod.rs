//! `batchwright work`: a worker of the queue in the foreground.

pub mod queue_progress;
pub mod remaining;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use batchwright::{
    Context, Durability, Error, ErrorPolicy, JobQueue, Key, RunningWorker, Settings, SettingsWatch,
    SqliteOptions, StopReason, Worker, WorkerReport,
};
use clap::Args;
use crossbeam_channel::{RecvTimeoutError, bounded};

use crate::args::values::seconds;
use crate::args::{MORE, ProviderArgs, ShowArgs};
use crate::commands::work::queue_progress::Board;
use crate::commands::work::remaining::{EmbeddingsNote, Left};
use crate::data_dir::data_dir;
use crate::display::{self, count};
use crate::exit::{Exit, Refusal};
use crate::pacing::Pacing;
use crate::provider;
use crate::queue::all_of;
use crate::routes::Routes;
use crate::settings::{refused, store, words_for};
use crate::signals::Signals;
use crate::stdout;

/// Run the queue's worker
///
/// It carries out the jobs that `batchwright submit` and other programs put on the queue, until it is
/// stopped: Ctrl-C lets the calls in flight end. Any number of workers share a queue; when one dies the
/// others take over its jobs at once. A provider that refuses the key or cannot be reached fails no
/// job: they wait, and it is asked again. (A local server must answer when the worker starts.)
#[derive(Debug, Args)]
#[command(after_help = MORE, after_long_help = WORK_HELP)]
pub struct WorkArgs {
    /// End when nothing is left to do, for cron and scripts
    ///
    /// End early, too, when the provider refuses everybody or cannot be reached.
    #[arg(long)]
    pub until_empty: bool,

    /// End once all batches are handed over
    ///
    /// All prompts are handed over to the provider, without waiting for their batches; what is no
    /// batch is carried out. For cron: in the evening this, in the morning --until-empty.
    #[arg(long, conflicts_with = "until_empty")]
    pub until_submitted: bool,

    /// Only these processes, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub processes: Vec<String>,

    #[command(flatten)]
    pub provider: ProviderArgs,

    /// sync, or batch: half the price, within a day
    ///
    /// How prompts are carried out: `sync`, each a call of its own, or `batch`, handed over to the
    /// provider's Batch API, at half the price within a day; a provider without one runs `sync` [env:
    /// BATCHWRIGHT_BULK_STRATEGY] [config: llm.bulk_strategy] [default: sync]
    #[arg(long, value_name = "NAME", value_parser = words_for("llm.bulk_strategy"))]
    pub strategy: Option<String>,

    /// Jobs at once, exactly
    ///
    /// [default: as the machine's load allows from queue.min_workers to
    /// queue.max_workers, of one provider at most llm.sync_concurrency]
    #[arg(help_heading = "Pace", short = 'j', long, value_name = "N", value_parser = words_for("llm.sync_concurrency"))]
    pub concurrency: Option<String>,

    /// Requests per minute
    ///
    /// [env: RATE_LIMIT_REQUESTS_PER_MINUTE] [config: llm.requests_per_minute]
    /// [default: learned from the provider's replies, 100 until then]
    #[arg(help_heading = "Pace", long, value_name = "N", value_parser = words_for("llm.requests_per_minute"))]
    pub rpm: Option<String>,

    /// Tokens per minute [env: RATE_LIMIT_TOKENS_PER_MINUTE] [config: llm.tokens_per_minute]
    /// [default: learned]
    #[arg(help_heading = "Pace", long, value_name = "N", value_parser = words_for("llm.tokens_per_minute"),
        hide_short_help = true)]
    pub tpm: Option<String>,

    /// Retries of a job at each provider, unless it brings a number of its own [env:
    /// JOB_QUEUE_MAX_RETRIES] [config: queue.max_retries] [default: 3]
    #[arg(help_heading = "Pace", long, value_name = "N", value_parser = words_for("queue.max_retries"),
        hide_short_help = true)]
    pub max_retries: Option<String>,

    /// The longest wait for one call [env: AI_REQUEST_TIMEOUT] [config: llm.request_timeout]
    /// [default: 600s]
    #[arg(help_heading = "Pace", long, value_name = "TIME", value_parser = words_for("llm.request_timeout"),
        hide_short_help = true)]
    pub timeout: Option<String>,

    /// Folder of the queue and the settings
    ///
    /// [env: BATCHWRIGHT_HOME] [default: the platform's data folder]
    #[arg(help_heading = "Queue", long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// How long calls in flight may go on after Ctrl-C
    #[arg(help_heading = "Queue", long, value_name = "TIME", default_value = "30s", value_parser = seconds,
        hide_short_help = true)]
    pub grace: Duration,

    /// Sync every result to the disk, so that it survives a power loss too
    #[arg(help_heading = "Queue", long, hide_short_help = true)]
    pub fsync: bool,

    /// Print what was done, or the error, as JSON
    ///
    /// One JSON object on standard output, at the end.
    #[arg(help_heading = "Queue", long)]
    pub json: bool,

    #[command(flatten)]
    pub show: ShowArgs,
}

const WORK_HELP: &str = "\
In one terminal, or as a service:
  batchwright work --provider openai --model gpt-5-mini
In another:
  id=$(batchwright submit prompts.jsonl)
  batchwright status $id --watch
  batchwright results $id -o results.jsonl
From cron, doing what is there and no more:
  batchwright work --until-empty --quiet
At half the price: handed over in the evening, collected in the morning:
  batchwright work --strategy batch --until-submitted
  batchwright work --strategy batch --until-empty

Settings (`batchwright config list`) that change are followed at once, without a restart.

Exit codes:
  0 stopped, or nothing left (--until-empty, --until-submitted)
  1 could not run, or could not record
  2 bad usage
  3 nothing left, some jobs failed (--until-empty)
  4 ended early; or a batch is held until you decide, or does not give out results that were paid \
for: the jobs stay on the queue, and the next worker asks at once
  130, 143 interrupted (--until-empty)";

impl WorkArgs {
    /// True when it ends by itself.
    fn ends(&self) -> bool {
        self.until_empty || self.until_submitted
    }
}

/// How often changed settings are looked for.
const LOOK: Duration = Duration::from_millis(300);

pub fn execute(args: &WorkArgs) -> Exit {
    display::start_log(&args.show);
    work(args).unwrap_or_else(|refusal| refusal.end(args.json, args.show.quiet))
}

fn work(args: &WorkArgs) -> Result<Exit, Refusal> {
    let ctx = Context::new().with_grace(args.grace);
    let signals = Signals::watch(&ctx, args.show.quiet)
        .map_err(|e| Refusal::could_not_run(format!("cannot watch for signals: {e}")))?;
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
    note.look(&routes, &queue, &say);
    let failed = |error: Error| Refusal::could_not_run(error.message());
    let board = Arc::new(Board::new(&args.show, &queue).map_err(failed)?);
    let worker = Worker::new(&queue)
        .context(&ctx)
        .notifier(board.clone())
        .processes(processes.clone())
        .until_empty(args.until_empty)
        .until_handed_over(args.until_submitted)
        .on_error(match args.ends() {
            true => ErrorPolicy::StopOnCriticalError,
            false => ErrorPolicy::ContinueOnError,
        });
    let worker = routes.give(pacing.give(worker))?;
    let worker = worker.start().map_err(failed)?;
    let mut on_change = |routes: &Routes| {
        board.say(routes.line());
        note.look(routes, &queue, &|line| board.say(&line));
    };
    let report = follow(
        args,
        worker,
        &mut watch,
        routes,
        &ctx,
        &board,
        &mut on_change,
    )?;
    board.clear();
    let left = Left::of(args, &processes, &queue).map_err(failed)?;
    for result in &report.unsaved {
        display::error("a result could not be recorded; here it is:");
        crate::lines::flush();
        let _ = writeln!(std::io::stderr(), "{result}");
    }
    let mut exit = exit(args, &report, &signals, &left);
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
        left.lines(waited)
            .iter()
            .for_each(|line| display::say(line));
    } else if let Some(stop) = report.stop.as_ref().filter(|_| !ctx.is_cancelled()) {
        display::error(&format!("stopped: {stop}"));
    }
    Ok(exit)
}

/// Waits for the worker's end, and passes on what is set meanwhile.
fn follow(
    args: &WorkArgs,
    worker: RunningWorker,
    watch: &mut SettingsWatch,
    mut routes: Routes,
    ctx: &Context,
    board: &Board,
    on_change: &mut dyn FnMut(&Routes),
) -> Result<WorkerReport, Refusal> {
    let mut known = values(watch.settings());
    let (wake, woken) = bounded::<()>(1);
    let _on_cancel = ctx.on_cancel(move || {
        let _ = wake.try_send(());
    });
    // A provider that is not there yet may come without another setting.
    let (mut pending, mut warned) = (false, None);
    while !worker.is_finished() && !ctx.is_cancelled() {
        if let Ok(()) | Err(RecvTimeoutError::Disconnected) = woken.recv_timeout(LOOK) {
            continue;
        }
        let news = match watch.refresh() {
            Ok(changed) => {
                pending |= changed;
                if !pending {
                    continue;
                }
                let now = values(watch.settings());
                for line in changes(&known, &now) {
                    board.say(&line);
                }
                known = now;
                Pacing::new(args, watch.settings())
                    .map(|pacing| pacing.apply(&worker))
                    .and_then(|()| routes.follow(args, watch.settings(), &worker, ctx))
            }
            Err(error) => Err(Refusal::could_not_run(error.message())),
        };
        match news {
            Ok(changed) => {
                (pending, warned) = (false, None);
                if changed {
                    on_change(&routes);
                }
            }
            // The old settings hold until the new ones make sense.
            Err(refusal) if warned.as_ref() != Some(&refusal.message) => {
                board.say(&format!("the old settings hold: {}", refusal.message));
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

/// What every key comes to.
fn values(settings: &Settings) -> Values {
    let keys = Key::all().iter().map(Key::name);
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

fn exit(args: &WorkArgs, report: &WorkerReport, signals: &Signals, left: &Left) -> Exit {
    match &report.stop {
        _ if !report.unsaved.is_empty() => Exit::CouldNotRun,
        // For a worker that waits for more, being stopped is the end it is made for.
        Some(StopReason::Cancelled) if !args.ends() => Exit::Success,
        Some(StopReason::Cancelled) => signals.exit().unwrap_or(Exit::StoppedEarly),
        Some(StopReason::Fatal(_)) => Exit::CouldNotRun,
        Some(_) => Exit::StoppedEarly,
        // The queue is not empty, and waiting longer would not have made it so.
        None if args.until_empty && left.is_stuck() => Exit::StoppedEarly,
        None if args.until_submitted && report.batches_held > 0 => Exit::StoppedEarly,
        None if report.failed > 0 => Exit::SomeFailed,
        None => Exit::Success,
    }
}
