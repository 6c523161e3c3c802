//! What the commands around the queue share: where it is, and which process is meant.

use std::path::{Path, PathBuf};

use batchwright::{Error, JobQueue, ProcessId, ProcessState};
use clap::Args;

use super::args::{ShowArgs, When};
use super::data_dir::data_dir;
use super::display;
use super::exit::{About, Refusal};
use super::summary::quoted;

/// Where the queue is.
#[derive(Debug, Args)]
pub struct DataArgs {
    /// Folder of the queue
    ///
    /// The queue is the file `llm_jobs.db` in it [env: BATCHWRIGHT_HOME] [default: the platform's
    /// data folder]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// How much is said.
#[derive(Debug, Args)]
pub struct SayArgs {
    /// Say nothing but errors
    #[arg(short, long)]
    pub quiet: bool,

    /// Say more; -vv says much more
    ///
    /// Bodies and keys are never logged.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

impl SayArgs {
    pub fn start_log(&self) {
        display::start_log(&ShowArgs {
            progress: When::Never,
            quiet: self.quiet,
            verbose: self.verbose,
        });
    }

    /// Says a line unless told to be quiet.
    pub fn say(&self, line: &str) {
        if !self.quiet {
            display::say(line);
        }
    }
}

impl DataArgs {
    /// The folder.
    pub fn folder(&self) -> Result<PathBuf, Refusal> {
        data_dir(self.data_dir.as_deref()).ok_or_else(|| {
            Refusal::usage(
                "there is no data folder here: name one by --data-dir or BATCHWRIGHT_HOME",
            )
        })
    }

    /// The database, which may not be there yet.
    pub fn database(&self) -> Result<PathBuf, Refusal> {
        Ok(self.folder()?.join("llm_jobs.db"))
    }

    /// Opens the queue, which is made if there is none.
    pub fn open(&self) -> Result<JobQueue, Refusal> {
        open(&self.database()?)
    }

    /// Opens the queue if there is one.
    pub fn existing(&self) -> Result<Option<JobQueue>, Refusal> {
        let path = self.database()?;
        match path.exists() {
            true => open(&path).map(Some),
            false => Ok(None),
        }
    }

    /// Opens the queue and finds the process that is meant: by its id, or by the beginning of one.
    pub fn process(&self, named: &str) -> Result<(JobQueue, ProcessState), Refusal> {
        let unknown = || {
            Refusal::usage(format!(
                "there is no process {named} in {}; it may have been deleted, or all its results \
                 taken. To see those there are: {}",
                self.database().unwrap_or_default().display(),
                self.command("status")
            ))
            .about(About::Queue)
        };
        let queue = self.existing()?.ok_or_else(|| {
            let path = self.database().unwrap_or_default();
            let path = path.display();
            Refusal::usage(format!(
                "there is no process {named}, nor any queue: no {path}"
            ))
            .about(About::Queue)
        })?;
        let process = match named.parse::<ProcessId>() {
            Ok(id) => queue.process(id).map_err(failed)?,
            Err(error) => begins(&queue, named, &error)?,
        };
        Ok((queue, process.ok_or_else(unknown)?))
    }

    /// A command on this queue, ready to be pasted into a shell.
    pub fn command(&self, words: &str) -> String {
        match &self.data_dir {
            Some(folder) => {
                let folder = quoted(&folder.to_string_lossy());
                format!("batchwright {words} --data-dir {folder}")
            }
            None => format!("batchwright {words}"),
        }
    }
}

fn open(path: &Path) -> Result<JobQueue, Refusal> {
    JobQueue::open(path).map_err(failed)
}

/// What the queue could not do.
pub fn failed(error: Error) -> Refusal {
    Refusal::could_not_run(error.message()).about(About::Queue)
}

/// The least of an id that stands for the whole.
const BEGINNING: usize = 4;

fn begins(queue: &JobQueue, text: &str, bad: &Error) -> Result<Option<ProcessState>, Refusal> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    if text.len() < BEGINNING && digits {
        return Err(Refusal::usage(format!(
            "{text:?} may be the beginning of many ids: write at least {BEGINNING} characters of it"
        )));
    }
    if !digits {
        return Err(Refusal::usage(bad.message()));
    }
    let all = queue.open_processes().map_err(failed)?.into_iter();
    let mut fitting = all.filter(|process| process.process_id.to_string().starts_with(&text));
    let first = fitting.next();
    match fitting.count() {
        0 => Ok(first),
        more => Err(Refusal::usage(format!(
            "{} processes begin with {text}: write more of the id",
            more + 1
        ))),
    }
}
