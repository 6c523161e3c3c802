//! What a command may do: which programs, with which environment, files, network, and how much.
//!
//! The program confines itself by starting itself as a small helper, which gives up what the command
//! shall not have and then becomes the command.

pub(super) mod confined;
pub(super) mod limits;
pub(super) mod prepared;

#[cfg(target_os = "linux")]
mod assignment;
#[cfg(target_os = "linux")]
mod cgroup;
#[cfg(target_os = "linux")]
mod confine;
mod environment;
#[cfg(unix)]
mod helper;
#[cfg(unix)]
mod helper_program;
#[cfg(target_os = "linux")]
mod orders;
#[cfg(unix)]
mod place;
#[cfg(unix)]
mod policy;
#[cfg(target_os = "linux")]
pub(super) mod processes;
pub(super) mod programs;
#[cfg(target_os = "linux")]
mod remove;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod system_calls;
#[cfg(target_os = "linux")]
mod waiting;
#[cfg(target_os = "linux")]
mod watchdog;
#[cfg(target_os = "linux")]
mod watched;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use batchwright::Error;

use environment::{Variable, environment};
#[cfg(unix)]
use helper_program::{Confinement, HelperProgram};
use limits::Limits;
use prepared::Prepared;
use programs::Programs;

#[cfg(unix)]
use super::reap;

/// The number of the helper that runs no command. Commands are numbered from one.
#[cfg(unix)]
const TRIAL: u64 = 0;

/// Lets this program be the helper of its own sandboxes: to be called first in `main`.
///
/// A command is confined by a process that confines itself and then becomes the command. That process is
/// this program, started again; here it does so, and does not return. In all other cases this returns at
/// once. A host that does not want that names an installed `batchwright` instead, see [`Sandbox::helper`].
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
///     let status = date.spawn().and_then(|mut child| child.wait());
///     println!("{status:?}");
///     Ok(())
/// }
/// ```
pub fn confine_main() {
    #[cfg(unix)]
    helper::main();
}

/// How much of a [`Sandbox`] the kernel has to enforce.
///
/// The programs that are allowed and the environment hold in every mode: they need no kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SandboxMode {
    /// All of it, or nothing is started.
    #[default]
    On,
    /// As much as it can; what it cannot is said.
    BestEffort,
    /// Nothing of it, apart from limits that were asked for.
    Off,
}

impl SandboxMode {
    /// Every mode, the strictest first.
    pub const ALL: [Self; 3] = [Self::On, Self::BestEffort, Self::Off];

    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::BestEffort => "best-effort",
            Self::Off => "off",
        }
    }

    /// The mode of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == name)
    }
}

impl fmt::Display for SandboxMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a command may do. The default is what a command needs that works on the files of its folder.
#[derive(Debug, Clone, Default)]
pub struct Sandbox {
    mode: SandboxMode,
    helper: Option<PathBuf>,
    allowed: Option<Vec<OsString>>,
    variables: Vec<Variable>,
    network: bool,
    local_sockets: bool,
    writable: Vec<PathBuf>,
    limits: Limits,
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

    /// Names the program that confines commands, if it is not the running one: an installed
    /// `batchwright`.
    pub fn helper(mut self, program: impl Into<PathBuf>) -> Self {
        self.helper = Some(program.into());
        self
    }

    /// Allows these programs and no other. A name means the program that is found under it in `PATH`, a path
    /// the program there. One that is changed afterwards is refused. What an allowed program starts itself is
    /// not checked. Default: every program.
    pub fn allow<I>(mut self, programs: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        let programs = programs.into_iter().map(Into::into);
        self.allowed.get_or_insert_default().extend(programs);
        self
    }

    /// Hands a variable of this process on to commands, if it is set; `*` means all. Default: `PATH`, `HOME`,
    /// `LANG`, `LC_…`, `TZ`, `TERM`, `TMPDIR`.
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

    /// Lets commands use the network. Default: no.
    pub fn network(mut self, yes: bool) -> Self {
        self.network = yes;
        self
    }

    /// Lets commands connect to sockets in the file system: those of `ssh-agent`, Docker or systemd. Whoever
    /// can talk to those can have done there what the sandbox refuses. Default: no.
    pub fn local_sockets(mut self, yes: bool) -> Self {
        self.local_sockets = yes;
        self
    }

    /// Lets commands write to a file, or below a folder, besides their working directory. It must be there when
    /// the sandbox is prepared; when something else is put in its place, no further command is started.
    pub fn write_to(mut self, path: impl Into<PathBuf>) -> Self {
        self.writable.push(path.into());
        self
    }

    /// Sets what a command may use. Default: [`Limits::default`]; with [`SandboxMode::Off`]
    /// [`Limits::NONE`] costs least.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Says that this process starts nothing but commands. Then every other child that it has at the end was left
    /// behind by one, and is killed, even if it left its group and session and cleared its environment. Default: no,
    /// and such a process is not told from others.
    pub fn owns_children(mut self, yes: bool) -> Self {
        self.owns_children = yes;
        self
    }

    /// Tries whether the kernel enforces it, and starts what watches over commands.
    ///
    /// # Errors
    /// A [critical](Error::is_critical) one if the kernel lacks something and the mode is
    /// [`SandboxMode::On`], if there is no helper, or if a program that is allowed or a place that commands may
    /// write to does not exist.
    pub fn prepare(&self) -> Result<Prepared, Error> {
        let environment = environment(std::env::vars_os(), &self.variables);
        let path = environment.iter().find(|(name, _)| name == "PATH");
        let path = path.map(|(_, path)| path.clone()).unwrap_or_default();
        let here = std::env::current_dir().unwrap_or_default();
        let programs = Programs::new(path, self.allowed.as_deref(), &here)?;
        self.prepare_with(programs, environment)
    }

    #[cfg(not(unix))]
    fn prepare_with(
        &self,
        programs: Programs,
        environment: Vec<(OsString, OsString)>,
    ) -> Result<Prepared, Error> {
        let wanted = self.mode != SandboxMode::Off || self.limits != Limits::NONE;
        let missing = match wanted {
            true => vec!["anything but the choice of programs and variables".to_owned()],
            false => vec![],
        };
        if self.mode == SandboxMode::On {
            return Err(lacking(&missing));
        }
        Ok(Prepared {
            programs,
            environment,
            not_in_force: missing,
            limits: self.limits,
            next: std::sync::Arc::new(std::sync::atomic::AtomicU64::new(1)),
        })
    }

    #[cfg(unix)]
    fn prepare_with(
        &self,
        programs: Programs,
        environment: Vec<(OsString, OsString)>,
    ) -> Result<Prepared, Error> {
        let mut prepared = Prepared {
            programs,
            environment,
            not_in_force: Vec::new(),
            limits: self.limits,
            next: std::sync::Arc::new(std::sync::atomic::AtomicU64::new(1)),
            places: parking_lot::Mutex::default(),
            confinement: None,
            #[cfg(target_os = "linux")]
            run: None,
            #[cfg(target_os = "linux")]
            starter: None,
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
        #[cfg(target_os = "linux")]
        {
            let run = run::Run::start(&helper, &self.limits, self.owns_children, needed)?;
            prepared.run = Some(std::sync::Arc::new(run));
        }
        if needed {
            let mut policy = self.policy(&mut prepared)?;
            // The watchdog kills children that it was not told of.
            #[cfg(target_os = "linux")]
            let tell = |news| prepared.run.as_ref().map(|run| run.announce(news));
            #[cfg(target_os = "linux")]
            let _ = tell(orders::News::Starting(TRIAL));
            let mut tried = self.try_out(&helper, &policy);
            if let Err(error) = &tried
                && policy.cgroup.take().is_some()
            {
                log::debug!("commands get no cgroup: {}", error.message());
                tried = self.try_out(&helper, &policy);
            }
            #[cfg(target_os = "linux")]
            let _ = tell(orders::News::NotStarted(TRIAL));
            prepared.not_in_force = tried?;
            prepared.confine_by(Confinement { helper, policy });
        }
        Ok(prepared)
    }

    /// What holds for all commands of a run; files that they may need for a moment go into its folder.
    #[cfg(unix)]
    fn policy(&self, prepared: &mut Prepared) -> Result<policy::Policy, Error> {
        let mut writable = self.writable.clone();
        let confine = self.mode != SandboxMode::Off;
        let mut policy = policy::Policy {
            token: format!("batchwright-{}", uuid::Uuid::now_v7().simple()),
            parent: std::process::id(),
            confine,
            strict: self.mode == SandboxMode::On,
            network: self.network,
            local_sockets: self.local_sockets,
            limits: self.limits,
            ..policy::Policy::default()
        };
        #[cfg(target_os = "linux")]
        if let Some(run) = &prepared.run {
            let cgroups = run.cgroups.as_ref();
            policy.cgroup = cgroups.map(|tree| tree.path().to_owned());
            let named = |wish: &Variable| match wish {
                Variable::Passed(name) | Variable::Set(name, _) => name == "TMPDIR",
            };
            if confine && !self.variables.iter().any(named) {
                prepared.environment.retain(|(name, _)| name != "TMPDIR");
                let folder = run.temporary().into_os_string();
                prepared.environment.push(("TMPDIR".into(), folder));
                writable.push(run.temporary());
            }
        }
        for path in writable.iter().filter(|_| confine) {
            let held = place::Held::new(path).map_err(|error| {
                programs::refused(format!(
                    "commands cannot write to {}: {error}",
                    path.display()
                ))
            })?;
            policy.writable.push(held.place.clone());
            prepared.places.get_mut().push(held);
        }
        let late = |(name, _): &mut (OsString, OsString)| prepared::is_loaded_early(name);
        policy.late_variables = prepared.environment.extract_if(.., late).collect();
        Ok(policy)
    }

    /// Confines a helper that runs no command, and returns what the kernel lacks.
    #[cfg(unix)]
    fn try_out(
        &self,
        helper: &HelperProgram,
        policy: &policy::Policy,
    ) -> Result<Vec<String>, Error> {
        let root = place::Held::new(std::path::Path::new("/"))
            .map_err(|error| programs::refused(format!("cannot open /: {error}")))?;
        let mut policy = policy.of_command(TRIAL, root.place.clone());
        policy.strict = false;
        let mut command = helper.command();
        command.arg(helper::CONFINE).env_clear();
        command.env(policy::VARIABLE, policy.encode());
        let output = reap::output(command)
            .map_err(|error| programs::refused(format!("cannot start {helper}: {error}")))?;
        #[cfg(target_os = "linux")]
        if let Some(cgroup) = &policy.cgroup {
            let _ = cgroup::end(cgroup);
        }
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if !output.status.success() {
            let why = said(&output.stderr);
            let why = why.strip_prefix(&policy.token).unwrap_or(&why);
            return Err(programs::refused(format!(
                "{helper} cannot confine commands: {}",
                why.trim()
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
