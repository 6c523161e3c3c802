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
use super::sandbox::confined::{Confined, Intervention};
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
    /// The effect of its sandbox, if there was one.
    pub intervention: Option<Intervention>,
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

    pub fn command(&self, job: &CommandJob) -> Result<Confined, JobError> {
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
                    command.group = Some(group.map_err(|why| not_started(job, &why))?);
                }
                Ok(command)
            }
        }
    }
}

/// The error of a command that could not be started.
pub(super) fn not_started(job: &CommandJob, why: &io::Error) -> JobError {
    let (kind, advice) = match why.kind() {
        io::ErrorKind::NotFound => (FailureKind::NotFound, ""),
        _ if is_scarce(why) => (
            FailureKind::Resources,
            "; use fewer slots (-j), or raise the limits of open files and processes (`ulimit -n`, `ulimit -u`)",
        ),
        _ => (FailureKind::NotStarted, ""),
    };
    let name = job.program().to_string_lossy();
    JobError::new(kind, format!("cannot run `{name}`: {why}{advice}"))
}

/// Whether the end of another command may help: too few file descriptors or processes.
fn is_scarce(why: &io::Error) -> bool {
    #[cfg(unix)]
    {
        use rustix::io::Errno;
        let number = Errno::from_io_error(why);
        matches!(number, Some(Errno::MFILE | Errno::NFILE | Errno::AGAIN))
    }
    #[cfg(not(unix))]
    {
        let _ = why;
        false
    }
}
