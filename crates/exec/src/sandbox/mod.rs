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
mod wire;

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use batchwright::Error;
use derive_setters::Setters;

#[cfg(target_os = "linux")]
pub(super) use client::{Keeper, Launched};
use programs::{Programs, Variable, environment, refused};
#[cfg(target_os = "linux")]
pub(super) use wire::Reply;

/// What the commands of a run have in common.
pub(super) struct Launcher {
    pub folder: PathBuf,
    pub programs: Programs,
    /// The variables of commands, if they are not those of this program.
    pub environment: Option<Vec<(OsString, OsString)>>,
    pub status: SandboxStatus,
    /// `None` if this program starts commands itself, because it has no helper and needs none.
    #[cfg(target_os = "linux")]
    pub keeper: Option<Keeper>,
}

impl Launcher {
    pub fn new(folder: PathBuf, sandbox: Option<&Sandbox>) -> Result<Self, Error> {
        if let Some(sandbox) = sandbox {
            return sandbox.prepare(&folder);
        }
        Ok(Self {
            #[cfg(target_os = "linux")]
            keeper: Keeper::start(
                None,
                wire::Policy {
                    folder: folder.clone().into(),
                    ..wire::Policy::default()
                },
            )?,
            folder,
            programs: Programs::all(env::var_os("PATH")),
            environment: None,
            status: SandboxStatus::default(),
        })
    }
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
    pub fn allow<I>(mut self, programs: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        let programs = programs.into_iter().map(Into::into);
        self.allowed.get_or_insert_default().extend(programs);
        self
    }

    /// Passes a variable of this process on to commands, if it is set; `*` means all variables. Default: `PATH`,
    /// `HOME`, `LANG`, `LC_…`, `TZ`, `TERM`, `TMPDIR`.
    pub fn pass_variable(mut self, name: impl Into<OsString>) -> Self {
        self.variables.push(Variable::Passed(name.into()));
        self
    }

    /// Sets a variable for commands.
    pub fn set_variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables
            .push(Variable::Set(name.into(), value.into()));
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
        let mut launcher = Launcher {
            folder: folder.to_owned(),
            programs: Programs::new(path, self.allowed.as_deref(), &here)?,
            environment: Some(environment),
            status: SandboxStatus::default(),
            #[cfg(target_os = "linux")]
            keeper: None,
        };
        self.enforce(&mut launcher)?;
        if self.mode == SandboxMode::On && !launcher.status.missing.is_empty() {
            let missing = launcher.status.missing.join("; ");
            return Err(refused(format!(
                "this system cannot enforce: {missing}; --sandbox=best-effort runs commands without, --sandbox=off without \
                 any of it"
            )));
        }
        Ok(launcher)
    }

    #[cfg(not(target_os = "linux"))]
    fn enforce(&self, launcher: &mut Launcher) -> Result<(), Error> {
        if self.mode != SandboxMode::Off || self.memory.is_some() {
            let missing = "anything but the choice of programs and variables".to_owned();
            launcher.status.missing = vec![missing];
        }
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn enforce(&self, launcher: &mut Launcher) -> Result<(), Error> {
        let confine = self.mode != SandboxMode::Off;
        let mut writable = self.writable.clone();
        let mut temporary = None;
        let named = |wish: &Variable| match wish {
            Variable::Passed(name) | Variable::Set(name, _) => name == "TMPDIR",
        };
        let environment = launcher.environment.get_or_insert_default();
        if confine && !self.variables.iter().any(named) {
            let id = uuid::Uuid::now_v7().simple();
            let folder = std::env::temp_dir().join(format!("batchwright-{id}"));
            batchwright::unstable::make_private_folder(&folder)
                .map_err(|why| refused(format!("cannot make {}: {why}", folder.display())))?;
            environment.retain(|(name, _)| name != "TMPDIR");
            environment.push(("TMPDIR".into(), folder.clone().into()));
            writable.push(folder.clone());
            temporary = Some(folder);
        }
        let policy = wire::Policy {
            confine,
            network: self.network,
            folder: launcher.folder.clone().into(),
            writable: writable.into_iter().map(Into::into).collect(),
            environment: Some(environment.clone()),
            // Without a sandbox, commands see the processes of the system, and an ordinary user may use sudo.
            namespace: confine,
            temporary: temporary.clone().map(Into::into),
            memory: self.memory,
        };
        let keeper = Keeper::start(self.helper.as_deref(), policy);
        let keeper = keeper.and_then(|keeper| keeper.ok_or_else(no_helper));
        let keeper = keeper.inspect_err(|_| {
            let _ = temporary.map(std::fs::remove_dir);
        })?;
        launcher.status = keeper.status.clone();
        launcher.keeper = Some(keeper);
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn no_helper() -> Error {
    refused(
        "no program confines commands: call batchwright_exec::confine_main() first in main, or name an installed \
         batchwright with Sandbox::helper"
            .to_owned(),
    )
}
