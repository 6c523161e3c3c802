//! A prepared sandbox: finds programs, and creates the process of each command.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
#[cfg(target_os = "linux")]
use std::sync::Arc;

use batchwright::Error;

use super::confined::Confined;
use super::programs::{Programs, Unusable};
#[cfg(target_os = "linux")]
use super::{run::Run, slot::Slots, watchdog::COMMAND, watched::Watched, wire::Order};

/// How the processes of a command are kept together, to count and kill all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Containment {
    /// A cgroup of the kernel, which no process can leave.
    Cgroup,
    /// Processes are checked ten times a second and identified by descent, group, session and environment.
    ProcessTracking,
    /// Their process group; a process that leaves it is not found.
    ProcessGroup,
}

impl fmt::Display for Containment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cgroup => "cgroup",
            Self::ProcessTracking => "process tracking",
            Self::ProcessGroup => "process group",
        })
    }
}

/// A [`Sandbox`](super::Sandbox) for the commands of one run. Processes that were started for it end when it is
/// dropped.
#[derive(Debug)]
pub struct Prepared {
    pub(super) programs: Programs,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) not_in_force: Vec<String>,
    #[cfg(target_os = "linux")]
    pub(super) run: Option<Arc<Run>>,
    /// The launchers of commands, unless commands are started directly.
    #[cfg(target_os = "linux")]
    pub(super) slots: Option<Arc<Slots>>,
}

impl Prepared {
    /// The requested rules that the kernel does not enforce here; empty unless the mode is
    /// [`BestEffort`](super::SandboxMode::BestEffort).
    pub fn not_in_force(&self) -> &[String] {
        &self.not_in_force
    }

    /// How the processes of a command are kept together.
    pub fn containment(&self) -> Containment {
        #[cfg(target_os = "linux")]
        return match &self.slots {
            Some(slots) if slots.policy.cgroup.is_some() => Containment::Cgroup,
            _ => Containment::ProcessTracking,
        };
        #[cfg(not(target_os = "linux"))]
        Containment::ProcessGroup
    }

    /// The separate program that starts commands; `None` if this program starts them itself, which takes longer for a
    /// large program.
    pub fn helper(&self) -> Option<&Path> {
        #[cfg(target_os = "linux")]
        return self.slots.as_ref()?.helper.file();
        #[cfg(not(target_os = "linux"))]
        None
    }

    /// The file that `program` refers to for a command in `folder`: a name is searched in the `PATH` of commands, a
    /// path is relative to `folder`.
    ///
    /// # Errors
    /// A [critical](Error::is_critical) one if the program does not exist or is not allowed.
    pub fn resolve(&self, program: &OsStr, folder: &Path) -> Result<PathBuf, Error> {
        Ok(self.find(program, folder)?)
    }

    /// The same, with the reason why the program is unusable.
    pub(crate) fn find(&self, program: &OsStr, folder: &Path) -> Result<PathBuf, Unusable> {
        self.programs.resolve(program, folder)
    }

    /// A command that runs `program`, as returned by [`resolve`](Self::resolve), in `folder`, and may write there.
    pub fn command(&self, program: &Path, arguments: &[OsString], folder: &Path) -> Confined {
        // A command is in its folder when it starts, where relative paths would refer to other files.
        let (program, folder) = (&absolute(program), &absolute(folder));
        #[cfg(target_os = "linux")]
        if let Some(slots) = &self.slots {
            let order = Order {
                folder: slots.place_of(folder),
                program: program.into(),
                arguments: arguments.to_vec(),
            };
            return Confined::launched(slots.clone(), order);
        }
        let mut command = Command::new(program);
        command.args(arguments).env_clear().current_dir(folder);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        #[cfg(target_os = "linux")]
        if let Some(run) = &self.run {
            let number = run.next();
            command.env(COMMAND, format!("{}.{number}", run.id));
            let mut confined = Confined::unconfined(command);
            confined.watched = Watched::new(number, Some(run.clone()), None);
            return confined;
        }
        Confined::unconfined(command)
    }

    /// Ends the launchers that run no command.
    pub(crate) fn end_unused(&self) {
        #[cfg(target_os = "linux")]
        if let Some(slots) = &self.slots {
            let unused = std::mem::take(&mut *slots.free.lock());
            drop(unused);
        }
    }
}

/// The absolute path; a name alone stays one.
fn absolute(path: &Path) -> PathBuf {
    if path.components().count() < 2 && path.is_relative() && !path.is_dir() {
        return path.to_owned();
    }
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
