//! `batchwright exec`: commands in parallel, from scripts or for each line of a list.

mod emit;
mod report;
mod sandbox;
mod source;

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use batchwright::{Context, Error};
use batchwright_exec::{CommandRunner, OnStop, Overflow};

use crate::args::exec::{ExecArgs, OnStopArg};
use crate::display::Display;
use crate::exit::{About, Early, Exit, Refusal};
use crate::session::{GRACE, Session};
use emit::Emitter;
use report::Ended;
use source::Source;

pub fn execute(args: &ExecArgs) -> Result<Exit, Early> {
    refuse_contradictions(args)?;
    let mode = args.sandbox.sandbox;
    let runner = runner(args)?;
    let source = Source::open(args)?;
    let ctx = Context::new().with_grace(GRACE);
    let mut emitter = Emitter::open(args, &ctx)?;
    let plan = source.check(emitter.finished())?;
    if args.results.dry_run {
        return Ok(report::dry_run(args, source, &plan, emitter.finished())?);
    }
    let mut session = Session::start(&args.show, ctx, stopping_line(args))?;
    session.display = Arc::new(Display::new(&args.show).with_line(report::progress_line));
    if let Some(line) = report::plan_line(args, &plan) {
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

/// `-j` may be more only with a flag that says so, because a slip of the keyboard could otherwise start thousands.
const MOST_AT_ONCE: usize = 10;

fn runner(args: &ExecArgs) -> Result<CommandRunner, Refusal> {
    let at_once = args.pace.concurrency;
    if at_once > MOST_AT_ONCE && !args.pace.more_than_10 {
        return Err(Refusal::usage(format!(
            "-j {at_once} is more than {MOST_AT_ONCE} commands at once; to allow that, add --more-than-10"
        )));
    }
    let results = &args.results;
    let most = if results.output.is_some() {
        1 << 20
    } else {
        1 << 30
    };
    let mut runner = CommandRunner::new()
        .max_concurrency(at_once.max(MOST_AT_ONCE))
        .concurrency(at_once)
        .rate(args.pace.rate)
        .on_error(args.failures.on_error.policy())
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
        .sandbox(sandbox::sandbox(args)?);
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
            GRACE.as_secs()
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
