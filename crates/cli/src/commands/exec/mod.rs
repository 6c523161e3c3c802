//! `batchwright exec`: commands in parallel, from scripts or for each line of a list.

mod emit;
mod report;
mod sandbox;
mod source;

use std::sync::Arc;

use batchwright::{Context, Error};
use batchwright_exec::CommandRunner;
use parking_lot::Mutex;

use crate::args::exec::ExecArgs;
use crate::display;
use crate::exit::{About, Early, Exit, Refusal};
use crate::logging::is_json;
use crate::signals::{GRACE, Session};
use emit::Emitter;
use report::Ended;

pub fn execute(args: &ExecArgs) -> Result<Exit, Early> {
    let results = &args.results;
    if is_json() && source::is_stdin(results.output.as_deref()) {
        let why = "--json and -o - would both print to standard output; name a file by -o";
        return Err(Refusal::usage(why).into());
    }
    // The lock refuses it under two names, too, but says less.
    if results.output.is_some() && results.output == results.joblog {
        let why = "-o and --joblog are the same file; name another for one of them";
        return Err(Refusal::usage(why).into());
    }
    let mode = args.sandbox.sandbox;
    let runner = runner(args)?;
    let commands = source::open(args)?;
    let ctx = Context::new().with_grace(GRACE);
    let mut emitter = Emitter::open(args, &ctx)?;
    let plan = source::check(&commands, emitter.finished())?;
    if args.results.dry_run {
        return Ok(report::dry_run(commands, &plan, emitter.finished())?);
    }
    let session = Session::start(&args.show, ctx, stopping_line())?;
    let missing = report::missing_line(args, &plan, emitter.records_before());
    let lines = [
        report::plan_line(args, &plan),
        missing,
        sandbox::wide(args, mode),
    ];
    lines.iter().flatten().for_each(display::note);
    emitter.shares_terminal_with(&session.display);
    let runner = runner
        .total(plan.to_run())
        .context(&session.ctx)
        .notifier(session.display.clone());
    let finished = Arc::new(Mutex::new(emitter.finished()));
    let commands = source::skip(commands, finished.clone());
    let report = runner.run_commands(commands, |record| emitter.take(&record));
    let report = report.map_err(unusable)?;
    emitter.finish();
    session.display.clear();
    let finished = finished.lock();
    let ended = Ended {
        report,
        skipped: finished.taken(),
        failed_before: finished.failed(),
        plan,
        failures: emitter.failures,
        trouble: emitter.trouble,
    };
    Ok(report::report(args, &ended, &session))
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
    // A result is one line of a file.
    let most = match args.results.output {
        Some(_) => 1 << 20,
        None => 1 << 30,
    };
    let mut runner = CommandRunner::new()
        .max_concurrency(at_once.max(MOST_AT_ONCE))
        .concurrency(at_once)
        .rate(args.pace.rate)
        .on_error(args.failures.on_error.policy())
        .timeout(args.pace.timeout)
        .retries(args.failures.retries)
        .max_output(most)
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
fn stopping_line() -> String {
    format!(
        "stopping: running commands have up to {} s to finish; press Ctrl-C again to kill them",
        GRACE.as_secs()
    )
}

/// The error for commands that cannot be read, or are invalid.
fn unreadable(error: Error) -> Refusal {
    Refusal::usage(error.message()).about(About::Input)
}

fn unusable(error: Error) -> Refusal {
    Refusal::usage(error.message())
}
