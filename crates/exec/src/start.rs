//! Finds the program of a job, and describes why a command was not started.

use std::ffi::OsString;
use std::io;
use std::time::Duration;

use rustix::io::Errno;

use super::job::CommandJob;
use super::record::{CommandResult, FailureKind, JobError};
use super::sandbox::Launcher;
use super::sandbox::programs::Unusable;

/// Time limits of a command: for running, and for ending.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    pub timeout: Option<Duration>,
    /// Time between the request to end (SIGTERM) and the kill (SIGKILL).
    pub grace: Duration,
}

/// How a command ended.
pub(super) struct Ended {
    pub result: CommandResult,
    pub timed_out: bool,
    pub stopped: bool,
    /// The reason why some of its output is missing.
    pub output_error: Option<io::Error>,
    /// It was killed, but its end was not reported.
    pub left: bool,
}

impl Launcher {
    /// The program of a command, and its arguments.
    pub fn words(&self, job: &CommandJob) -> Result<Vec<OsString>, NotStarted> {
        let program = self.programs.resolve(job.program(), &self.folder);
        let program = program.map_err(|why| match why {
            Unusable::Missing(why) => JobError::new(FailureKind::NotFound, why),
            Unusable::NotAllowed(why) => JobError::new(FailureKind::NotAllowed, why),
        })?;
        let arguments = job.command().iter().skip(1).cloned();
        Ok([program.into_os_string()]
            .into_iter()
            .chain(arguments)
            .collect())
    }
}

/// Why a command was not started.
#[derive(Debug)]
pub(super) struct NotStarted {
    pub why: JobError,
    /// Whether another attempt may succeed: open files, processes or memory were missing.
    pub scarce: bool,
    /// No further command can be started, because the keeper has ended.
    pub lost: bool,
}

impl From<JobError> for NotStarted {
    fn from(why: JobError) -> Self {
        Self {
            why,
            scarce: false,
            lost: false,
        }
    }
}

impl NotStarted {
    pub fn new(job: &CommandJob, why: &io::Error) -> Self {
        let kind = match why.kind() {
            io::ErrorKind::NotFound => FailureKind::NotFound,
            _ => FailureKind::NotStarted,
        };
        let text = format!("cannot run `{}`: {why}", job.program().display());
        Self::of(kind, text, is_scarce(why))
    }

    /// As the keeper reports it.
    #[cfg(target_os = "linux")]
    pub fn refused(job: &CommandJob, why: String, scarce: Option<i32>) -> Self {
        let scarce = scarce.map(io::Error::from_raw_os_error);
        if scarce.is_some_and(|why| is_scarce(&why)) {
            let text = format!("cannot run `{}`: {why}", job.program().display());
            Self::of(FailureKind::Sandbox, text, true)
        } else {
            Self::of(FailureKind::Sandbox, why, false)
        }
    }

    /// The keeper has ended, and all commands with it.
    #[cfg(target_os = "linux")]
    pub fn lost() -> Self {
        let why = "the process that keeps the commands of the run together was ended by another program or by a command, so \
                   the kernel has killed all commands";
        Self {
            lost: true,
            ..JobError::new(FailureKind::Cancelled, why).into()
        }
    }

    /// It was started, so it is not tried again.
    pub fn unknown_end(why: io::Error) -> Self {
        let why = format!("how it ended is unknown: {why}");
        JobError::new(FailureKind::NotStarted, why).into()
    }

    fn of(kind: FailureKind, text: String, scarce: bool) -> Self {
        let advice = "; use fewer slots (-j), free memory, or raise the limits of open files and processes (`ulimit -n`, `ulimit -u`)";
        let why = if scarce {
            JobError::new(FailureKind::Resources, text + advice)
        } else {
            JobError::new(kind, text)
        };
        Self {
            why,
            scarce,
            lost: false,
        }
    }
}

/// Whether open files, processes or memory are missing.
fn is_scarce(why: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(why),
        Some(Errno::MFILE | Errno::NFILE | Errno::AGAIN | Errno::NOMEM)
    )
}
