//! `batchwright exec`: commands in parallel, from scripts or for each line of a list.

mod emit;
mod report;

use std::env;
use std::ffi::OsStr;
use std::io::{IsTerminal, stdin};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use batchwright::unstable::Optional;
use batchwright::{Context, Error};
use batchwright_exec::{
    CommandJob, CommandRunner, Commands, Finished, Sandbox, SandboxMode, Template,
};
use parking_lot::Mutex;

use crate::args::exec::ExecArgs;
use crate::display;
use crate::exit::{About, Exit, Refusal};
use crate::settings;
use crate::signals::{GRACE, Session};
use crate::stderr::is_json;
use emit::Emitter;
use report::Ended;

pub fn execute(args: &ExecArgs) -> Result<Exit, Refusal> {
    let prints = args.output.is_none() || is_stdin(args.output.as_deref());
    if is_json() && prints && !args.dry_run {
        let why = "--json and the commands would both print to standard output; name a file for their results by -o";
        return Err(Refusal::usage(why));
    }
    // The lock refuses it under two names, too, but says less.
    if args.output.is_some() && args.output == args.joblog {
        let why = "-o and --joblog are the same file; name another for one of them";
        return Err(Refusal::usage(why));
    }
    let runner = runner(args)?;
    let commands = open(args)?;
    let ctx = Context::new().with_grace(GRACE);
    let mut emitter = Emitter::open(args, &ctx)?;
    let plan = check(&commands, emitter.finished())?;
    if args.dry_run {
        return report::dry_run(commands, &plan, emitter.finished());
    }
    let stopping = format!(
        "stopping: running commands have up to {} s to finish; press Ctrl-C again to kill them",
        GRACE.as_secs()
    );
    let session = Session::start(&args.show, ctx, stopping)?;
    let plan_line = report::plan_line(args, &plan, emitter.records_before());
    let lines = [plan_line, wide(args)];
    lines.iter().flatten().for_each(display::note);
    emitter.progress = Some(session.display.clone());
    let runner = runner
        .total(plan.to_run())
        .context(&session.ctx)
        .notifier(session.display.clone());
    let finished = Arc::new(Mutex::new(emitter.finished()));
    let commands = skip(commands, finished.clone());
    let report = runner.run_commands(commands, |record| emitter.take(&record));
    let report = report.map_err(|error| Refusal::usage(error.message()))?;
    emitter.finish();
    session.display.clear();
    let finished = finished.lock();
    let ended = Ended {
        report,
        written: emitter.written,
        records_before: emitter.records_before(),
        skipped: finished.taken,
        failed_before: finished.failed,
        plan,
        failures: emitter.failures,
        trouble: emitter.trouble,
    };
    Ok(report::report(args, &ended, &session))
}

/// The plan of the run.
pub struct Plan {
    /// Number of commands in the input, if it can be read twice.
    pub total: Option<u64>,
    /// The part of these that an earlier run finished.
    pub finished: u64,
    /// The part of these that failed.
    pub failed: u64,
    /// Commands in the log that the input does not have.
    pub foreign: u64,
}

impl Plan {
    pub fn to_run(&self) -> Option<u64> {
        self.total.map(|total| total.saturating_sub(self.finished))
    }
}

fn open(args: &ExecArgs) -> Result<Commands, Refusal> {
    if args.command.is_empty() && args.files.iter().any(|file| separates(file.as_os_str())) {
        return Err(Refusal::usage(
            "arguments follow a command, which follows `--`: batchwright exec -- COMMAND ::: ARGUMENTS",
        ));
    }
    let mut parts = args.command.splitn(2, |word| word == ":::");
    let (template, list) = (parts.next().unwrap_or_default(), parts.next());
    let mut words = template.iter().chain(list.unwrap_or_default());
    if let Some(word) = words.find(|word| separates(word)) {
        return Err(Refusal::usage(format!(
            "`{}` is GNU parallel's for further lists: there is one list, which follows `:::` or comes from \
             FILE or standard input",
            word.display()
        )));
    }
    let commands = if let Some(list) = list {
        if !args.files.is_empty() {
            let why = "arguments come from FILE or follow `:::`, not both";
            return Err(Refusal::usage(why));
        }
        Commands::list(list)
    } else if args.files.is_empty() && stdin().is_terminal() {
        let why =
            "there are no commands: name a FILE, pipe lines in, or add `-- COMMAND ::: ARGUMENTS`";
        return Err(Refusal::usage(why));
    } else {
        let standard = [PathBuf::from("-")];
        let files = match &args.files[..] {
            [] => &standard[..],
            files => files,
        };
        Commands::files(files).map_err(|error| {
            let refusal = unreadable(error);
            let mut files = files.iter();
            let missing = files.any(|file| !is_stdin(Some(file)) && !file.exists());
            refusal.when(missing && args.command.is_empty(), |refusal| {
                refusal.hint("FILE has the commands; a command itself follows `--`")
            })
        })?
    };
    let mut commands = commands.shell(args.shell).nul_separated(args.null);
    if !template.is_empty() {
        let template = if args.shell {
            Template::shell(template)
        } else {
            Template::new(template)
        };
        commands = commands.template(template.map_err(|error| Refusal::usage(error.message()))?);
    }
    Ok(commands)
}

/// Reads inputs that can be read twice, so that nothing runs if a line is not a command.
fn check(commands: &Commands, mut finished: Finished) -> Result<Plan, Refusal> {
    let total = commands.check(|job| {
        finished.take(job);
    });
    let total = total.map_err(unreadable)?;
    Ok(Plan {
        total,
        finished: finished.taken,
        failed: finished.failed,
        foreign: total.map_or(0, |_| finished.left()),
    })
}

/// Commands, without those that an earlier run finished.
pub fn skip(
    commands: Commands,
    finished: Arc<Mutex<Finished>>,
) -> impl Iterator<Item = Result<CommandJob, Error>> + Send + 'static {
    let is_finished = move |job: &CommandJob| finished.lock().take(job);
    let jobs = commands.into_iter();
    jobs.filter(move |job| !job.as_ref().is_ok_and(&is_finished))
}

/// Whether a word separates argument lists for GNU parallel.
fn separates(word: &OsStr) -> bool {
    [":::", "::::", ":::+", "::::+"]
        .iter()
        .any(|known| word == *known)
}

pub fn is_stdin(path: Option<&Path>) -> bool {
    path.is_some_and(|path| path == Path::new("-"))
}

/// `-j` may be more only with a flag that says so, because a slip of the keyboard could otherwise start thousands.
const MOST_AT_ONCE: usize = 10;

fn runner(args: &ExecArgs) -> Result<CommandRunner, Refusal> {
    let at_once = usize::from(args.concurrency);
    if at_once > MOST_AT_ONCE && !args.more_than_10 {
        return Err(Refusal::usage(format!(
            "-j {at_once} is more than {MOST_AT_ONCE} commands at once; to allow that, add --more-than-10"
        )));
    }
    // A result is one line of a file.
    let most = match args.output {
        Some(_) => 1 << 20,
        None => 1 << 30,
    };
    let mut runner = CommandRunner::new()
        .max_concurrency(at_once.max(MOST_AT_ONCE))
        .concurrency(at_once)
        .rate(args.rate)
        .on_error(args.on_error)
        .timeout(args.timeout)
        .retries(args.retries)
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

/// The error for commands that cannot be read, or are invalid.
fn unreadable(error: Error) -> Refusal {
    Refusal::usage(error.message()).about(About::Input)
}

/// The sandbox of the commands.
fn confined(args: &ExecArgs) -> Result<Sandbox, Refusal> {
    let is_sh = |program: &OsStr| Path::new(program).file_name() == Some("sh".as_ref());
    if args.shell && !args.allow.is_empty() && !args.allow.iter().any(|program| is_sh(program)) {
        return Err(Refusal::usage(
            "--shell has sh run each line, which --allow does not name; with sh on the list every \
             program may run, so leave out one of the two",
        ));
    }
    let sandbox = Sandbox::new(args.sandbox).network(args.net).adopts(true);
    let sandbox = sandbox.set(settings::data_dir(), Sandbox::hidden);
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
fn add_variables(sandbox: Sandbox, wish: &str) -> Result<Sandbox, Refusal> {
    if let Some((name, value)) = wish.split_once('=') {
        return match name {
            "" => Err(Refusal::usage("--env: write NAME, NAME,NAME or NAME=VALUE")),
            name => Ok(sandbox.set_variable(name, value)),
        };
    }
    let names = wish
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    Ok(names.fold(sandbox, Sandbox::pass_variable))
}

/// The folder that commands may write to, if it is more than most users want.
fn wide(args: &ExecArgs) -> Option<String> {
    let home = PathBuf::from(env::var_os("HOME")?).canonicalize().ok()?;
    let folder = args.workdir.clone().unwrap_or_else(|| PathBuf::from("."));
    let writable = args.write.iter().chain([&folder]);
    let mut writable = writable.filter_map(|path| path.canonicalize().ok());
    let path = writable.find(|path| args.sandbox != SandboxMode::Off && home.starts_with(path))?;
    Some(format!(
        "commands may write to all of {}, including your home folder; use --workdir DIR for a separate folder",
        path.display()
    ))
}

/// What the sandbox forbids, for commands that do not report why they failed.
pub const REMINDER: &str = "in the sandbox, commands have no network (--net), write only below their folder and to TMPDIR \
                            (--write PATH), and get few of your environment variables (--env NAME)";
