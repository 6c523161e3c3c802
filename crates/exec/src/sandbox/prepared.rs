//! A prepared sandbox: finds programs, and creates the process of each command.

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
#[cfg(unix)]
use super::{
    helper,
    helper_program::Confinement,
    place::{Held, Place},
    policy,
};
#[cfg(target_os = "linux")]
use super::{run::Run, slot::Slots, watchdog::COMMAND, watched::Watched, wire::Order};

/// Variables that would make the helper load code before it is confined.
#[cfg(unix)]
const LOADED_EARLY: [&[u8]; 2] = [b"LD_", b"GLIBC_TUNABLES"];

/// Whether such a variable would affect the helper itself.
#[cfg(unix)]
pub(super) fn is_loaded_early(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    LOADED_EARLY.iter().any(|early| name.starts_with(early))
}

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
    pub(super) limits: Limits,
    pub(super) next: Arc<AtomicU64>,
    /// The folders and files of commands, held open during the run.
    #[cfg(unix)]
    pub(super) places: Mutex<Vec<Held>>,
    /// How commands are started through the helper, if they are.
    #[cfg(unix)]
    pub(super) confinement: Option<Arc<Confinement>>,
    #[cfg(target_os = "linux")]
    pub(super) run: Option<Arc<Run>>,
    /// The launchers of commands, if they are started through the helper.
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
        return match &self.confinement {
            Some(confinement) if confinement.policy.cgroup.is_some() => Containment::Cgroup,
            _ => Containment::ProcessTracking,
        };
        #[cfg(not(target_os = "linux"))]
        Containment::ProcessGroup
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
        let number = self.next.fetch_add(1, Ordering::Relaxed);
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
            launch: None,
        }
    }

    /// The same for `Confined::start_piped`, which may use a launcher.
    pub(crate) fn piped_command(
        &self,
        program: &Path,
        arguments: &[OsString],
        folder: &Path,
    ) -> Confined {
        #[cfg(target_os = "linux")]
        if let Some(slots) = &self.slots {
            let order = Order {
                folder: self.place_of(folder),
                program: program.into(),
                arguments: arguments.to_vec(),
            };
            let mut confined = Confined::unconfined(Command::new(program));
            confined.limits = self.limits;
            confined.launch = Some((slots.clone(), order));
            return confined;
        }
        self.command(program, arguments, folder)
    }

    #[cfg(unix)]
    pub(super) fn confine_by(&mut self, confinement: Confinement) {
        let confinement = Arc::new(confinement);
        #[cfg(target_os = "linux")]
        if let Some(run) = &self.run {
            self.slots = Some(Arc::new(Slots {
                environment: self.environment.clone(),
                confinement: confinement.clone(),
                run: run.clone(),
                next: self.next.clone(),
                free: Mutex::default(),
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
            // The helper will report the reason.
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
