//! Which file a program's name refers to, and whether it may be run.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use batchwright::{Error, ErrorKind};

use super::environment::DEFAULT_PATH;

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
    version: Version,
}

/// Properties that change when a file is replaced or written to.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    device_and_inode: (u64, u64),
    size: u64,
    modified: Option<SystemTime>,
}

impl Version {
    fn of(file: &Path) -> io::Result<Self> {
        let about = std::fs::metadata(file)?;
        #[cfg(unix)]
        let device_and_inode = {
            use std::os::unix::fs::MetadataExt;
            (about.dev(), about.ino())
        };
        #[cfg(not(unix))]
        let device_and_inode = (0, 0);
        Ok(Self {
            device_and_inode,
            size: about.len(),
            modified: about.modified().ok(),
        })
    }
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
            let version = Version::of(&found)
                .map_err(|error| refused(format!("cannot run {}: {error}", found.display())))?;
            Ok::<_, Error>(Allowed {
                name: name.clone(),
                place: place_of(&found),
                version,
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
        if let Some(known) = allowed.iter().find(|known| known.place == place) {
            return match Version::of(&found) {
                Ok(version) if version == known.version => Ok(found),
                _ => Err(Unusable::NotAllowed(format!(
                    "{} was changed since it was allowed, at the start of the run",
                    found.display()
                ))),
            };
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
        let by_path = named.components().count() > 1 || named.components().next() != plain(named);
        if by_path {
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
            for file in candidates(&folder, named) {
                match executable(&file) {
                    Ok(()) => return Ok(file),
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        denied.get_or_insert(file);
                    }
                    Err(_) => {}
                }
            }
        }
        Err(Unusable::Missing(match denied {
            Some(file) => format!("{} may not be executed", file.display()),
            None => format!("no program {} in PATH", program.display()),
        }))
    }
}

/// The only component of a bare name.
fn plain(name: &Path) -> Option<Component<'_>> {
    let ends_plain = !name.as_os_str().as_encoded_bytes().ends_with(b"/");
    let first = name.components().next();
    first.filter(|first| ends_plain && matches!(first, Component::Normal(_)))
}

#[cfg(not(windows))]
fn candidates(folder: &Path, name: &Path) -> impl Iterator<Item = PathBuf> {
    std::iter::once(folder.join(name))
}

#[cfg(windows)]
fn candidates(folder: &Path, name: &Path) -> impl Iterator<Item = PathBuf> {
    let plain = folder.join(name);
    let mut with_exe = plain.clone().into_os_string();
    with_exe.push(".exe");
    [plain, with_exe.into()].into_iter()
}

/// Whether the file can be started.
fn executable(file: &Path) -> io::Result<()> {
    let about = std::fs::metadata(file)?;
    if about.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    #[cfg(unix)]
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

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A folder `bin` with the programs `tool` and `other`, links `link` (to `tool`) and `multi` (to `other`), and a
    /// file that is not a program.
    fn site() -> tempfile::TempDir {
        let site = tempfile::tempdir().unwrap();
        let bin = site.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::fs::create_dir(site.path().join("work")).unwrap();
        for (name, mode) in [("tool", 0o755), ("other", 0o755), ("text", 0o644)] {
            std::fs::write(bin.join(name), "#!/bin/sh\n").unwrap();
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(bin.join(name), mode).unwrap();
        }
        symlink("tool", bin.join("link")).unwrap();
        symlink("other", bin.join("multi")).unwrap();
        symlink(&bin, site.path().join("way")).unwrap();
        site
    }

    fn programs(site: &tempfile::TempDir, allowed: Option<&[&str]>) -> Programs {
        let allowed: Option<Vec<OsString>> =
            allowed.map(|names| names.iter().map(Into::into).collect());
        let path = site.path().join("bin").into_os_string();
        Programs::new(path, allowed.as_deref(), site.path()).unwrap()
    }

    #[test]
    fn without_an_allow_list_every_program_may_run() {
        let site = site();
        let programs = programs(&site, None);
        let work = site.path().join("work");
        let bin = site.path().join("bin");
        assert_eq!(
            programs.resolve("tool".as_ref(), &work).unwrap(),
            bin.join("tool")
        );
        assert!(programs.resolve("../bin/tool".as_ref(), &work).is_ok());
        for missing in ["text", "none", "", "work/", "./tool", "/", ".", ".."] {
            let error = programs.resolve(missing.as_ref(), &work).unwrap_err();
            assert!(
                matches!(error, Unusable::Missing(_)),
                "{missing}: {error:?}"
            );
        }
    }

    #[test]
    fn a_name_allows_the_program_in_path_however_it_is_reached() {
        let site = site();
        let programs = programs(&site, Some(&["tool"]));
        let way = site.path().join("way/tool").into_os_string();
        for named in ["tool".into(), "bin/tool".into(), way] {
            assert!(
                programs.resolve(&named, site.path()).is_ok(),
                "{}",
                named.display()
            );
        }
        let error = Error::from(programs.resolve("other".as_ref(), site.path()).unwrap_err());
        assert!(error.message().contains("allowed are: tool"), "{error}");
        assert!(error.is_critical());
    }

    #[test]
    fn a_program_of_the_same_name_elsewhere_is_another_program() {
        let site = site();
        let planted = site.path().join("work/tool");
        std::fs::copy(site.path().join("bin/other"), &planted).unwrap();
        let programs = programs(&site, Some(&["tool"]));
        assert!(
            programs
                .resolve("./tool".as_ref(), &site.path().join("work"))
                .is_err()
        );
    }

    #[test]
    fn a_link_does_not_bypass_the_allow_list() {
        let site = site();
        let programs = programs(&site, Some(&["multi"]));
        assert!(programs.resolve("multi".as_ref(), site.path()).is_ok());
        assert!(programs.resolve("other".as_ref(), site.path()).is_err());
        symlink(
            site.path().join("bin/other"),
            site.path().join("work/multi"),
        )
        .unwrap();
        let work = site.path().join("work");
        assert!(programs.resolve("./multi".as_ref(), &work).is_err());
    }

    #[test]
    fn a_program_that_was_changed_is_not_the_one_that_was_allowed() {
        let site = site();
        let programs = programs(&site, Some(&["tool", "link"]));
        let bin = site.path().join("bin");
        std::fs::copy(bin.join("other"), bin.join("new")).unwrap();
        std::fs::rename(bin.join("new"), bin.join("tool")).unwrap();
        for name in ["tool", "link"] {
            let error = programs.resolve(name.as_ref(), site.path()).unwrap_err();
            assert!(
                matches!(&error, Unusable::NotAllowed(why) if why.contains("was changed")),
                "{error:?}"
            );
        }
    }

    #[test]
    fn relative_folders_in_path_are_ignored() {
        let site = site();
        let programs = Programs::new("bin::.".into(), None, site.path()).unwrap();
        assert!(programs.resolve("tool".as_ref(), site.path()).is_err());
    }
}
