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

/// Finds programs, each once in a run, and makes commands of jobs.
pub(super) struct Launcher {
    folder: Option<PathBuf>,
    found: RwLock<HashMap<OsString, PathBuf>>,
}

impl Launcher {
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self {
            folder,
            found: RwLock::default(),
        }
    }

    pub fn command(&self, job: &CommandJob) -> Result<Command, JobError> {
        let program = self.program(job.program())?;
        let mut command = Command::new(program);
        command.args(&job.command()[1..]);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        Ok(command)
    }

    fn program(&self, name: &OsStr) -> Result<PathBuf, JobError> {
        if let Some(path) = self.found.read().get(name) {
            return Ok(path.clone());
        }
        let path = find(name).ok_or_else(|| {
            let name = name.to_string_lossy();
            JobError::new(
                FailureKind::NotFound,
                format!("there is no program `{name}`"),
            )
        })?;
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
