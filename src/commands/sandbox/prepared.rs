//! A sandbox that stands: finds programs, and makes the process of each command.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
#[cfg(target_os = "linux")]
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::limits::Limits;
use super::programs::{Programs, refused};
#[cfg(unix)]
use super::{helper, policy};
#[cfg(target_os = "linux")]
use super::{
    processes::{self, Process},
    run::Run,
    watchdog::COMMAND,
};
use crate::base::error::Error;

/// Variables by which the helper itself would load code before it is confined.
#[cfg(unix)]
const LOADED_EARLY: [&[u8]; 2] = [b"LD_", b"GLIBC_TUNABLES"];

/// Whether the helper would obey such a variable itself.
#[cfg(unix)]
pub(super) fn is_loaded_early(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    LOADED_EARLY.iter().any(|early| name.starts_with(early))
}

/// A [`Sandbox`](super::Sandbox) for the commands of one run. What was started for it ends when it is dropped.
#[derive(Debug)]
pub struct Prepared {
    pub(super) programs: Programs,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) not_in_force: Vec<String>,
    pub(super) limits: Limits,
    pub(super) next: AtomicU64,
    /// How commands are started through the helper, if they are.
    #[cfg(unix)]
    pub(super) confinement: Option<Confinement>,
    #[cfg(target_os = "linux")]
    pub(super) run: Option<Arc<Run>>,
}

/// What all commands of a run are confined by.
#[cfg(unix)]
#[derive(Debug)]
pub struct Confinement {
    pub helper: PathBuf,
    /// Of every command, apart from its number and folder.
    pub policy: policy::Policy,
}

impl Prepared {
    /// What the kernel does not enforce here although it was asked for: empty unless the mode is
    /// [`BestEffort`](super::SandboxMode::BestEffort).
    pub fn not_in_force(&self) -> &[String] {
        &self.not_in_force
    }

    /// The file that `program` means to a command in `folder`: a name is looked up in the `PATH` of commands, a
    /// path is taken from `folder`.
    ///
    /// # Errors
    /// A [critical](Error::is_critical) one if there is no such program, or it is not allowed.
    pub fn resolve(&self, program: &OsStr, folder: &Path) -> Result<PathBuf, Error> {
        self.programs.resolve(program, folder)
    }

    /// A command that runs `program`, as [`resolve`](Self::resolve) found it, in `folder`, and may write there.
    pub fn command(&self, program: &Path, arguments: &[OsString], folder: &Path) -> Confined {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        #[cfg(unix)]
        let (mut command, token) = match &self.confinement {
            Some(confinement) => {
                let policy = confinement.policy.of_command(number, folder);
                let mut command = Command::new(&confinement.helper);
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
            number,
            token,
            limits: self.limits,
            group: None,
            #[cfg(target_os = "linux")]
            run: self.run.clone(),
        }
    }

    fn plain(&self, program: &Path, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir(folder);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// One command in its sandbox. Dropped after its end, it kills what the command has left behind.
#[derive(Debug)]
pub struct Confined {
    command: Command,
    number: u64,
    token: Option<String>,
    limits: Limits,
    /// Its process group, once it is started.
    group: Option<u32>,
    #[cfg(target_os = "linux")]
    run: Option<Arc<Run>>,
}

impl Confined {
    /// The command, to set where its input comes from and its output goes. Program, arguments, environment
    /// and folder are set already, and not the program's own where a helper comes first.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Starts it in a process group of its own.
    ///
    /// On Linux a confined command ends with the thread that started it: this one must last as long.
    ///
    /// # Errors
    /// Those of [`Command::spawn`].
    pub fn spawn(&mut self) -> io::Result<Child> {
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut self.command, 0);
        let child = self.command.spawn()?;
        self.group = Some(child.id());
        #[cfg(target_os = "linux")]
        if let (None, Some(run)) = (&self.token, &self.run) {
            // A helper says so itself.
            run.announce(self.number, child.id());
        }
        Ok(child)
    }

    /// Why it ended, if that was the sandbox's doing and not its own: it could not be started, or used too
    /// much. `stderr` is what it wrote to standard error, or the last of it.
    pub fn failure(&self, status: ExitStatus, stderr: &[u8]) -> Option<Error> {
        #[cfg(unix)]
        {
            use std::os::unix::process::ExitStatusExt;

            use rustix::process::Signal;

            #[cfg(target_os = "linux")]
            const KILL: i32 = Signal::KILL.as_raw();
            const XCPU: i32 = Signal::XCPU.as_raw();
            const XFSZ: i32 = Signal::XFSZ.as_raw();

            if let (Some(token), Some(helper::FAILED)) = (&self.token, status.code()) {
                let text = String::from_utf8_lossy(stderr);
                let said = |line: &str| line.strip_prefix(token.as_str()).map(str::to_owned);
                if let Some(why) = text.lines().find_map(said) {
                    return Some(refused(why.trim().to_owned()));
                }
            }
            let reason = match (status.signal()?, self.limits) {
                #[cfg(target_os = "linux")]
                (KILL, _) => self.run.as_ref()?.reason(self.number)?,
                (
                    XCPU,
                    Limits {
                        cpu_seconds: Some(limit),
                        ..
                    },
                ) => {
                    format!("it used more than {limit} s of processor time")
                }
                (
                    XFSZ,
                    Limits {
                        file_size: Some(limit),
                        ..
                    },
                ) => {
                    format!("it wrote a file of more than {limit} bytes")
                }
                _ => return None,
            };
            Some(refused(format!("killed: {reason}")))
        }
        #[cfg(not(unix))]
        {
            let _ = (status, stderr, self.number, &self.token, self.limits);
            None
        }
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(group) = self.group.and_then(as_pid) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            #[cfg(target_os = "linux")]
            if let Some(run) = &self.run {
                end_strays(run, self.number, group);
            }
        }
    }
}

#[cfg(unix)]
fn as_pid(number: u32) -> Option<rustix::process::Pid> {
    rustix::process::Pid::from_raw(number.cast_signed())
}

/// Ends what left the process group of a command, and what of it this process has inherited. Such processes
/// are children of the first thread, which others are started from that is no command's.
#[cfg(target_os = "linux")]
fn end_strays(run: &Run, number: u64, group: rustix::process::Pid) {
    use rustix::process::{Pid, WaitOptions, getsid, waitpgid, waitpid};

    let own = format!("{}.{number}", run.id).into_bytes();
    let first = std::process::id().cast_signed();
    let session = getsid(None).map(|pid| pid.as_raw_nonzero().get());
    for pid in processes::children(first, Some(first)) {
        let Some(process) = Process::of(pid) else {
            continue;
        };
        // Of what has ended before there is no environment any more; a session of its own tells it from
        // processes that the standard library starts.
        let stray = match process.ended {
            true => process.group == group.as_raw_nonzero().get() || Ok(process.session) != session,
            false => processes::variable(pid, COMMAND).is_some_and(|value| value == own),
        };
        if !stray {
            continue;
        }
        if !process.ended {
            processes::kill_tree(process.identity);
        }
        let _ = waitpid(Pid::from_raw(pid), WaitOptions::empty());
    }
    // Nobody else asks how the rest of the group ended.
    while let Ok(Some(_)) = waitpgid(group, WaitOptions::NOHANG) {}
}
