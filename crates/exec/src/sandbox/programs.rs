//! Which file a program's name refers to, whether it may be run, and which variables it gets.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use batchwright::{Error, ErrorKind};

use crate::record::{FailureKind, JobError};

/// Finds programs as commands would find them, and checks the allow-list.
#[derive(Debug)]
pub struct Programs {
    path: OsString,
    /// The allowed programs, by the given name and by place. `None` allows every program.
    allowed: Option<Vec<(OsString, PathBuf)>>,
}

impl Programs {
    /// Searches in `path`, the value of `PATH`. Allowed programs must exist.
    pub fn new(path: OsString, allowed: Option<&[OsString]>, folder: &Path) -> Result<Self, Error> {
        let mut programs = Self {
            path,
            allowed: None,
        };
        let place = |name: &OsString| {
            let found = programs.find(name, folder);
            let found = found.map_err(|why| refused(why.message))?;
            Ok::<_, Error>((name.clone(), place_of(&found)))
        };
        let allowed = allowed.map(|names| names.iter().map(place).collect());
        programs.allowed = allowed.transpose()?;
        Ok(programs)
    }

    /// The file that `program` refers to for a command in `folder`, if it may be run.
    pub fn resolve(&self, program: &OsStr, folder: &Path) -> Result<PathBuf, JobError> {
        let found = self.find(program, folder)?;
        let Some(allowed) = &self.allowed else {
            return Ok(found);
        };
        let place = place_of(&found);
        if allowed.iter().any(|(_, known)| *known == place) {
            return Ok(found);
        }
        let names: Vec<_> = allowed
            .iter()
            .map(|(name, _)| name.display().to_string())
            .collect();
        let why = format!(
            "{} ({}) is not allowed; allowed are: {}",
            program.display(),
            found.display(),
            names.join(", ")
        );
        Err(JobError::new(FailureKind::NotAllowed, why))
    }

    fn find(&self, program: &OsStr, folder: &Path) -> Result<PathBuf, JobError> {
        let missing = |why: String| Err(JobError::new(FailureKind::NotFound, why));
        if program.is_empty() {
            return missing("the command names no program".to_owned());
        }
        let named = Path::new(program);
        if program.as_encoded_bytes().contains(&b'/') {
            let file = folder.join(named);
            return match executable(&file) {
                Ok(()) => Ok(file),
                Err(error) => missing(format!("cannot run {}: {error}", file.display())),
            };
        }
        // A relative folder in PATH means a different folder for each working folder, possibly one that the command can
        // write to.
        let folders = std::env::split_paths(&self.path).filter(|folder| folder.is_absolute());
        let mut denied = None;
        for folder in folders {
            let file = folder.join(named);
            match executable(&file) {
                Ok(()) => return Ok(file),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    denied.get_or_insert(file);
                }
                Err(_) => {}
            }
        }
        missing(match denied {
            Some(file) => format!("{} may not be executed", file.display()),
            None => format!("no program {} in PATH", program.display()),
        })
    }
}

/// Whether the file can be started.
fn executable(file: &Path) -> io::Result<()> {
    let about = std::fs::metadata(file)?;
    if about.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_err() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(())
}

/// The path of a program, independent of links to its folder. The last link is not followed: if one binary is
/// several programs by its name, each is allowed separately.
fn place_of(file: &Path) -> PathBuf {
    match (file.parent().map(Path::canonicalize), file.file_name()) {
        (Some(Ok(folder)), Some(name)) => folder.join(name),
        _ => file.to_owned(),
    }
}

/// The error of a command that is not started because of its program.
pub fn refused(message: String) -> Error {
    Error::new(ErrorKind::Invalid, message).with_critical()
}

/// Variables that commands always get: where programs are, the user's files, and the language.
const PASSED: [&str; 6] = ["PATH", "HOME", "LANG", "TZ", "TERM", "TMPDIR"];

/// The folders in which programs are searched if `PATH` is not set.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A requested variable: with this value, or without one, that of this process; `*` means all variables.
pub type Variable = (OsString, Option<OsString>);

/// The variables of a command: those of `ours` that are passed on, and those that are set. Later requests override
/// earlier ones.
pub fn environment(
    ours: impl Iterator<Item = (OsString, OsString)>,
    wishes: &[Variable],
) -> Vec<(OsString, OsString)> {
    let is_wished = |name: &OsStr| {
        let mut passed = wishes.iter().filter(|(_, value)| value.is_none());
        passed.any(|(wished, _)| wished == "*" || wished == name)
    };
    let is_passed = |name: &OsStr| {
        PASSED.iter().any(|known| name == *known)
            || name.as_encoded_bytes().starts_with(b"LC_")
            || is_wished(name)
    };
    let mut variables: Vec<_> = ours.filter(|(name, _)| is_passed(name)).collect();
    for (name, value) in wishes {
        if let Some(value) = value {
            variables.retain(|(other, _)| other != name);
            variables.push((name.clone(), value.clone()));
        }
    }
    if !variables.iter().any(|(name, _)| name == "PATH") {
        variables.push(("PATH".into(), DEFAULT_PATH.into()));
    }
    variables
}

#[cfg(test)]
#[path = "programs_tests.rs"]
mod tests;
