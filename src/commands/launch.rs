//! From a job to the process that runs it.

use std::collections::HashMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use parking_lot::RwLock;

use super::job::CommandJob;
use super::record::{FailureKind, JobError};
use super::sandbox::confined::Confined;
use super::sandbox::prepared::Prepared;
use super::sandbox::programs::Unusable;

/// Finds programs, each once in a run, and makes commands of jobs.
pub(super) struct Launcher {
    folder: Option<PathBuf>,
    sandbox: Option<Prepared>,
    found: RwLock<HashMap<OsString, PathBuf>>,
}

impl Launcher {
    pub fn new(folder: Option<PathBuf>, sandbox: Option<Prepared>) -> Self {
        Self {
            folder,
            sandbox,
            found: RwLock::default(),
        }
    }

    pub fn command(&self, job: &CommandJob) -> Result<Confined, JobError> {
        let program = self.program(job.program())?;
        if let Some(sandbox) = &self.sandbox {
            return Ok(sandbox.command(&program, &job.command()[1..], self.folder()));
        }
        let mut command = Command::new(program);
        command.args(&job.command()[1..]);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        Ok(Confined::unconfined(command))
    }

    fn folder(&self) -> &Path {
        self.folder.as_deref().unwrap_or(Path::new("."))
    }

    fn program(&self, name: &OsStr) -> Result<PathBuf, JobError> {
        if let Some(path) = self.found.read().get(name) {
            return Ok(path.clone());
        }
        let path = match &self.sandbox {
            Some(sandbox) => sandbox.find(name, self.folder()).map_err(|why| match why {
                Unusable::Missing(why) => JobError::new(FailureKind::NotFound, why),
                Unusable::NotAllowed(why) => JobError::new(FailureKind::NotAllowed, why),
            })?,
            None => find(name).ok_or_else(|| {
                let name = name.to_string_lossy();
                JobError::new(
                    FailureKind::NotFound,
                    format!("there is no program `{name}`"),
                )
            })?,
        };
        self.found.write().insert(name.to_owned(), path.clone());
        Ok(path)
    }

    /// Why a command could not be started. What was known of its program is forgotten.
    pub fn not_started(&self, job: &CommandJob, why: &io::Error) -> JobError {
        self.found.write().remove(job.program());
        let kind = match why.kind() {
            io::ErrorKind::NotFound => FailureKind::NotFound,
            _ => FailureKind::NotStarted,
        };
        let name = job.program().to_string_lossy();
        JobError::new(kind, format!("cannot run `{name}`: {why}"))
    }
}

/// Where a program is: as it is written if it has a slash, else in the folders of `PATH`.
fn find(name: &OsStr) -> Option<PathBuf> {
    if name.is_empty() {
        return None;
    }
    if name.as_encoded_bytes().contains(&b'/') {
        return Some(name.into());
    }
    let folders = env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    env::split_paths(&folders)
        .map(|folder| folder.join(name))
        .find(|path| is_executable(path))
}

#[cfg(unix)]
fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(path: &Path) -> bool {
    path.is_file()
}
