//! Starts the process of a job.

use std::env;
use std::io;
use std::path::PathBuf;
use std::process::Command;
#[cfg(unix)]
use std::sync::Arc;
use std::time::Duration;

#[cfg(unix)]
use super::group_watchdog::GroupWatchdog;
use super::job::CommandJob;
use super::record::{CommandResult, FailureKind, JobError};
use super::refusal::Refusal;
use super::sandbox::confined::Confined;
use super::sandbox::prepared::Prepared;
use super::sandbox::programs::{Programs, Unusable};

/// Time limits of a command: for running, and for ending.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    pub timeout: Option<Duration>,
    /// Time between the request to end (SIGTERM) and the kill (SIGKILL).
    pub grace: Duration,
    /// The same if the command is aborted.
    pub abort_grace: Duration,
}

/// How a command ended.
pub(super) struct Ended {
    pub result: CommandResult,
    pub timed_out: bool,
    pub stopped: bool,
    /// The reason why some of its output is missing.
    pub output_error: Option<io::Error>,
    /// The number of a process that was killed but does not end, and is no longer waited for.
    pub left: Option<i32>,
    /// The limit of its sandbox that it exceeded, for which it was killed.
    pub excess: Option<String>,
}

/// Finds programs, and converts jobs to processes.
pub(super) enum Launcher {
    Confining {
        folder: PathBuf,
        sandbox: Box<Prepared>,
    },
    Plain {
        folder: PathBuf,
        programs: Programs,
        #[cfg(unix)]
        groups: Option<Arc<GroupWatchdog>>,
    },
}

impl Launcher {
    /// Commands run in the folder that has this name now, even if it is renamed later.
    pub fn new(folder: PathBuf, sandbox: Option<Prepared>) -> Self {
        match sandbox {
            Some(sandbox) => Self::Confining {
                folder,
                sandbox: Box::new(sandbox),
            },
            None => Self::Plain {
                folder,
                programs: Programs::all(env::var_os("PATH")),
                #[cfg(unix)]
                groups: GroupWatchdog::start().map(Arc::new),
            },
        }
    }

    pub fn command(&self, job: &CommandJob) -> Result<Confined, NotStarted> {
        let arguments = &job.command()[1..];
        let find = |found: Result<PathBuf, Unusable>| {
            found.map_err(|why| match why {
                Unusable::Missing(why) => JobError::new(FailureKind::NotFound, why),
                Unusable::NotAllowed(why) => JobError::new(FailureKind::NotAllowed, why),
            })
        };
        match self {
            Self::Confining { folder, sandbox } => {
                let program = find(sandbox.find(job.program(), folder))?;
                Ok(sandbox.command(&program, arguments, folder))
            }
            Self::Plain {
                folder,
                programs,
                #[cfg(unix)]
                groups,
            } => {
                let program = find(programs.resolve(job.program(), folder))?;
                let mut command = Command::new(program);
                command.args(arguments).current_dir(folder);
                #[cfg_attr(not(unix), expect(unused_mut))]
                let mut command = Confined::unconfined(command);
                #[cfg(unix)]
                if let Some(groups) = groups {
                    let group = groups.group();
                    command.group = Some(group.map_err(|why| NotStarted::new(job, &why))?);
                }
                Ok(command)
            }
        }
    }

    /// Ends the processes that wait for a next command, because they may take the place of what is missing.
    pub fn end_unused(&self) {
        match self {
            Self::Confining { sandbox, .. } => sandbox.end_unused(),
            #[cfg(unix)]
            Self::Plain { groups, .. } => {
                if let Some(groups) = groups {
                    groups.end_unused();
                }
            }
            #[cfg(not(unix))]
            Self::Plain { .. } => {}
        }
    }
}

/// Why a command was not started.
#[derive(Debug)]
pub(super) struct NotStarted {
    pub why: JobError,
    /// What was missing, if the same command may be started later.
    pub scarce: Option<Scarce>,
}

/// What is missing for a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scarce {
    /// File descriptors of this program.
    Own,
    /// What other programs use too: open files of the system, processes, memory.
    Shared,
}

impl From<JobError> for NotStarted {
    fn from(why: JobError) -> Self {
        Self { why, scarce: None }
    }
}

impl NotStarted {
    pub fn new(job: &CommandJob, why: &io::Error) -> Self {
        let kind = match why.kind() {
            io::ErrorKind::NotFound => FailureKind::NotFound,
            _ => FailureKind::NotStarted,
        };
        let name = job.program().to_string_lossy();
        let text = format!("cannot run `{name}`: {why}");
        Self::of(kind, text, Scarce::of(why))
    }

    pub fn refused(job: &CommandJob, refusal: Refusal) -> Self {
        let scarce = (refusal.scarce).map(io::Error::from_raw_os_error);
        let scarce = scarce.as_ref().and_then(Scarce::of);
        let text = match scarce {
            Some(_) => format!("cannot run `{}`: {}", job.program().display(), refusal.why),
            None => refusal.why,
        };
        Self::of(FailureKind::Sandbox, text, scarce)
    }

    fn of(kind: FailureKind, text: String, scarce: Option<Scarce>) -> Self {
        let advice = "; use fewer slots (-j), free memory, or raise the limits of open files and processes (`ulimit -n`, `ulimit -u`)";
        let why = match scarce {
            Some(_) => JobError::new(FailureKind::Resources, text + advice),
            None => JobError::new(kind, text),
        };
        Self { why, scarce }
    }
}

impl Scarce {
    fn of(why: &io::Error) -> Option<Self> {
        #[cfg(unix)]
        {
            use rustix::io::Errno;
            match Errno::from_io_error(why)? {
                Errno::MFILE => Some(Self::Own),
                Errno::NFILE | Errno::AGAIN | Errno::NOMEM => Some(Self::Shared),
                _ => None,
            }
        }
        #[cfg(not(unix))]
        {
            let _ = why;
            None
        }
    }
}
