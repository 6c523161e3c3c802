//! `batchwright exec`: commands in parallel, from scripts or for each line of a list.

mod emit;
mod report;
mod source;

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use batchwright::unstable::Optional;
use batchwright::{Context, Error};
use batchwright_exec::{CommandRunner, Sandbox, SandboxMode};
use parking_lot::Mutex;

use crate::args::exec::ExecArgs;
use crate::display;
use crate::exit::{About, Early, Exit, Refusal};
use crate::logging::is_json;
use crate::settings::data_dir;
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
    let plan_line = report::plan_line(args, &plan, emitter.records_before());
    let lines = [plan_line, wide(args, mode)];
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
        .on_error(args.failures.on_error)
        .timeout(args.pace.timeout)
        .retries(args.failures.retries)
        .max_output(most)
        .sandbox(confined(args)?);
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

/// The sandbox of the commands.
fn confined(exec: &ExecArgs) -> Result<Sandbox, Refusal> {
    let args = &exec.sandbox;
    let is_sh = |program: &OsStr| Path::new(program).file_name() == Some("sh".as_ref());
    if exec.shell && !args.allow.is_empty() && !args.allow.iter().any(|program| is_sh(program)) {
        return Err(Refusal::usage(
            "--shell has sh run each line, which --allow does not name; with sh on the list every \
             program may run, so leave out one of the two",
        ));
    }
    let sandbox = Sandbox::new(args.sandbox).network(args.net);
    let mut sandbox = sandbox.set(args.memory, Sandbox::memory);
    if !args.allow.is_empty() {
        sandbox = sandbox.allow(&args.allow);
    }
    for wish in &args.env {
        sandbox = add_variables(sandbox, wish)?;
    }
    for path in &args.write {
        if !path.exists() {
            let why = format!(
                "--write {}: the file or folder does not exist",
                path.display()
            );
            return Err(Refusal::usage(why));
        }
        sandbox = sandbox.write_to(std::path::absolute(path).unwrap_or_else(|_| path.clone()));
    }
    Ok(sandbox)
}

/// `NAME=VALUE`, or names separated by commas.
fn add_variables(sandbox: Sandbox, wish: &OsStr) -> Result<Sandbox, Refusal> {
    let text = wish.to_str().ok_or_else(|| {
        Refusal::usage("--env: only variables that are UTF-8 can be named; `*` passes all")
    })?;
    if let Some((name, value)) = text.split_once('=') {
        return match name {
            "" => Err(Refusal::usage("--env: write NAME, NAME,NAME or NAME=VALUE")),
            name => Ok(sandbox.set_variable(name, value)),
        };
    }
    let names = text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    Ok(names.fold(sandbox, Sandbox::pass_variable))
}

/// The folders that commands may write to, if these are more than most users want.
fn wide(exec: &ExecArgs, mode: SandboxMode) -> Option<String> {
    if mode == SandboxMode::Off {
        return None;
    }
    let folder = exec.workdir.clone().unwrap_or_else(|| PathBuf::from("."));
    let mut writable = exec.sandbox.write.iter().chain([&folder]);
    let home = env::var_os("HOME").map(|home| (PathBuf::from(home), "your home folder"));
    let data = data_dir();
    let data = data.map(|data| (data, "the data of batchwright itself"));
    let places = [home, data].into_iter().flatten();
    let places: Vec<_> = places
        .filter_map(|(path, what)| Some((path.canonicalize().ok()?, what)))
        .collect();
    writable.find_map(|path| {
        let path = path.canonicalize().ok()?;
        let (_, what) = places.iter().find(|(place, _)| place.starts_with(&path))?;
        Some(format!(
            "commands may write to all of {}, including {what}; use --workdir DIR for a separate folder",
            path.display()
        ))
    })
}

/// What the sandbox forbids, for commands that do not report why they failed.
pub const REMINDER: &str = "in the sandbox, commands have no network (--net), write only below their folder and to TMPDIR \
                            (--write PATH), and get few of your environment variables (--env NAME)";
