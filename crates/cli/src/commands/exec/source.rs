//! The source of the commands: files, standard input, or a template for each of their lines.

use std::ffi::OsStr;
use std::io::{IsTerminal, stdin};
use std::path::Path;
use std::sync::Arc;

use batchwright::Error;
use batchwright::unstable::Optional;
use batchwright_exec::{CommandJob, Commands, Finished, Template};
use parking_lot::Mutex;

use super::unreadable;
use crate::args::exec::ExecArgs;
use crate::exit::Refusal;

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

pub fn open(args: &ExecArgs) -> Result<Commands, Refusal> {
    if args.command.is_empty() && args.files.iter().any(|file| separates(file.as_os_str())) {
        return Err(Refusal::usage(
            "arguments follow a command, which follows `--`: batchwright exec -- COMMAND ::: ARGUMENTS",
        ));
    }
    let (template, list) = divide(&args.command);
    let words = template.iter().chain(list.iter().flatten());
    if let Some(word) = words.copied().find(|word| separates(word)) {
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
    } else if args.files.is_empty() {
        if stdin().is_terminal() {
            let why = "there are no commands: name a FILE, pipe lines in, or add `-- COMMAND ::: ARGUMENTS`";
            return Err(Refusal::usage(why));
        }
        Commands::stdin()
    } else {
        Commands::files(&args.files).map_err(|error| {
            let refusal = unreadable(error);
            let missing = args
                .files
                .iter()
                .any(|file| !is_stdin(Some(file)) && !file.exists());
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
pub fn check(commands: &Commands, mut finished: Finished) -> Result<Plan, Refusal> {
    let total = commands.check(|job| {
        finished.take(job);
    });
    let total = total.map_err(unreadable)?;
    Ok(Plan {
        total,
        finished: finished.taken(),
        failed: finished.failed(),
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

/// The template, and the arguments that follow it.
fn divide<W: AsRef<OsStr>>(command: &[W]) -> (Vec<&OsStr>, Option<Vec<&OsStr>>) {
    let words = || command.iter().map(AsRef::as_ref);
    match words().position(|word| word == ":::") {
        Some(at) => (
            words().take(at).collect(),
            Some(words().skip(at + 1).collect()),
        ),
        None => (words().collect(), None),
    }
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
