//! The permissions of a command: programs, environment, files, network, and limits.
//!
//! On Linux, a helper keeps the processes of a run together, confines and starts them: see `keeper`.

#[cfg(target_os = "linux")]
mod client;
#[cfg(target_os = "linux")]
mod confine;
#[cfg(target_os = "linux")]
mod keeper;
#[cfg(target_os = "linux")]
mod launch;
pub(super) mod programs;
#[cfg(target_os = "linux")]
mod remove;
#[cfg(target_os = "linux")]
pub(super) mod wire;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use batchwright::Error;
use derive_setters::Setters;

#[cfg(target_os = "linux")]
pub(super) use client::{Keeper, LOST};
use programs::{Programs, Variable, environment, refused};

/// What the commands of a run have in common.
pub(super) struct Launcher {
    pub folder: PathBuf,
    pub programs: Programs,
    pub environment: Vec<(OsString, OsString)>,
    pub status: SandboxStatus,
    /// `None` if this program starts commands itself, because it has no helper and needs none.
    #[cfg(target_os = "linux")]
    pub keeper: Option<Keeper>,
}

/// Lets this program be the helper that starts its commands. Call it first in `main`.
///
/// The helper is a second instance of this program, in which this function does not return. In all other cases it returns
/// immediately. A host that does not want this can name an installed `batchwright` instead, see [`Sandbox::helper`].
///
/// ```no_run
/// use std::ops::ControlFlow;
/// use batchwright_exec::{CommandJob, CommandRunner, Sandbox, SandboxMode, confine_main};
///
/// fn main() -> Result<(), batchwright::Error> {
///     confine_main();
///     let sandbox = Sandbox::new(SandboxMode::On).allow(["date"]);
///     CommandRunner::new().sandbox(sandbox).run([CommandJob::new("date").arg("-u")], |record| {
///         println!("{}", record.result.map(|result| result.stdout.text()).unwrap_or_default());
///         ControlFlow::Continue(())
///     })?;
///     Ok(())
/// }
/// ```
pub fn confine_main() {
    #[cfg(target_os = "linux")]
    keeper::main();
}

/// How much of a [`Sandbox`] the kernel must enforce.
///
/// The allow-list of programs and the environment apply in every mode, because they do not depend on the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SandboxMode {
    /// All of it, otherwise nothing is started.
    #[default]
    On,
    /// As much as the kernel supports; missing rules are reported.
    BestEffort,
    /// Nothing, except limits that were set.
    Off,
}

/// The permissions of a command. The default suits a command that works on the files in its folder.
#[derive(Debug, Clone, Default, Setters)]
#[setters(strip_option)]
pub struct Sandbox {
    #[setters(skip)]
    mode: SandboxMode,
    /// Sets the program that confines commands, if it is not the running one: an installed `batchwright`.
    #[setters(into)]
    helper: Option<PathBuf>,
    #[setters(skip)]
    allowed: Option<Vec<OsString>>,
    #[setters(skip)]
    variables: Vec<Variable>,
    /// Whether commands may use the network. Default: no.
    network: bool,
    #[setters(skip)]
    writable: Vec<PathBuf>,
    /// Sets the most bytes of private memory of each process of a command: above it, the program gets no more. Memory
    /// that programs share does not count. Default: no limit.
    memory: Option<u64>,
    /// Sets a folder whose files commands do not read, unless they may write in it, below it or above it. Where they get
    /// no process namespace, they then read nothing either that appears beside it, or beside a folder above it, during
    /// the run. Default: none.
    #[setters(into)]
    hidden: Option<PathBuf>,
    /// Whether this process adopts, and ends, what commands leave behind if something kills their helper. Only for a
    /// program that starts no other processes meanwhile, because it would end them too; if it already has some when a
    /// run begins, it adopts nothing. Default: no.
    adopts: bool,
}

/// What a [`Sandbox`] is worth on this system, see [`Sandbox::check`].
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SandboxStatus {
    /// The requested rules that the kernel does not enforce here; empty unless the mode is
    /// [`BestEffort`](SandboxMode::BestEffort).
    pub missing: Vec<String>,
    /// Why commands get no process namespace: then a process that leaves its command is killed at the end of the run by
    /// the helper instead of the kernel.
    pub no_namespace: Option<String>,
    /// The separate program that starts commands; `None` if it is this program, which takes longer if it is large.
    pub helper: Option<PathBuf>,
}

impl Sandbox {
    /// A sandbox in this mode.
    pub fn new(mode: SandboxMode) -> Self {
        Self {
            mode,
            ..Self::default()
        }
    }

    /// Allows only these programs. A name means the program that `PATH` has for it, a path the program at this path.
    /// Programs that an allowed program starts are not checked. Default: every program.
    pub fn allow(mut self, programs: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        let programs = programs.into_iter().map(Into::into);
        self.allowed.get_or_insert_default().extend(programs);
        self
    }

    /// Passes a variable of this process on to commands, if it is set; `*` means all variables. Default: `PATH`,
    /// `HOME`, `LANG`, `LC_…`, `TZ`, `TERM`, `TMPDIR`.
    pub fn pass_variable(mut self, name: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), None));
        self
    }

    /// Sets a variable for commands.
    pub fn set_variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), Some(value.into())));
        self
    }

    /// Allows commands to write to a file, or below a folder, in addition to their working directory. It must exist
    /// when the run begins; if it is replaced later, its path is not writable any more.
    pub fn write_to(mut self, path: impl Into<PathBuf>) -> Self {
        self.writable.push(path.into());
        self
    }

    /// Finds out what this system enforces, without running a command.
    ///
    /// # Errors
    /// A [critical](Error::is_critical) one if the kernel lacks a feature and the mode is [`SandboxMode::On`], if there
    /// is no helper, or if an allowed program or a writable path does not exist.
    pub fn check(&self) -> Result<SandboxStatus, Error> {
        let here = std::env::current_dir().unwrap_or_default();
        Ok(self.prepare(&here)?.status)
    }

    /// Prepares a run whose commands work in this folder.
    pub(super) fn prepare(&self, folder: &Path) -> Result<Launcher, Error> {
        let environment = environment(std::env::vars_os(), &self.variables);
        let path = environment.iter().find(|(name, _)| name == "PATH");
        let path = path.map(|(_, path)| path.clone()).unwrap_or_default();
        let here = std::env::current_dir().unwrap_or_default();
        let programs = Programs::new(path, self.allowed.as_deref(), &here)?;
        #[cfg(target_os = "linux")]
        let keeper = self.keeper(folder, &environment)?;
        #[cfg(target_os = "linux")]
        let status = keeper.as_ref().map(|keeper| keeper.status.clone());
        #[cfg(not(target_os = "linux"))]
        let status = self.needs_helper().then(|| SandboxStatus {
            missing: vec!["anything but the choice of programs and variables".to_owned()],
            ..SandboxStatus::default()
        });
        let status = status.unwrap_or_default();
        if self.mode == SandboxMode::On && !status.missing.is_empty() {
            let missing = status.missing.join("; ");
            return Err(refused(format!(
                "this system cannot enforce: {missing}; --sandbox=best-effort runs commands without, --sandbox=off without \
                 any of it"
            )));
        }
        Ok(Launcher {
            folder: folder.to_owned(),
            programs,
            environment,
            status,
            #[cfg(target_os = "linux")]
            keeper,
        })
    }

    /// Whether only a helper on Linux can do what is asked.
    fn needs_helper(&self) -> bool {
        self.mode != SandboxMode::Off || self.memory.is_some()
    }

    /// The folder to hide, if there is one where no command may write.
    #[cfg(target_os = "linux")]
    fn to_hide(&self, folder: &Path) -> Option<OsString> {
        let hidden = self.hidden.as_ref()?.canonicalize().ok()?;
        let writable = self.writable.iter().map(PathBuf::as_path).chain([folder]);
        let mut writable = writable.filter_map(|path| path.canonicalize().ok());
        let meets = |path: PathBuf| path.starts_with(&hidden) || hidden.starts_with(&path);
        let has_temporary = std::env::temp_dir().starts_with(&hidden);
        (!has_temporary && !writable.any(meets)).then(|| hidden.into())
    }

    #[cfg(target_os = "linux")]
    fn keeper(
        &self,
        folder: &Path,
        environment: &[(OsString, OsString)],
    ) -> Result<Option<Keeper>, Error> {
        let confine = self.mode != SandboxMode::Off;
        let mut named = self.variables.iter().map(|(name, _)| name);
        let temporary = confine && !named.any(|name| name == "TMPDIR");
        let policy = wire::Policy {
            confine,
            network: self.network,
            folder: folder.into(),
            writable: self.writable.iter().map(Into::into).collect(),
            environment: environment.to_vec(),
            temporary: temporary.then(|| std::env::temp_dir().into()),
            memory: self.memory,
            hidden: self.to_hide(folder),
        };
        let keeper = Keeper::start(self.helper.as_deref(), &policy, self.adopts)?;
        if keeper.is_none() && self.needs_helper() {
            return Err(refused(
                "no program confines commands: call batchwright_exec::confine_main() first in main, or name an installed \
                 batchwright with Sandbox::helper"
                    .to_owned(),
            ));
        }
        Ok(keeper)
    }
}
