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
    /// The places of the allowed programs. `None` allows every program.
    allowed: Option<Vec<PathBuf>>,
}

impl Programs {
    /// Searches in `path`, the value of `PATH`. Allowed programs must exist.
    pub fn new(path: OsString, allowed: Option<&[OsString]>, folder: &Path) -> Result<Self, Error> {
        let place = |name: &OsString| find(&path, name, folder).map(|found| place_of(&found));
        let allowed = allowed.map(|names| names.iter().map(place).collect());
        let missing = |why: JobError| refused(why.message);
        let allowed = allowed.transpose().map_err(missing)?;
        Ok(Self { path, allowed })
    }

    /// The file that `program` refers to for a command in `folder`, if it may be run.
    pub fn resolve(&self, program: &OsStr, folder: &Path) -> Result<PathBuf, JobError> {
        let found = find(&self.path, program, folder)?;
        let Some(allowed) = &self.allowed else {
            return Ok(found);
        };
        let place = place_of(&found);
        if allowed.contains(&place) {
            return Ok(found);
        }
        let allowed = allowed.iter().map(|place| place.to_string_lossy());
        let allowed = allowed.collect::<Vec<_>>().join(", ");
        let found = found.display();
        let why = format!("{found} is not allowed; allowed are: {allowed}");
        Err(JobError::new(FailureKind::NotAllowed, why))
    }
}

/// The file that a name refers to in a folder, or in the folders of `path`.
fn find(path: &OsStr, program: &OsStr, folder: &Path) -> Result<PathBuf, JobError> {
    let missing = |why: String| JobError::new(FailureKind::NotFound, why);
    if program.is_empty() {
        return Err(missing("the command names no program".to_owned()));
    }
    let named = Path::new(program);
    if program.as_encoded_bytes().contains(&b'/') {
        let file = folder.join(named);
        let cannot = |why| missing(format!("cannot run {}: {why}", file.display()));
        return executable(&file).map(|()| file.clone()).map_err(cannot);
    }
    // A relative folder in PATH means a different folder for each working folder, possibly one that the command can
    // write to.
    let folders = std::env::split_paths(path).filter(|folder| folder.is_absolute());
    let mut files = folders.map(|folder| folder.join(named));
    let found = files.find(|file| executable(file).is_ok());
    let name = program.display();
    let none = || missing(format!("no program {name} in PATH that may be executed"));
    found.ok_or_else(none)
}

/// Whether the file can be started.
fn executable(file: &Path) -> io::Result<()> {
    let about = std::fs::metadata(file)?;
    if about.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(rustix::fs::access(file, rustix::fs::Access::EXEC_OK)?)
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
    let is_passed = |name: &OsStr| {
        let mut wished = wishes.iter().filter(|(_, value)| value.is_none());
        PASSED.iter().any(|known| name == *known)
            || name.as_encoded_bytes().starts_with(b"LC_")
            || wished.any(|(wished, _)| wished == "*" || wished == name)
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
