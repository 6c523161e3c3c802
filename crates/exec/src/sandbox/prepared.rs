//! A sandbox that stands: finds programs, and makes the process of each command.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use batchwright::Error;
#[cfg(unix)]
use parking_lot::Mutex;

use super::confined::Confined;
use super::limits::Limits;
use super::programs::{Programs, Unusable};
#[cfg(target_os = "linux")]
use super::{
    assignment::Assignment,
    run::Run,
    waiting::{Starter, Waiting},
    watchdog::COMMAND,
    watched::Watched,
};
#[cfg(unix)]
use super::{
    helper,
    helper_program::Confinement,
    place::{Held, Place},
    policy,
};

/// Variables by which the helper itself would load code before it is confined.
#[cfg(unix)]
const LOADED_EARLY: [&[u8]; 2] = [b"LD_", b"GLIBC_TUNABLES"];

/// Whether the helper would obey such a variable itself.
#[cfg(unix)]
pub(super) fn is_loaded_early(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    LOADED_EARLY.iter().any(|early| name.starts_with(early))
}

/// What holds the processes of a command together, so that all of them are counted and killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Containment {
    /// A cgroup of the kernel: no process leaves it.
    Cgroup,
    /// Processes are looked at ten times a second. They are known by their descent, group, session and environment.
    ProcessTracking,
    /// Their group: a process that leaves it is out of reach.
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

/// A [`Sandbox`](super::Sandbox) for the commands of one run. What was started for it ends when it is dropped.
#[derive(Debug)]
pub struct Prepared {
    pub(super) programs: Programs,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) not_in_force: Vec<String>,
    pub(super) limits: Limits,
    pub(super) next: Arc<AtomicU64>,
    /// What commands work in and write to, held open for as long as the run lasts.
    #[cfg(unix)]
    pub(super) places: Mutex<Vec<Held>>,
    /// How commands are started through the helper, if they are.
    #[cfg(unix)]
    pub(super) confinement: Option<Arc<Confinement>>,
    #[cfg(target_os = "linux")]
    pub(super) run: Option<Arc<Run>>,
    /// Starts helpers in advance, if each command gets a cgroup.
    #[cfg(target_os = "linux")]
    pub(super) starter: Option<Arc<Starter>>,
}

impl Prepared {
    /// What the kernel does not enforce here although it was asked for: empty unless the mode is
    /// [`BestEffort`](super::SandboxMode::BestEffort).
    pub fn not_in_force(&self) -> &[String] {
        &self.not_in_force
    }

    /// What holds the processes of a command together.
    pub fn containment(&self) -> Containment {
        #[cfg(target_os = "linux")]
        return match &self.confinement {
            Some(confinement) if confinement.policy.cgroup.is_some() => Containment::Cgroup,
            _ => Containment::ProcessTracking,
        };
        #[cfg(not(target_os = "linux"))]
        Containment::ProcessGroup
    }

    /// The file that `program` means to a command in `folder`: a name is looked up in the `PATH` of commands, a
    /// path is taken from `folder`.
    ///
    /// # Errors
    /// A [critical](Error::is_critical) one if there is no such program, or it is not allowed.
    pub fn resolve(&self, program: &OsStr, folder: &Path) -> Result<PathBuf, Error> {
        Ok(self.find(program, folder)?)
    }

    /// The same, and what is wrong with the program.
    pub(crate) fn find(&self, program: &OsStr, folder: &Path) -> Result<PathBuf, Unusable> {
        self.programs.resolve(program, folder)
    }

    /// A command that runs `program`, as [`resolve`](Self::resolve) found it, in `folder`, and may write there.
    pub fn command(&self, program: &Path, arguments: &[OsString], folder: &Path) -> Confined {
        self.numbered(None, program, arguments, folder)
    }

    /// The number is that of its helper, if that has one.
    fn numbered(
        &self,
        number: Option<u64>,
        program: &Path,
        arguments: &[OsString],
        folder: &Path,
    ) -> Confined {
        let number = number.unwrap_or_else(|| self.next.fetch_add(1, Ordering::Relaxed));
        #[cfg(target_os = "linux")]
        let mut cgroup = None;
        #[cfg(unix)]
        let (mut command, token) = match &self.confinement {
            Some(confinement) => {
                let place = self.place_of(folder);
                let policy = confinement.policy.of_command(number, place);
                #[cfg(target_os = "linux")]
                cgroup.clone_from(&policy.cgroup);
                let mut command = confinement.helper.command();
                command.arg(helper::CONFINE).arg(program);
                command.env_clear();
                command.envs(self.environment.iter().map(|(name, value)| (name, value)));
                command.env(policy::VARIABLE, policy.encode());
                (command, Some(policy.token))
            }
            None => (self.plain(program, folder), None),
        };
        #[cfg(not(unix))]
        let (mut command, token) = (self.plain(program, folder), None);
        command.args(arguments);
        #[cfg(target_os = "linux")]
        if let Some(run) = &self.run {
            command.env(COMMAND, format!("{}.{number}", run.id));
        }
        Confined {
            command,
            token,
            limits: self.limits,
            #[cfg(unix)]
            group: None,
            #[cfg(target_os = "linux")]
            watched: Watched::new(number, self.run.clone(), cgroup),
            #[cfg(target_os = "linux")]
            starter: None,
            #[cfg(target_os = "linux")]
            waiting: None,
        }
    }

    /// The same for `Confined::start_piped`, which may find its helper waiting.
    pub(crate) fn piped_command(
        &self,
        program: &Path,
        arguments: &[OsString],
        folder: &Path,
    ) -> Confined {
        #[cfg(target_os = "linux")]
        if let Some(starter) = &self.starter {
            let waiting = starter.take();
            let number = waiting.as_ref().map(Waiting::number);
            let mut confined = self.numbered(number, program, arguments, folder);
            confined.waiting = waiting.map(|waiting| {
                let variables = confined.command.get_envs();
                let variables = variables.filter(|(name, _)| *name != policy::VARIABLE);
                let variables = variables.filter_map(|(name, value)| Some((name, value?)));
                let policy = policy::Policy {
                    // The helper is in it already.
                    cgroup: None,
                    folder: self.place_of(folder),
                    ..starter.confinement.policy.clone()
                };
                let assignment = Assignment::encode(&policy, program, arguments, variables);
                Box::new((waiting, assignment))
            });
            confined.starter = Some(starter.clone());
            return confined;
        }
        self.command(program, arguments, folder)
    }

    #[cfg(unix)]
    pub(super) fn confine_by(&mut self, confinement: Confinement) {
        let confinement = Arc::new(confinement);
        #[cfg(target_os = "linux")]
        if let Some(run) = self
            .run
            .as_ref()
            .filter(|_| confinement.policy.cgroup.is_some())
        {
            self.starter = Some(Arc::new(Starter {
                confinement: confinement.clone(),
                run: run.clone(),
                next: self.next.clone(),
                waiting: Mutex::default(),
            }));
        }
        self.confinement = Some(confinement);
    }

    /// The folder as it was when the first command was to work there.
    #[cfg(unix)]
    fn place_of(&self, folder: &Path) -> Place {
        let mut places = self.places.lock();
        if let Some(known) = places.iter().find(|held| held.place.path == folder) {
            return known.place.clone();
        }
        match Held::new(folder) {
            Ok(held) => {
                let place = held.place.clone();
                places.push(held);
                place
            }
            // The helper will say why.
            Err(_) => Place {
                path: folder.to_owned(),
                ..Place::default()
            },
        }
    }

    fn plain(&self, program: &Path, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir(folder);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}
