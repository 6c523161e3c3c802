//! `batchwright exec`: commands in parallel, from scripts or for each line of a list.

mod emit;
mod report;
mod sandbox;
mod source;

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use batchwright::{Context, Error, Settings};
use batchwright_exec::{CommandRunner, OnStop, Overflow, SandboxMode};
use clap::ValueEnum as _;

use crate::args::exec::{ExecArgs, OnStopArg};
use crate::args::run::OnError;
use crate::display::Display;
use crate::exit::{About, Early, Exit, Refusal};
use crate::session::Session;
use crate::settings::{self, refused};
use emit::Emitter;
use report::Ended;
use source::Source;

pub fn execute(args: &ExecArgs) -> Exit {
    args.show.say.start_log();
    run(args).unwrap_or_else(|early| early.end(args.results.json, args.show.say.quiet))
}

fn run(args: &ExecArgs) -> Result<Exit, Early> {
    refuse_contradictions(args)?;
    let settings = settings(args)?;
    let mode = settings.exec_sandbox().map_err(refused)?;
    let mode = SandboxMode::parse(&mode).unwrap_or_default();
    let runner = runner(args, &settings, mode)?;
    let source = Source::open(args)?;
    let ctx = Context::new().with_grace(args.pace.grace);
    let mut emitter = Emitter::open(args, &ctx)?;
    let plan = source.check(emitter.finished())?;
    if args.results.dry_run {
        return Ok(report::dry_run(args, source, &plan, emitter.finished())?);
    }
    let mut session = Session::start(&args.show, ctx, stopping_line(args))?;
    session.display = Arc::new(Display::new(&args.show).with_line(report::progress_line));
    if let Some(line) = report::plan_line(&plan) {
        session.say(line);
    }
    if let Some(line) = sandbox::wide(args, mode) {
        session.say(line);
    }
    emitter.shares_terminal_with(&session.display);
    let runner = runner
        .total(plan.to_run())
        .context(&session.ctx)
        .notifier(session.display.clone())
        .keep_order(emitter.reorders());
    // Reads the files a second time, to count the commands that remain if a run ends early.
    let rest = plan.total.map(|_| Source::open(args)).transpose()?;
    let skip = source.skip(emitter.finished());
    let shared = RefCell::new(emitter);
    let report = runner.run_source(
        skip.jobs,
        |record| shared.borrow_mut().ended(record),
        |record| shared.borrow_mut().take(&record),
    );
    let mut emitter = shared.into_inner();
    let report = report.map_err(unusable)?;
    let not_read = match (&report.stop, rest) {
        (Some(stop), Some(rest)) => emitter.take_rest(rest, stop, &session.ctx),
        _ => 0,
    };
    emitter.finish();
    session.display.clear();
    let ended = Ended {
        report,
        not_read,
        skipped: skip.skipped.load(Ordering::Relaxed),
        failed_before: skip.failed.load(Ordering::Relaxed),
        plan,
        confined: sandbox::reminder(args, mode),
        failures: emitter.failures,
        trouble: emitter.trouble,
    };
    Ok(report::report(args, &ended, &session))
}

fn refuse_contradictions(args: &ExecArgs) -> Result<(), Refusal> {
    let results = &args.results;
    let why = if results.json && source::is_stdin(results.output.as_deref()) {
        "--json and -o - would both print to standard output; name a file by -o"
    } else if is_same_file(results.output.as_deref(), results.joblog.as_deref()) {
        "-o and --joblog are the same file; name another for one of them"
    } else if results.output.is_some() && results.max_output > Some(MOST_IN_RESULT) {
        "--max-output: results (-o) have at most 16M of each output"
    } else {
        return Ok(());
    };
    Err(Refusal::usage(why))
}

/// Maximum size of an output in a result, which is one line of a file.
const MOST_IN_RESULT: u64 = 16 * 1024 * 1024;

/// Whether both name the same file, which need not exist; devices and pipes do not count.
fn is_same_file(a: Option<&Path>, b: Option<&Path>) -> bool {
    let place = |path: Option<&Path>| {
        let path = path.filter(|path| path.metadata().map_or(true, |found| found.is_file()))?;
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let named = || Some(folder.canonicalize().ok()?.join(path.file_name()?));
        path.canonicalize().ok().or_else(named)
    };
    place(a).is_some_and(|a| place(b) == Some(a))
}

fn settings(args: &ExecArgs) -> Result<Settings, Refusal> {
    let pace = &args.pace;
    let on_error = args.failures.on_error;
    let on_error = on_error.and_then(|policy| policy.to_possible_value());
    let on_error = on_error.map(|policy| policy.get_name().to_owned());
    let settings = settings::settings(pace.data_dir.as_deref())?;
    let flags = [
        ("exec.concurrency", "--concurrency", &pace.concurrency),
        ("exec.rate", "--rate", &pace.rate),
        ("exec.on_error", "--on-error", &on_error),
        ("exec.sandbox", "--sandbox", &args.sandbox.sandbox),
    ];
    settings::with_flags(settings, &flags)
}

fn runner(
    args: &ExecArgs,
    settings: &Settings,
    mode: SandboxMode,
) -> Result<CommandRunner, Refusal> {
    let on_error = settings.exec_on_error().map_err(refused)?;
    let policy = OnError::from_str(&on_error, false)
        .unwrap_or(OnError::Continue)
        .policy();
    let results = &args.results;
    let most = if results.output.is_some() {
        1 << 20
    } else {
        1 << 30
    };
    let mut runner = CommandRunner::new()
        .max_concurrency(settings.exec_max_concurrency().map_err(refused)?)
        .concurrency(settings.exec_concurrency().map_err(refused)?)
        .rate(settings.exec_rate().map_err(refused)?)
        .on_error(policy)
        .on_stop(match args.failures.on_stop {
            OnStopArg::Finish => OnStop::Finish,
            OnStopArg::Kill => OnStop::Kill,
        })
        .critical_exits(
            args.failures
                .critical_exit
                .iter()
                .map(|code| i32::from(*code)),
        )
        .timeout(args.pace.timeout)
        .retries(args.failures.retries)
        .retry_delay(args.failures.retry_delay)
        .overflow(Overflow::Temporary)
        .max_output(results.max_output.unwrap_or(most))
        .sandbox(sandbox::sandbox(args, mode)?);
    if let Some(folder) = &args.workdir {
        if !folder.is_dir() {
            let why = format!("--workdir {}: the folder does not exist", folder.display());
            return Err(Refusal::usage(why));
        }
        runner = runner.current_dir(folder);
    }
    Ok(runner)
}

/// The message after the first signal.
fn stopping_line(args: &ExecArgs) -> String {
    match args.failures.on_stop {
        OnStopArg::Kill => "stopping: running commands are killed".to_owned(),
        OnStopArg::Finish => format!(
            "stopping: running commands have up to {} s to finish; press Ctrl-C again to kill them",
            args.pace.grace.as_secs()
        ),
    }
}

/// The error for commands that cannot be read, or are invalid.
fn unreadable(error: Error) -> Refusal {
    Refusal::usage(error.message()).about(About::Input)
}

fn unusable(error: Error) -> Refusal {
    Refusal::usage(error.message())
}
