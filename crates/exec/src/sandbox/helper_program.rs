//! The program that is started as the helper.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::helper;
use super::place;
use crate::reap;

/// A program that only confines commands. It is much smaller than `batchwright`, so the system starts it in a
/// fraction of the time.
const SMALL: &str = "batchwright-sandbox";
/// The running program.
const OWN: &str = "/proc/self/exe";

/// The program that confines commands.
#[derive(Debug)]
pub struct HelperProgram {
    name: PathBuf,
    /// Refers to the same file as long as this value exists, even if another version is installed meanwhile.
    path: PathBuf,
    _opened: Option<File>,
}

impl HelperProgram {
    /// The named program, else the small one in the folder of the running program, else the running program itself.
    pub fn find(named: Option<&Path>) -> Option<Self> {
        if let Some(path) = named {
            return Some(Self::at(path.to_owned()));
        }
        if let Some(small) = Self::small() {
            return Some(small);
        }
        helper::can_help().then(|| Self::at(OWN.into()))
    }

    /// Its file; `None` if it is the running program itself.
    pub fn file(&self) -> Option<&Path> {
        (self.name != Path::new(OWN)).then_some(&self.name)
    }

    fn at(path: PathBuf) -> Self {
        Self {
            name: path.clone(),
            path,
            _opened: None,
        }
    }

    /// The small program, if it has the same version.
    fn small() -> Option<Self> {
        use std::os::fd::AsRawFd;

        let name = std::env::current_exe().ok()?.with_file_name(SMALL);
        let opened = place::open(&name).ok()?;
        let small = Self {
            path: format!("/proc/self/fd/{}", opened.as_raw_fd()).into(),
            name,
            _opened: Some(opened),
        };
        let mut command = small.command();
        command.arg(helper::IDENTIFY).env_clear();
        let said = reap::output(command).ok()?.stdout;
        if said != helper::identity().as_bytes() {
            log::debug!("{small} is of another version, so batchwright itself confines commands");
            return None;
        }
        Some(small)
    }

    /// A command that starts it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        std::os::unix::process::CommandExt::arg0(&mut command, &self.name);
        command
    }
}

impl fmt::Display for HelperProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.display().fmt(f)
    }
}
