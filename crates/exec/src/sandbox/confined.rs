//! One command: its process, why it ended, and what it leaves behind.

use std::fs::File;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::process::{Command, ExitStatus, Output, Stdio};
#[cfg(target_os = "linux")]
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use batchwright::Error;

use super::programs::refused;
#[cfg(target_os = "linux")]
use super::{slot::Slots, watchdog::uses_too_much_memory, watched::Watched, wire::Order};
use crate::output::STRAGGLERS;
#[cfg(unix)]
use crate::{group_watchdog::Group, started::Started};

/// One command in its sandbox. Drop it after the command has ended: that kills the processes that the command left
/// behind.
#[derive(Debug)]
pub struct Confined {
    start: Start,
    /// The process group in which it starts, if no sandbox ends it together with this program.
    #[cfg(unix)]
    pub(crate) group: Option<Group>,
    #[cfg(target_os = "linux")]
    pub(super) watched: Watched,
}

/// How a command is started.
#[derive(Debug)]
enum Start {
    Directly(Command),
    /// By a launcher of the run.
    #[cfg(target_os = "linux")]
    Launched(Arc<Slots>, Order),
}

/// A command that [`Confined::spawn`] has started. Dropping it kills the command.
#[derive(Debug)]
pub struct ConfinedProcess<'c> {
    /// Its standard output, until it is taken.
    pub stdout: Option<File>,
    /// Its standard error, until it is taken.
    pub stderr: Option<File>,
    #[cfg(unix)]
    process: Started,
    #[cfg(not(unix))]
    process: std::process::Child,
    ended: bool,
    /// Dropping the [`Confined`] kills the command, and each can be started once at a time.
    confined: PhantomData<&'c mut Confined>,
}

impl Confined {
    /// A command that is started directly.
    pub(crate) fn unconfined(command: Command) -> Self {
        Self {
            start: Start::Directly(command),
            #[cfg(unix)]
            group: None,
            #[cfg(target_os = "linux")]
            watched: Watched::default(),
        }
    }

    /// A command that a launcher starts.
    #[cfg(target_os = "linux")]
    pub(super) fn launched(slots: Arc<Slots>, order: Order) -> Self {
        Self {
            start: Start::Launched(slots, order),
            group: None,
            watched: Watched::default(),
        }
    }

    /// Runs it without input until it ends, and returns what it printed. Does not wait for a process that left the
    /// group of a command without a sandbox, and that holds an output open.
    ///
    /// # Errors
    /// Those of [`spawn`](Self::spawn) and [`ConfinedProcess::wait`], and errors of reading.
    pub fn output(&mut self) -> Result<Output, Error> {
        let mut process = self.spawn(None)?;
        let stdout = pieces(process.stdout.take());
        let stderr = pieces(process.stderr.take());
        let status = process.wait()?;
        let until = Instant::now() + STRAGGLERS;
        Ok(Output {
            status,
            stdout: joined(&stdout, until)?,
            stderr: joined(&stderr, until)?,
        })
    }

    /// Starts it in a separate process group, with this input, or with an empty one. Its outputs are pipes.
    ///
    /// # Errors
    /// A [critical](Error::is_critical) one if it cannot be started. If its launcher cannot start it,
    /// [`ConfinedProcess::wait`] returns the error.
    pub fn spawn(&mut self, input: Option<File>) -> Result<ConfinedProcess<'_>, Error> {
        let started = self.start_piped(input.as_ref());
        let mut process = started.map_err(|why| refused(format!("cannot start it: {why}")))?;
        Ok(ConfinedProcess {
            #[cfg(unix)]
            stdout: process.stdout.take().map(Into::into),
            #[cfg(unix)]
            stderr: process.stderr.take().map(Into::into),
            #[cfg(not(unix))]
            stdout: process.stdout.take().map(into_file),
            #[cfg(not(unix))]
            stderr: process.stderr.take().map(into_file),
            process,
            ended: false,
            confined: PhantomData,
        })
    }

    #[cfg(not(unix))]
    fn start_piped(&mut self, input: Option<&File>) -> io::Result<std::process::Child> {
        let Start::Directly(command) = &mut self.start;
        command
            .stdin(stdin(input)?)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }

    /// Starts it with pipes for its outputs.
    #[cfg(unix)]
    pub(crate) fn start_piped(&mut self, input: Option<&File>) -> io::Result<Started> {
        let command = match &mut self.start {
            Start::Directly(command) => command,
            #[cfg(target_os = "linux")]
            Start::Launched(slots, order) => {
                use std::os::fd::AsFd;

                let (out_reader, out_writer) = io::pipe()?;
                let (err_reader, err_writer) = io::pipe()?;
                let mut files = vec![out_writer.as_fd(), err_writer.as_fd()];
                files.extend(input.map(AsFd::as_fd));
                let launched = slots.start(order, &files)?;
                self.watched = launched.watched();
                let readers = [out_reader.into(), err_reader.into()];
                return Ok(Started::launched(launched, readers));
            }
        };
        let group = self.group.as_ref();
        let number = group.map_or(0, |group| group.id.as_raw_nonzero().get());
        #[cfg_attr(not(target_os = "linux"), expect(unused_mut))]
        let mut spawn = |command: &mut Command| {
            command
                .stdin(stdin(input)?)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            std::os::unix::process::CommandExt::process_group(command, number);
            #[cfg(target_os = "linux")]
            return self.watched.spawn(command);
            #[cfg(not(target_os = "linux"))]
            command.spawn()
        };
        let child = match spawn(command) {
            Err(error) if has_no_interpreter(&error) => spawn(&mut by_shell(command))?,
            spawned => spawned?,
        };
        let started = Started::child(child, group);
        if let Some((group, pid)) = group.zip(started.pid()) {
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

    /// The reason of its end if it exceeded a limit.
    pub fn failure(&self, status: ExitStatus) -> Option<Error> {
        #[cfg(target_os = "linux")]
        {
            let signal = std::os::unix::process::ExitStatusExt::signal(&status)?;
            let reason = self.excess(signal)?;
            Some(refused(format!("killed: {reason}")))
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = status;
            None
        }
    }

    /// The limit that it exceeded, if it was killed by this signal.
    #[cfg(unix)]
    pub(crate) fn excess(&self, signal: i32) -> Option<String> {
        #[cfg(target_os = "linux")]
        if let Start::Launched(slots, _) = &self.start {
            use rustix::process::Signal;

            let limits = &slots.policy.limits;
            let signal = Signal::from_named_raw(signal)?;
            return if signal == Signal::XCPU {
                let limit = limits.cpu_seconds?;
                Some(format!(
                    "it used more than {limit} s of processor time; --cpu SECONDS allows more"
                ))
            } else if signal == Signal::XFSZ {
                let limit = limits.file_size?;
                Some(format!(
                    "it wrote a file of more than {limit} bytes; --max-file SIZE allows more"
                ))
            } else if signal == Signal::KILL {
                // Between two checks of the watchdog, the kernel may have killed it because of its memory.
                let ran_out = |_: &u64| self.watched.ran_out_of_memory();
                let limit = || limits.memory.filter(ran_out);
                let reported = self.watched.reason();
                reported.or_else(|| limit().map(uses_too_much_memory))
            } else {
                None
            };
        }
        let _ = signal;
        None
    }
}

impl ConfinedProcess<'_> {
    /// Waits for its end. Then kills the processes that it left in its group, and all that a confined command
    /// left. Outputs that were not taken are closed first, so that a command that prints more than a pipe holds fails.
    ///
    /// # Errors
    /// A [critical](Error::is_critical) one if the launcher could not start it, or if the system does not report its
    /// end.
    pub fn wait(mut self) -> Result<ExitStatus, Error> {
        self.ended = true;
        (self.stdout, self.stderr) = (None, None);
        let ended = self.process.wait();
        let ended = ended.map_err(|why| refused(format!("cannot wait for it: {why}")))?;
        #[cfg(not(unix))]
        return Ok(ended);
        #[cfg(unix)]
        ended.status.ok_or_else(|| {
            let left = || crate::record::never_ends(ended.left.unwrap_or_default());
            refused(ended.not_started.map_or_else(left, |refusal| refusal.why))
        })
    }

    /// Kills it, and its process group. [`wait`](Self::wait) reports its end.
    pub fn kill(&mut self) {
        #[cfg(unix)]
        self.process.kill();
        #[cfg(not(unix))]
        let _ = self.process.kill();
    }
}

impl Drop for ConfinedProcess<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
            #[cfg(unix)]
            let _ = self.process.end();
            #[cfg(not(unix))]
            let _ = self.process.wait();
        }
    }
}

/// What a pipe contains, read by a thread that may outlive the command.
fn pieces(pipe: Option<File>) -> Receiver<io::Result<Vec<u8>>> {
    let (sender, pieces) = channel();
    thread::spawn(move || {
        let mut pipe = pipe?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = match pipe.read(&mut buffer) {
                Ok(0) => return None,
                Ok(read) => Ok(buffer[..read].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let is_last = read.is_err();
            if sender.send(read).is_err() || is_last {
                return None::<()>;
            }
        }
    });
    pieces
}

/// The pieces that arrive until then, or until the pipe is closed.
fn joined(pieces: &Receiver<io::Result<Vec<u8>>>, until: Instant) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    while let Ok(piece) = pieces.recv_timeout(until.saturating_duration_since(Instant::now())) {
        let piece = piece.map_err(|why| refused(format!("cannot read its output: {why}")))?;
        bytes.extend(piece);
    }
    Ok(bytes)
}

/// The input of a command.
fn stdin(input: Option<&File>) -> io::Result<Stdio> {
    input.map_or_else(|| Ok(Stdio::null()), |input| Ok(input.try_clone()?.into()))
}

#[cfg(not(unix))]
fn into_file(pipe: impl Into<std::os::windows::io::OwnedHandle>) -> File {
    pipe.into().into()
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
