//! `batchwright work`: a worker of the queue in the foreground.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use batchwright::{
    Context, Durability, ErrorPolicy, JobQueue, Limits, Phase, ProcessId, Progress,
    ProgressNotifier, RetryPolicy, Route, RunningWorker, Scale, Settings, SettingsWatch,
    SqliteOptions, StopReason, Worker, WorkerReport,
};
use clap::Args;
use crossbeam_channel::{RecvTimeoutError, bounded};

use super::args::{ProviderArgs, ShowArgs};
use super::data_dir::data_dir;
use super::display::{self, Display, count};
use super::exit::{Exit, Refusal};
use super::provider::{self, Asked, Chosen};
use super::run::limits;
use super::settings::{refused, store, words_for};
use super::signals::Signals;
use super::values::seconds;

/// Run the queue's worker
///
/// It carries out the jobs that `batchwright submit` and other programs put on the queue, until it is
/// stopped: Ctrl-C lets the calls in flight end. Any number of workers share a queue; when one dies the
/// others take over its jobs at once. A provider that refuses the key or cannot be reached fails no
/// job: they wait, and it is asked again.
#[derive(Debug, Args)]
#[command(after_long_help = WORK_HELP)]
pub struct WorkArgs {
    /// End when nothing is left to do, for cron and scripts; end early, too, when the provider refuses
    /// everybody or cannot be reached
    #[arg(long)]
    pub until_empty: bool,

    /// Take the jobs of these processes alone, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub processes: Vec<ProcessId>,

    #[command(flatten)]
    pub provider: ProviderArgs,

    /// Jobs at once, exactly [default: as the machine's load allows from queue.min_workers to
    /// queue.max_workers, of one provider at most llm.sync_concurrency]
    #[arg(help_heading = "Pace", short = 'j', long, value_name = "N", value_parser = words_for("llm.sync_concurrency"))]
    pub concurrency: Option<String>,

    /// Requests per minute [env: RATE_LIMIT_REQUESTS_PER_MINUTE] [config: llm.requests_per_minute]
    /// [default: learned from the provider's replies, 100 until then]
    #[arg(help_heading = "Pace", long, value_name = "N", value_parser = words_for("llm.requests_per_minute"))]
    pub rpm: Option<String>,

    /// Tokens per minute [env: RATE_LIMIT_TOKENS_PER_MINUTE] [config: llm.tokens_per_minute]
    /// [default: learned]
    #[arg(help_heading = "Pace", long, value_name = "N", value_parser = words_for("llm.tokens_per_minute"))]
    pub tpm: Option<String>,

    /// Retries of a job at each provider, unless it brings a number of its own [env:
    /// JOB_QUEUE_MAX_RETRIES] [config: queue.max_retries] [default: 3]
    #[arg(help_heading = "Pace", long, value_name = "N", value_parser = words_for("queue.max_retries"))]
    pub max_retries: Option<String>,

    /// The longest wait for one call [env: AI_REQUEST_TIMEOUT] [config: llm.request_timeout]
    /// [default: 600s]
    #[arg(help_heading = "Pace", long, value_name = "TIME", value_parser = words_for("llm.request_timeout"))]
    pub timeout: Option<String>,

    /// Folder of the queue and the settings [env: BATCHWRIGHT_HOME] [default: the platform's data
    /// folder]
    #[arg(help_heading = "Pace", long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// How long calls in flight may go on after Ctrl-C
    #[arg(help_heading = "Pace", long, value_name = "TIME", default_value = "30s", value_parser = seconds)]
    pub grace: Duration,

    /// Sync every result to the disk, so that it survives a power loss too
    #[arg(help_heading = "Pace", long)]
    pub fsync: bool,

    /// Print what was done as JSON on standard output at the end
    #[arg(long)]
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

Settings (`batchwright config list`) that change are followed at once, without a restart.

Exit codes:
  0 stopped, or nothing left (--until-empty)   3 nothing left, some jobs failed (--until-empty)
  1 could not run, or could not record         4 ended early; the jobs stay on the queue
  2 bad usage                                  130, 143 interrupted (--until-empty)";

/// How often changed settings are looked for.
const LOOK: Duration = Duration::from_millis(300);
/// Requests a minute where none are set and a provider tells none.
const UNTOLD_RPM: f64 = 100.0;

pub fn execute(args: &WorkArgs) -> Exit {
    display::start_log(&args.show);
    work(args).unwrap_or_else(|refusal| {
        display::error(&refusal.message);
        refusal.exit
    })
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
    let mut setup = Setup::new(args, watch.settings(), &ctx, &say)?;
    if ctx.is_cancelled() {
        return Ok(signals.exit().unwrap_or(Exit::CouldNotRun));
    }
    let options = SqliteOptions::default().durability(match args.fsync {
        true => Durability::Full,
        false => Durability::Normal,
    });
    let queue = JobQueue::open_with(&folder.join("llm_jobs.db"), options)
        .map_err(|error| Refusal::could_not_run(error.message()))?;
    say(setup.line.clone());
    let board = Arc::new(Board::new(args));
    let worker = setup
        .start(args, &queue, &ctx, board.clone())
        .map_err(|error| Refusal::could_not_run(error.message()))?;
    let report = follow(args, worker, &mut watch, setup, &ctx, &say)?;
    board.display.clear();
    for result in &report.unsaved {
        display::error("a result could not be recorded; here it is:");
        let _ = writeln!(std::io::stderr(), "{result}");
    }
    if args.json {
        print_json(&report);
    }
    if !args.show.quiet {
        display::say(&summary(&report));
    } else if let Some(stop) = report.stop.as_ref().filter(|_| !ctx.is_cancelled()) {
        display::error(&format!("stopped: {stop}"));
    }
    Ok(exit(args, &report, &signals))
}

/// Waits for the worker's end, and passes on what is set meanwhile.
fn follow(
    args: &WorkArgs,
    worker: RunningWorker,
    watch: &mut SettingsWatch,
    mut setup: Setup,
    ctx: &Context,
    say: &dyn Fn(String),
) -> Result<WorkerReport, Refusal> {
    let (wake, woken) = bounded::<()>(1);
    let _on_cancel = ctx.on_cancel(move || {
        let _ = wake.try_send(());
    });
    let mut warned = None;
    while !worker.is_finished() && !ctx.is_cancelled() {
        if let Ok(()) | Err(RecvTimeoutError::Disconnected) = woken.recv_timeout(LOOK) {
            continue;
        }
        let news = match watch.refresh() {
            Ok(false) => continue,
            Ok(true) => Setup::new(args, watch.settings(), ctx, &|_| {}),
            Err(error) => Err(Refusal::could_not_run(error.message())),
        };
        match news {
            Ok(news) => {
                warned = None;
                setup = news.replace(setup, &worker, say);
            }
            // The old settings hold until the new ones make sense.
            Err(refusal) if warned.as_ref() != Some(&refusal.message) => {
                say(format!("settings stay as they were: {}", refusal.message));
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

/// The settings of this data folder and environment beneath the flags, and their later changes.
fn settings(args: &WorkArgs) -> Result<SettingsWatch, Refusal> {
    let settings = Settings::new().environment(|name| std::env::var(name).ok());
    let mut settings = provider::with_flags(settings, &args.provider)?;
    for (key, flag, words) in [
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

/// What the settings come to.
struct Setup {
    completions: Option<Route<'static>>,
    embeddings: Option<Route<'static>>,
    /// What the routes were made of: as long as it stays the same, so do they.
    routes_of: String,
    retry: RetryPolicy,
    scale: Scale,
    max_retries: u8,
    batch: usize,
    poll: Duration,
    /// For people.
    line: String,
}

impl Setup {
    fn new(
        args: &WorkArgs,
        settings: &Settings,
        ctx: &Context,
        say: &dyn Fn(String),
    ) -> Result<Self, Refusal> {
        let asked = Asked {
            provider: &args.provider,
            embed: false,
            // Jobs that name no model and find no default fail one by one, with a clear word.
            unnamed: Some(0),
        };
        let chosen = provider::choose(&asked, settings, say)?;
        if chosen.fell_to_extract() {
            return Err(Refusal::could_not_run(
                "no model can be asked, see batchwright providers; to have jobs answered with the \
                 beginning of their own text, name --provider extract",
            ));
        }
        let chosen = chosen.once_loaded(ctx, say)?;
        let line = Self::route(&chosen, settings, args)?.1;
        let max_retries = settings.max_retries().map_err(refused)?;
        let retry = RetryPolicy::default()
            .max_retries(max_retries)
            .fall_back_when_blocked(args.provider.fallback_blocked);
        let route = |embeds: bool| -> Result<_, Refusal> {
            let (route, _) = Self::route(&chosen, settings, args)?;
            Ok((!embeds || chosen.embeds()).then(|| route.retry(retry)))
        };
        Ok(Self {
            completions: route(false)?,
            embeddings: route(true)?,
            routes_of: routes_of(settings)?,
            retry,
            scale: scale(args, settings)?,
            max_retries,
            batch: settings.batch_size().map_err(refused)?,
            poll: settings.poll_interval().map_err(refused)?,
            line,
        })
    }

    fn route(
        chosen: &Chosen,
        settings: &Settings,
        args: &WorkArgs,
    ) -> Result<(Route<'static>, String), Refusal> {
        let clients = chosen.clients()?;
        let line = chosen.line(&clients);
        let calls = u32::try_from(clients.concurrency).unwrap_or(u32::MAX);
        let shares = chosen.shares_limits();
        let assumed = |limits: Limits| match shares {
            true => limits.assume_requests_per_minute(UNTOLD_RPM),
            false => limits,
        };
        let first = assumed(limits(settings)?).in_flight(calls);
        let mut route = Route::limited(clients.first, first);
        if let Some(folder) = data_dir(args.data_dir.as_deref()).filter(|_| shares) {
            route = route.share_limits(&folder.join("quotas"));
        }
        for (fallback, limits) in clients.fallbacks {
            route = route.then(fallback, assumed(limits));
        }
        Ok((route, line))
    }

    fn start(
        &mut self,
        args: &WorkArgs,
        queue: &JobQueue,
        ctx: &Context,
        board: Arc<Board>,
    ) -> Result<RunningWorker, batchwright::Error> {
        let mut worker = Worker::new(queue)
            .context(ctx)
            .notifier(board)
            .retry(self.retry)
            .max_retries(self.max_retries)
            .scale(self.scale)
            .batch_size(self.batch)
            .poll_interval(self.poll)
            .processes(args.processes.clone())
            .until_empty(args.until_empty)
            .on_error(match args.until_empty {
                true => ErrorPolicy::StopOnCriticalError,
                false => ErrorPolicy::ContinueOnError,
            });
        if let Some(route) = self.completions.take() {
            worker = worker.completions(route);
        }
        if let Some(route) = self.embeddings.take() {
            worker = worker.embeddings(route);
        }
        worker.start()
    }

    /// Takes the place of an older one in a worker that runs.
    fn replace(mut self, old: Self, worker: &RunningWorker, say: &dyn Fn(String)) -> Self {
        worker.set_scale(self.scale);
        worker.set_max_retries(self.max_retries);
        worker.set_batch_size(self.batch);
        worker.set_poll_interval(self.poll);
        if self.routes_of == old.routes_of {
            return self;
        }
        say(format!("settings changed: {}", self.line));
        if let Some(route) = self.completions.take() {
            worker.set_completions(route);
        }
        if let Some(route) = self.embeddings.take() {
            worker.set_embeddings(route);
        }
        self
    }
}

/// All that a route is made of, in words.
fn routes_of(settings: &Settings) -> Result<String, Refusal> {
    let keys = [
        "llm.provider",
        "llm.model",
        "llm.fallback",
        "llm.fallback_enabled",
        "llm.sync_concurrency",
        "llm.request_timeout",
        "llm.requests_per_minute",
        "llm.tokens_per_minute",
        "llm.burst_size",
        "queue.max_retries",
    ];
    let words = keys.map(|key| settings.explain(key).map(|setting| setting.value));
    let words: Result<Vec<_>, _> = words.into_iter().collect();
    Ok(format!("{:?}", words.map_err(refused)?))
}

fn scale(args: &WorkArgs, settings: &Settings) -> Result<Scale, Refusal> {
    if args.concurrency.is_some() {
        let slots = settings.sync_concurrency().map_err(refused)?;
        return Ok(Scale::fixed(slots.unwrap_or(1)));
    }
    let most = settings.max_concurrent_requests().map_err(refused)?;
    let slots = |n: usize| n.min(most).max(1);
    Ok(Scale::default()
        .slots(
            slots(settings.min_workers().map_err(refused)?),
            slots(settings.worker_count().map_err(refused)?),
            slots(settings.max_workers().map_err(refused)?),
        )
        .cpu_percent(settings.max_cpu_percent().map_err(refused)?.into())
        .memory_percent(settings.max_memory_percent().map_err(refused)?.into()))
}

/// Where all processes stand together, for people.
struct Board {
    display: Display,
    quiet: bool,
    seen: Mutex<HashMap<ProcessId, Progress>>,
}

impl Board {
    fn new(args: &WorkArgs) -> Self {
        Self {
            display: Display::new(&args.show),
            quiet: args.show.quiet,
            seen: Mutex::default(),
        }
    }
}

impl ProgressNotifier for Board {
    fn on_progress(&self, progress: &Progress) {
        let (Some(id), Ok(mut seen)) = (progress.process_id, self.seen.lock()) else {
            return;
        };
        let known = seen.contains_key(&id);
        if progress.phase == Phase::Finished {
            seen.remove(&id);
            // What was finished before this worker began is no news.
            if known && !self.quiet {
                self.display.say(&finished(progress));
            }
        } else {
            seen.insert(id, progress.clone());
        }
        let mut all = seen.values();
        let Some(mut sum) = all.next().cloned() else {
            return self.display.clear();
        };
        for one in all {
            sum.total = sum.total.zip(one.total).map(|(a, b)| a + b);
            sum.completed += one.completed;
            sum.failed += one.failed;
            sum.cancelled += one.cancelled;
            sum.in_flight += one.in_flight;
            sum.rate += one.rate;
            sum.input_tokens += one.input_tokens;
            sum.output_tokens += one.output_tokens;
            sum.trouble = sum.trouble.take().or(one.trouble.clone());
        }
        let done = sum.completed + sum.failed + sum.cancelled;
        let total = sum.total.unwrap_or(done);
        let left = total.saturating_sub(done);
        sum.percent = (total > 0).then(|| done as f64 * 100.0 / total as f64);
        sum.eta =
            (sum.rate > 0.0).then(|| Duration::from_secs_f64((left as f64 / sum.rate).min(1e9)));
        self.display.on_progress(&sum);
    }
}

fn finished(progress: &Progress) -> String {
    let id = progress
        .process_id
        .map_or_else(String::new, |id| id.to_string());
    let mut line = format!("{id} is finished: {} done", count(progress.completed));
    for (n, what) in [
        (progress.failed, "failed"),
        (progress.cancelled, "cancelled"),
    ] {
        if n > 0 {
            line.push_str(&format!(", {} {what}", count(n)));
        }
    }
    line.push_str(&format!("; batchwright results {id}"));
    line
}

fn summary(report: &WorkerReport) -> String {
    let mut line = format!("{} done", count(report.completed));
    for (n, what) in [
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

fn print_json(report: &WorkerReport) {
    let stop = report.stop.as_ref().map(ToString::to_string);
    let line = serde_json::json!({
        "completed": report.completed,
        "failed": report.failed,
        "given_back": report.given_back,
        "calls": report.calls,
        "retries": report.retries,
        "rate_limited": report.rate_limited,
        "possibly_paid_twice": report.possibly_paid_twice,
        "stop": stop,
    });
    // Its reader may have gone, which is no fault of the jobs.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn exit(args: &WorkArgs, report: &WorkerReport, signals: &Signals) -> Exit {
    match &report.stop {
        _ if !report.unsaved.is_empty() => Exit::CouldNotRun,
        // For a worker that waits for more, being stopped is the end it is made for.
        Some(StopReason::Cancelled) if !args.until_empty => Exit::Success,
        Some(StopReason::Cancelled) => signals.exit().unwrap_or(Exit::StoppedEarly),
        Some(StopReason::Fatal(_)) => Exit::CouldNotRun,
        Some(_) => Exit::StoppedEarly,
        None if report.failed > 0 => Exit::SomeFailed,
        None => Exit::Success,
    }
}
