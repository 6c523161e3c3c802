//! Which file a program's name refers to, whether it may be run, and which variables it gets.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use batchwright::{Error, ErrorKind};

/// Why a program is not run.
#[derive(Debug)]
pub enum Unusable {
    /// It does not exist, or cannot be executed.
    Missing(String),
    /// It is not in the allow-list.
    NotAllowed(String),
}

impl From<Unusable> for Error {
    fn from(why: Unusable) -> Self {
        match why {
            Unusable::Missing(why) | Unusable::NotAllowed(why) => refused(why),
        }
    }
}

/// Finds programs as commands would find them, and checks the allow-list.
#[derive(Debug)]
pub struct Programs {
    path: OsString,
    /// `None` allows every program.
    allowed: Option<Vec<Allowed>>,
}

/// A program that may be run.
#[derive(Debug)]
struct Allowed {
    /// The name as it was given.
    name: OsString,
    place: PathBuf,
}

impl Programs {
    /// Allows every program; `path` is the value of `PATH`, if set.
    pub fn all(path: Option<OsString>) -> Self {
        Self {
            path: path.unwrap_or_else(|| DEFAULT_PATH.into()),
            allowed: None,
        }
    }

    /// Searches in `path`, the value of `PATH`. Allowed programs must exist.
    pub fn new(path: OsString, allowed: Option<&[OsString]>, folder: &Path) -> Result<Self, Error> {
        let mut programs = Self {
            path,
            allowed: None,
        };
        let place = |name: &OsString| {
            let found = programs.find(name, folder)?;
            Ok::<_, Error>(Allowed {
                name: name.clone(),
                place: place_of(&found),
            })
        };
        let allowed = allowed.map(|names| names.iter().map(place).collect());
        programs.allowed = allowed.transpose()?;
        Ok(programs)
    }

    /// The file that `program` refers to for a command in `folder`, if it may be run.
    pub fn resolve(&self, program: &OsStr, folder: &Path) -> Result<PathBuf, Unusable> {
        let found = self.find(program, folder)?;
        let Some(allowed) = &self.allowed else {
            return Ok(found);
        };
        let place = place_of(&found);
        if allowed.iter().any(|known| known.place == place) {
            return Ok(found);
        }
        let names: Vec<_> = allowed
            .iter()
            .map(|known| known.name.display().to_string())
            .collect();
        Err(Unusable::NotAllowed(format!(
            "{} ({}) is not allowed; allowed are: {}",
            program.display(),
            found.display(),
            names.join(", ")
        )))
    }

    fn find(&self, program: &OsStr, folder: &Path) -> Result<PathBuf, Unusable> {
        if program.is_empty() {
            return Err(Unusable::Missing("the command names no program".to_owned()));
        }
        let named = Path::new(program);
        if program.as_encoded_bytes().contains(&b'/') {
            let file = folder.join(named);
            return match executable(&file) {
                Ok(()) => Ok(file),
                Err(error) => Err(Unusable::Missing(format!(
                    "cannot run {}: {error}",
                    file.display()
                ))),
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
        Err(Unusable::Missing(match denied {
            Some(file) => format!("{} may not be executed", file.display()),
            None => format!("no program {} in PATH", program.display()),
        }))
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

/// A requested variable.
#[derive(Debug, Clone)]
pub enum Variable {
    /// With the value that it has in this process; `*` means all variables.
    Passed(OsString),
    /// With this value.
    Set(OsString, OsString),
}

/// The variables of a command: those of `ours` that are passed on, and those that are set. Later requests override
/// earlier ones.
pub fn environment(
    ours: impl Iterator<Item = (OsString, OsString)>,
    wishes: &[Variable],
) -> Vec<(OsString, OsString)> {
    let passed = |name: &OsStr| {
        let by_default = PASSED.iter().any(|known| name == *known)
            || name.as_encoded_bytes().starts_with(b"LC_");
        by_default
            || wishes.iter().any(|wish| match wish {
                Variable::Passed(wished) => wished == "*" || wished == name,
                Variable::Set(..) => false,
            })
    };
    let mut variables: Vec<_> = ours.filter(|(name, _)| passed(name)).collect();
    for wish in wishes {
        if let Variable::Set(name, value) = wish {
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
