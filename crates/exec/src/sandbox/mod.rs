//! The permissions of a command: programs, environment, files, network, and limits.
//!
//! The program starts itself again as a small launcher, which drops the permissions that commands must not have, and
//! starts commands one after the other.

pub(super) mod confined;
pub(super) mod limits;
pub(super) mod prepared;

#[cfg(target_os = "linux")]
mod cgroup;
#[cfg(target_os = "linux")]
mod confine;
#[cfg(target_os = "linux")]
mod encoding;
mod environment;
#[cfg(target_os = "linux")]
mod helper;
#[cfg(target_os = "linux")]
mod helper_program;
#[cfg(target_os = "linux")]
mod orders;
#[cfg(target_os = "linux")]
mod place;
#[cfg(target_os = "linux")]
mod policy;
#[cfg(target_os = "linux")]
pub(super) mod processes;
pub(super) mod programs;
#[cfg(target_os = "linux")]
mod remove;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod serve;
#[cfg(target_os = "linux")]
pub(super) mod slot;
#[cfg(target_os = "linux")]
mod system_calls;
#[cfg(target_os = "linux")]
mod watchdog;
#[cfg(target_os = "linux")]
mod watched;
#[cfg(target_os = "linux")]
pub(super) mod wire;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
#[cfg(target_os = "linux")]
use std::sync::Arc;

use batchwright::Error;

use derive_setters::Setters;
#[cfg(target_os = "linux")]
use environment::is_loaded_early;
use environment::{Variable, environment};
#[cfg(target_os = "linux")]
use helper_program::HelperProgram;
use limits::Limits;
#[cfg(target_os = "linux")]
use policy::Policy;
use prepared::Prepared;
use programs::Programs;
#[cfg(target_os = "linux")]
use slot::Slots;

#[cfg(target_os = "linux")]
use super::reap;

/// The number of the helper that runs no command. Launchers are numbered from one.
#[cfg(target_os = "linux")]
const TRIAL: u64 = 0;

/// Lets this program be the helper of its own sandboxes. Call it first in `main`.
///
/// Commands are started by launchers, which confine them. A launcher is a second instance of this program, in which
/// this function does not return. In all other cases it returns immediately. A host that does not want this can name an
/// installed `batchwright` instead, see [`Sandbox::helper`].
///
/// ```no_run
/// use batchwright_exec::{Sandbox, SandboxMode, confine_main};
///
/// fn main() -> Result<(), batchwright::Error> {
///     confine_main();
///     let folder = std::env::temp_dir();
///     let sandbox = Sandbox::new(SandboxMode::On).allow(["date"]).prepare()?;
///     let program = sandbox.resolve("date".as_ref(), &folder)?;
///     let mut date = sandbox.command(&program, &["-u".into()], &folder);
///     let output = date.output()?;
///     println!("{}", String::from_utf8_lossy(&output.stdout));
///     Ok(())
/// }
/// ```
pub fn confine_main() {
    #[cfg(target_os = "linux")]
    helper::main();
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

impl SandboxMode {
    /// All modes, the strictest first.
    pub const ALL: [Self; 3] = [Self::On, Self::BestEffort, Self::Off];

    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::BestEffort => "best-effort",
            Self::Off => "off",
        }
    }

    /// The mode with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == name)
    }
}

impl fmt::Display for SandboxMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
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
    /// Whether commands may connect to sockets in the file system, for example those of `ssh-agent`, Docker or systemd.
    /// Through these services, a command can do what the sandbox forbids. Default: no.
    local_sockets: bool,
    #[setters(skip)]
    writable: Vec<PathBuf>,
    /// Sets the limits of each command. Default: [`Limits::default`]; with [`SandboxMode::Off`], [`Limits::NONE`] costs
    /// least.
    limits: Limits,
    /// Declares that this process starts only commands. Then every other child that exists at the end was left behind
    /// by a command and is killed, even if it left its group and session and cleared its environment. Default: no; then
    /// such a process cannot be distinguished from others.
    owns_children: bool,
}

impl Sandbox {
    /// A sandbox in this mode.
    pub fn new(mode: SandboxMode) -> Self {
        Self {
            mode,
            ..Self::default()
        }
    }

    /// Allows only these programs. A name means the program that `PATH` has for it, a path the program at this path. A
    /// program that is changed afterwards is rejected. Programs that an allowed program starts are not checked.
    /// Default: every program.
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
    /// when the sandbox is prepared; if it is replaced later, no further command is started.
    pub fn write_to(mut self, path: impl Into<PathBuf>) -> Self {
        self.writable.push(path.into());
        self
    }

    /// Tests whether the kernel enforces the sandbox, and starts the watchdog.
    ///
    /// # Errors
    /// A [critical](Error::is_critical) one if the kernel lacks a feature and the mode is [`SandboxMode::On`], if there
    /// is no helper, or if an allowed program or a writable path does not exist.
    pub fn prepare(&self) -> Result<Prepared, Error> {
        let environment = environment(std::env::vars_os(), &self.variables);
        let path = environment.iter().find(|(name, _)| name == "PATH");
        let path = path.map(|(_, path)| path.clone()).unwrap_or_default();
        let here = std::env::current_dir().unwrap_or_default();
        let programs = Programs::new(path, self.allowed.as_deref(), &here)?;
        self.prepare_with(programs, environment)
    }

    #[cfg(not(target_os = "linux"))]
    fn prepare_with(
        &self,
        programs: Programs,
        environment: Vec<(OsString, OsString)>,
    ) -> Result<Prepared, Error> {
        let wanted = self.mode != SandboxMode::Off || self.limits != Limits::NONE;
        let missing = if wanted {
            vec!["anything but the choice of programs and variables".to_owned()]
        } else {
            vec![]
        };
        if self.mode == SandboxMode::On {
            return Err(lacking(&missing));
        }
        Ok(Prepared {
            programs,
            environment,
            not_in_force: missing,
        })
    }

    #[cfg(target_os = "linux")]
    fn prepare_with(
        &self,
        programs: Programs,
        environment: Vec<(OsString, OsString)>,
    ) -> Result<Prepared, Error> {
        let mut prepared = Prepared {
            programs,
            environment,
            not_in_force: Vec::new(),
            run: None,
            slots: None,
        };
        let needed = self.mode != SandboxMode::Off || self.limits != Limits::NONE;
        let helper = match HelperProgram::find(self.helper.as_deref()) {
            Some(helper) => helper,
            None if !needed => return Ok(prepared),
            None => {
                return Err(programs::refused(
                    "no program confines commands: call batchwright_exec::confine_main() first in main, or name \
                     an installed batchwright with Sandbox::helper"
                        .to_owned(),
                ));
            }
        };
        let run = run::Run::start(&helper, &self.limits, self.owns_children, needed)?;
        let run = Arc::new(run);
        prepared.run = Some(run.clone());
        if needed {
            let (mut policy, places) = self.policy(&mut prepared, &run)?;
            // The watchdog kills children that were not announced to it.
            let _ = run.announce(orders::News::Starting(TRIAL));
            let mut tried = self.try_out(&helper, &policy);
            if let Err(error) = &tried
                && policy.cgroup.take().is_some()
            {
                log::debug!("commands get no cgroup: {}", error.message());
                tried = self.try_out(&helper, &policy);
            }
            let _ = run.announce(orders::News::NotStarted(TRIAL));
            prepared.not_in_force = tried?;
            prepared.slots = Some(Arc::new(Slots {
                environment: prepared.environment.clone(),
                helper,
                policy,
                run,
                free: parking_lot::Mutex::default(),
                places: parking_lot::Mutex::new(places),
            }));
        }
        Ok(prepared)
    }

    /// The policy for all commands of a run, with the places to which they may write; temporary files of commands go to
    /// its folder.
    #[cfg(target_os = "linux")]
    fn policy(
        &self,
        prepared: &mut Prepared,
        run: &run::Run,
    ) -> Result<(Policy, Vec<place::Held>), Error> {
        let mut places = Vec::new();
        let mut writable = self.writable.clone();
        let confine = self.mode != SandboxMode::Off;
        let cgroups = run.cgroups.as_ref();
        let mut policy = Policy {
            confine,
            strict: self.mode == SandboxMode::On,
            network: self.network,
            local_sockets: self.local_sockets,
            limits: self.limits,
            cgroup: cgroups.map(|tree| tree.path().to_owned()),
            ..Policy::default()
        };
        let named = |wish: &Variable| match wish {
            Variable::Passed(name) | Variable::Set(name, _) => name == "TMPDIR",
        };
        if confine && !self.variables.iter().any(named) {
            prepared.environment.retain(|(name, _)| name != "TMPDIR");
            let folder = run.temporary().into_os_string();
            prepared.environment.push(("TMPDIR".into(), folder));
            writable.push(run.temporary());
        }
        for path in writable.iter().filter(|_| confine) {
            let held = place::Held::new(path).map_err(|error| {
                programs::refused(format!(
                    "commands cannot write to {}: {error}",
                    path.display()
                ))
            })?;
            policy.writable.push(held.place.clone());
            places.push(held);
        }
        let late = |(name, _): &mut (OsString, OsString)| is_loaded_early(name);
        policy.late_variables = prepared.environment.extract_if(.., late).collect();
        Ok((policy, places))
    }

    /// Confines a helper that runs no command, and returns what the kernel lacks.
    #[cfg(target_os = "linux")]
    fn try_out(&self, helper: &HelperProgram, policy: &Policy) -> Result<Vec<String>, Error> {
        let policy = Policy {
            strict: false,
            ..policy.of_launcher(TRIAL)
        };
        let mut command = helper.command();
        command.arg(helper::TRY).env_clear();
        command.env(policy::VARIABLE, encoding::encode(&policy));
        let output = reap::output(command)
            .map_err(|error| programs::refused(format!("cannot start {helper}: {error}")))?;
        if let Some(cgroup) = &policy.cgroup {
            let _ = cgroup::end(cgroup);
        }
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if !output.status.success() {
            let why = said(&output.stderr);
            return Err(programs::refused(format!(
                "{helper} cannot confine commands: {why}"
            )));
        }
        let missing: Vec<String> = said(&output.stdout).lines().map(str::to_owned).collect();
        if self.mode == SandboxMode::On && !missing.is_empty() {
            Err(lacking(&missing))
        } else {
            Ok(missing)
        }
    }
}

fn lacking(missing: &[String]) -> Error {
    programs::refused(format!(
        "this system cannot enforce: {}; --sandbox=best-effort runs commands without, --sandbox=off without any of it",
        missing.join("; ")
    ))
}
