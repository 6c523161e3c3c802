//! One command: its process, why it ended, and what it leaves behind.

use std::io;
use std::process::{Child, Command, ExitStatus};
#[cfg(target_os = "linux")]
use std::sync::Arc;

use batchwright::Error;

use super::limits::Limits;
use super::programs::refused;
#[cfg(target_os = "linux")]
use super::{slot::Slots, watchdog::uses_too_much_memory, watched::Watched, wire::Order};
#[cfg(unix)]
use crate::{group_watchdog::Group, started::Started};

/// One command in its sandbox. Drop it after the command has ended: that kills the processes that the command left
/// behind.
#[derive(Debug)]
pub struct Confined {
    pub(super) command: Command,
    pub(super) token: Option<String>,
    pub(super) limits: Limits,
    /// The process group in which it starts, if no sandbox ends it together with this program.
    #[cfg(unix)]
    pub(crate) group: Option<Group>,
    #[cfg(target_os = "linux")]
    pub(super) watched: Watched,
    /// The launchers of the run, and what one of them receives, if the command is started in this way.
    #[cfg(target_os = "linux")]
    pub(super) launch: Option<(Arc<Slots>, Order)>,
}

/// The effect of a sandbox on a command, with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intervention {
    /// It was never started.
    NotStarted(String),
    /// It exceeded a limit.
    Killed(String),
}

impl Confined {
    /// A command that is not confined.
    pub(crate) fn unconfined(command: Command) -> Self {
        Self {
            command,
            token: None,
            limits: Limits::NONE,
            #[cfg(unix)]
            group: None,
            #[cfg(target_os = "linux")]
            watched: Watched::default(),
            #[cfg(target_os = "linux")]
            launch: None,
        }
    }

    /// The command, to set its standard input and outputs. Program, arguments, environment and folder are already set;
    /// if it starts through a helper, they are those of the helper.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Starts it in a separate process group. The caller must kill this group before it waits for the command.
    ///
    /// On Linux, a confined command ends together with the thread that started it, so that thread must run at least as
    /// long.
    ///
    /// # Errors
    /// Those of [`Command::spawn`].
    pub fn spawn(&mut self) -> io::Result<Child> {
        #[cfg(unix)]
        {
            let group = self.group.as_ref();
            let group = group.map_or(0, |group| group.id.as_raw_nonzero().get());
            std::os::unix::process::CommandExt::process_group(&mut self.command, group);
        }
        #[cfg(target_os = "linux")]
        return self.watched.spawn(&mut self.command);
        #[cfg(not(target_os = "linux"))]
        self.command.spawn()
    }

    /// Starts it without input, and with pipes for its outputs.
    #[cfg(unix)]
    pub(crate) fn start_piped(&mut self) -> io::Result<Started> {
        use std::process::Stdio;

        #[cfg(target_os = "linux")]
        if let Some((slots, order)) = &self.launch {
            use std::os::fd::AsFd;

            let (out_reader, out_writer) = io::pipe()?;
            let (err_reader, err_writer) = io::pipe()?;
            let launched = slots.start(order, [out_writer.as_fd(), err_writer.as_fd()])?;
            self.watched = launched.watched();
            let readers = [out_reader.into(), err_reader.into()];
            return Ok(Started::launched(launched, readers));
        }
        let spawn = |of: &mut Self| {
            of.command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            of.spawn()
        };
        let child = match spawn(self) {
            Err(error) if has_no_interpreter(&error) => {
                self.command = by_shell(&self.command);
                spawn(self)?
            }
            spawned => spawned?,
        };
        let started = Started::child(child, self.group.as_ref());
        if let Some((group, pid)) = self.group.as_ref().zip(started.pid()) {
            group.started(pid);
        }
        Ok(started)
    }

    /// To be called every second while the command runs: reaps processes that commands have left behind.
    #[cfg(unix)]
    pub(crate) fn reap_orphans(&self) {
        #[cfg(target_os = "linux")]
        self.watched.reap_orphans();
    }

    /// The reason of its end if the sandbox caused it: it could not be started, or exceeded a limit. `stderr` is its
    /// standard error, or the beginning of it.
    pub fn failure(&self, status: ExitStatus, stderr: &[u8]) -> Option<Error> {
        #[cfg(unix)]
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        #[cfg(not(unix))]
        let signal = None;
        self.intervention(status.code(), signal, stderr)
            .map(|what| match what {
                Intervention::NotStarted(why) => refused(why),
                Intervention::Killed(why) => refused(format!("killed: {why}")),
            })
    }

    /// The same as data.
    #[cfg(not(unix))]
    pub(crate) fn intervention(
        &self,
        _: Option<i32>,
        _: Option<i32>,
        _: &[u8],
    ) -> Option<Intervention> {
        let _ = (&self.token, self.limits);
        None
    }

    /// The same as data.
    #[cfg(unix)]
    pub(crate) fn intervention(
        &self,
        exit_code: Option<i32>,
        signal: Option<i32>,
        stderr: &[u8],
    ) -> Option<Intervention> {
        use rustix::process::Signal;

        if let (Some(token), Some(super::helper::FAILED)) = (&self.token, exit_code) {
            let text = String::from_utf8_lossy(stderr);
            let said = |line: &str| line.strip_prefix(token.as_str()).map(str::to_owned);
            let why = text.lines().find_map(said)?;
            return Some(Intervention::NotStarted(why.trim().to_owned()));
        }
        let signal = Signal::from_named_raw(signal?)?;
        let reason = if signal == Signal::XCPU {
            let limit = self.limits.cpu_seconds?;
            format!("it used more than {limit} s of processor time; --cpu SECONDS allows more")
        } else if signal == Signal::XFSZ {
            let limit = self.limits.file_size?;
            format!("it wrote a file of more than {limit} bytes; --max-file SIZE allows more")
        } else {
            self.watchdogs_reason(signal)?
        };
        Some(Intervention::Killed(reason))
    }

    #[cfg(unix)]
    fn watchdogs_reason(&self, signal: rustix::process::Signal) -> Option<String> {
        #[cfg(target_os = "linux")]
        if signal == rustix::process::Signal::KILL {
            // Between two checks of the watchdog, the kernel may have killed it because of its memory.
            let ran_out = |_: &u64| self.watched.ran_out_of_memory();
            let limit = || self.limits.memory.filter(ran_out);
            let reported = self.watched.reason();
            return reported.or_else(|| limit().map(uses_too_much_memory));
        }
        let _ = signal;
        None
    }
}

/// Whether the kernel does not know how to run the program. `/bin/sh` runs it then, as `execvp` does.
#[cfg(unix)]
fn has_no_interpreter(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error())
}

/// The same command, run by the shell. It has either a complete environment or that of this process.
#[cfg(unix)]
fn by_shell(command: &Command) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        shell.current_dir(folder);
    }
    let variables: Vec<_> = command.get_envs().collect();
    if !variables.is_empty() {
        shell.env_clear();
    }
    for (name, value) in variables {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    shell
}
