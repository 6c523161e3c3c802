//! From a job to the process that runs it.

use std::env;
use std::io;
use std::path::PathBuf;
use std::process::Command;

use super::job::CommandJob;
use super::record::{FailureKind, JobError};
use super::sandbox::confined::Confined;
use super::sandbox::prepared::Prepared;
use super::sandbox::programs::{Programs, Unusable};

/// Finds programs, and makes commands of jobs.
pub(super) enum Launcher {
    Confining {
        folder: PathBuf,
        sandbox: Box<Prepared>,
    },
    Plain {
        folder: PathBuf,
        programs: Programs,
    },
}

impl Launcher {
    /// Whatever becomes of the folder's name, commands run in what is there now.
    pub fn new(folder: PathBuf, sandbox: Option<Prepared>) -> Self {
        match sandbox {
            Some(sandbox) => Self::Confining {
                folder,
                sandbox: Box::new(sandbox),
            },
            None => Self::Plain {
                folder,
                programs: Programs::all(env::var_os("PATH")),
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
                Ok(sandbox.piped_command(&program, arguments, folder))
            }
            Self::Plain { folder, programs } => {
                let program = find(programs.resolve(job.program(), folder))?;
                let mut command = Command::new(program);
                command.args(arguments).current_dir(folder);
                Ok(Confined::unconfined(command))
            }
        }
    }
}

/// Why a command could not be started.
pub(super) fn not_started(job: &CommandJob, why: &io::Error) -> JobError {
    let kind = match why.kind() {
        io::ErrorKind::NotFound => FailureKind::NotFound,
        _ => FailureKind::NotStarted,
    };
    let name = job.program().to_string_lossy();
    JobError::new(kind, format!("cannot run `{name}`: {why}"))
}
