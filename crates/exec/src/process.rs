//! Runs one command from its start to its end.
//!
//! One loop waits for all events: the end of the process, its two pipes, the request to stop, and the next deadline. It
//! starts no thread. As soon as the command itself has ended, the rest of its group is killed: immediately if no process
//! holds its pipes any more, otherwise after a moment in which the last output is read. The process is reaped after that,
//! so no other process can have its number when the group is killed.

use std::cell::Cell;
use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use batchwright::unstable::{Clock, SystemClock};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};

use super::output::{Capture, OutputSettings, STRAGGLERS};
use super::record::{CommandJob, CommandResult, FailureKind, JobError};
use super::sandbox::Launcher;
use super::sandbox::programs::Unusable;
#[cfg(target_os = "linux")]
use crate::sandbox::{Launched, Reply};

/// A killed command whose end is not reported after this time is left behind.
const AFTER_KILL: Duration = Duration::from_secs(10);
/// Time between SIGTERM and SIGKILL for aborted commands.
const ABORT_GRACE: Duration = Duration::from_millis(250);
/// Interval of checks for the end of a process if no event reports it.
const LOOK: Duration = Duration::from_millis(5);
/// Number of bytes read at once; a pipe holds no more.
const BUFFER: usize = 64 * 1024;

thread_local! {
    /// Read buffer of the commands that this thread runs one after the other. It is filled with zeros only once.
    static READ: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A request to end the running commands: a pipe that becomes readable when its writing end is closed. All waiting
/// threads notice it, and it is never reset.
pub(super) struct StopCall {
    seen: PipeReader,
    open: Mutex<Option<PipeWriter>>,
}

impl StopCall {
    pub fn new() -> io::Result<Self> {
        let (seen, writer) = io::pipe()?;
        let open = Mutex::new(Some(writer));
        Ok(Self { seen, open })
    }

    /// Ends the running commands.
    pub fn abort(&self) {
        self.open.lock().take();
    }

    /// Waits for a request to end the running commands, at most this long.
    pub fn wait(&self, longest: Duration) {
        ready([Some(self.seen.as_fd()), None, None, None], Some(longest));
    }
}

/// The process of a command that was started.
enum Process {
    /// A child of this program, the leader of its group.
    Child {
        child: Child,
        pidfd: Option<OwnedFd>,
    },
    #[cfg(target_os = "linux")]
    Launched {
        launched: Launched,
        /// What the keeper has reported.
        outcome: Option<Result<End, JobError>>,
    },
}

/// How a process ended.
#[derive(Clone, Copy)]
struct End {
    code: Option<i32>,
    signal: Option<i32>,
}

impl Process {
    fn start(
        launcher: &Launcher,
        job: &CommandJob,
        outputs: [PipeWriter; 2],
    ) -> Result<Self, JobError> {
        let words = launcher.words(job)?;
        let failed = |why: io::Error| not_started(job, &why);
        #[cfg(target_os = "linux")]
        if let Some(keeper) = &launcher.keeper {
            let outputs = [outputs[0].as_fd(), outputs[1].as_fd()];
            let launched = keeper.run(words, outputs).map_err(|why| match why.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => lost(),
                _ => failed(why),
            })?;
            let outcome = None;
            return Ok(Self::Launched { launched, outcome });
        }
        let [stdout, stderr] = outputs;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(&launcher.folder);
        if let Some(environment) = &launcher.environment {
            command
                .env_clear()
                .envs(environment.iter().map(|(name, value)| (name, value)));
        }
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let child = command.process_group(0).spawn().map_err(failed)?;
        #[cfg(target_os = "linux")]
        let pidfd = rustix::process::pidfd_open(
            Pid::from_child(&child),
            rustix::process::PidfdFlags::empty(),
        )
        .ok();
        #[cfg(not(target_os = "linux"))]
        let pidfd = None;
        Ok(Self::Child { child, pidfd })
    }

    /// Becomes readable when it has ended, if an event reports that.
    fn event(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Child { pidfd, .. } => pidfd.as_ref().map(AsFd::as_fd),
            #[cfg(target_os = "linux")]
            Self::Launched { launched, .. } => Some(launched.event()),
        }
    }

    /// Whether it has ended, which is not reaped here. `event`: the event was seen.
    fn has_ended(&mut self, event: bool, job: &CommandJob) -> bool {
        match self {
            Self::Child { pidfd: Some(_), .. } => event,
            Self::Child { child, .. } => {
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
                match waitid(WaitId::Pid(Pid::from_child(child)), options) {
                    Ok(status) => status.is_some(),
                    Err(error) => error != Errno::INTR,
                }
            }
            #[cfg(target_os = "linux")]
            Self::Launched { launched, outcome } => {
                if !event {
                    return false;
                }
                match launched.reply() {
                    Ok(Reply::NotStarted { why, scarce }) => {
                        *outcome = Some(Err(refused(job, why, scarce)));
                        // Its end is reported, too.
                        return false;
                    }
                    Ok(Reply::Ended { code, signal }) => {
                        outcome.get_or_insert(Ok(End { code, signal }));
                    }
                    Err(_) => *outcome = Some(Err(lost())),
                }
                true
            }
        }
    }

    /// Signals the command and its group.
    fn signal(&self, signal: Signal) {
        match self {
            Self::Child { child, .. } => signal_group(Pid::from_child(child), signal),
            #[cfg(target_os = "linux")]
            Self::Launched { launched, .. } => launched.signal(signal.as_raw()),
        }
    }

    /// How the command ended, after [`has_ended`](Self::has_ended). What is left of its group is killed.
    fn end(self, launcher: &Launcher) -> Result<End, JobError> {
        match self {
            Self::Child { mut child, .. } => {
                signal_group(Pid::from_child(&child), Signal::KILL);
                let status = child.wait().map_err(|why| {
                    let why = format!("how it ended is unknown: {why}");
                    JobError::new(FailureKind::NotStarted, why)
                })?;
                Ok(End {
                    code: status.code(),
                    signal: status.signal(),
                })
            }
            #[cfg(target_os = "linux")]
            Self::Launched { launched, outcome } => {
                let outcome = outcome.unwrap_or_else(|| Err(lost()));
                // The keeper kills the rest of the group before the next command, or after a moment.
                let is_lost = outcome.as_ref().is_err_and(JobError::is_lost);
                if let Some(keeper) = launcher.keeper.as_ref().filter(|_| !is_lost) {
                    keeper.keep(launched);
                }
                outcome
            }
        }
    }
}

/// Runs the command until it ends. The second value is why it failed, if it did.
///
/// # Errors
/// If it cannot be started.
pub(super) fn run(
    launcher: &Launcher,
    job: &CommandJob,
    limits: CommandLimits,
    stop: &StopCall,
) -> Result<(CommandResult, Option<JobError>), JobError> {
    let start = SystemClock.wall();
    let began = Instant::now();
    let pipes = || Ok((io::pipe()?, io::pipe()?));
    let pipes = pipes().map_err(|why| not_started(job, &why))?;
    let ((stdout, out_writer), (stderr, err_writer)) = pipes;
    let mut watched = Watched {
        process: Process::start(launcher, job, [out_writer, err_writer])?,
        job,
        streams: [stdout, stderr].map(|pipe| Stream {
            pipe: Some(pipe),
            capture: Capture::new(limits.output),
        }),
        stop: Some(stop.seen.as_fd()),
        ended: false,
    };
    let mut killing = Killing {
        timeout_at: limits
            .timeout
            .and_then(|timeout| began.checked_add(timeout)),
        ..Killing::default()
    };
    let mut buffer = READ.take();
    loop {
        let (ended, stopped) = watched.wait(killing.next(), &mut buffer);
        let now = Instant::now();
        if ended {
            killing.give_up_at = Some(now + STRAGGLERS);
        }
        if watched.ended && watched.is_silent() {
            break;
        }
        if stopped {
            killing.stopped = true;
            killing.ask_to_end(&watched.process, now, ABORT_GRACE.min(limits.grace));
        }
        if killing.advance(&watched, now, limits.grace) {
            break;
        }
    }
    let duration = began.elapsed();
    // A process that has left the group may print for ever.
    watched.drain(&mut buffer, Instant::now() + STRAGGLERS);
    READ.set(buffer);
    let end = if watched.ended {
        Some(watched.process.end(launcher)?)
    } else {
        log::warn!("{}", NEVER_ENDS);
        None
    };
    let [(stdout, out_error), (stderr, err_error)] =
        watched.streams.map(|stream| stream.capture.end());
    let result = CommandResult {
        exit_code: end.and_then(|end| end.code),
        signal: end.and_then(|end| end.signal),
        start,
        duration,
        stdout,
        stderr,
    };
    let failure = match (out_error.or(err_error), end) {
        (Some(why), _) => Some(unkept(&why)),
        (None, None) if !killing.timed_out => Some((FailureKind::Signal, NEVER_ENDS.to_owned())),
        _ => killing.failure(&result, limits),
    };
    let error = failure.map(|(kind, why)| JobError::new(kind, why));
    Ok((result, error))
}

/// Why an output is not kept.
fn unkept(why: &io::Error) -> (FailureKind, String) {
    let kind = match why.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FailureKind::DiskFull,
        _ => FailureKind::NotStarted,
    };
    (kind, format!("its output cannot be kept: {why}"))
}

/// The message about a process whose end is no longer waited for.
const NEVER_ENDS: &str = "it was killed, but the system does not report its end; it is left behind";

/// The times at which a group is asked to end, is killed, and is abandoned.
#[derive(Default)]
struct Killing {
    timeout_at: Option<Instant>,
    kill_at: Option<Instant>,
    give_up_at: Option<Instant>,
    timed_out: bool,
    stopped: bool,
}

impl Killing {
    fn next(&self) -> Option<Instant> {
        let times = [self.timeout_at, self.kill_at, self.give_up_at];
        times.into_iter().flatten().min()
    }

    fn ask_to_end(&mut self, process: &Process, now: Instant, grace: Duration) {
        self.timeout_at = None;
        process.signal(Signal::TERM);
        // A stopped process could not react to the signal.
        process.signal(Signal::CONT);
        let at = now + grace;
        self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
    }

    /// Why a command that ended so has failed; `None` if it succeeded.
    fn failure(
        &self,
        result: &CommandResult,
        limits: CommandLimits,
    ) -> Option<(FailureKind, String)> {
        Some(if self.timed_out {
            let limit = humantime::format_duration(limits.timeout.unwrap_or_default());
            (FailureKind::Timeout, format!("killed after {limit}"))
        } else if result.exit_code == Some(0) {
            return None;
        } else if self.stopped {
            let why = "killed while it ran, since the run ended early";
            (FailureKind::Cancelled, why.to_owned())
        } else if let Some(signal) = result.signal {
            (FailureKind::Signal, format!("killed by signal {signal}"))
        } else {
            let code = result.exit_code.unwrap_or_default();
            (FailureKind::Exit, format!("exit code {code}"))
        })
    }

    /// Does what is due. Returns true if nothing more is waited for.
    fn advance(&mut self, watched: &Watched<'_>, now: Instant, grace: Duration) -> bool {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if watched.ended {
            // Its own time limit and the time of the kill no longer matter.
            (self.timeout_at, self.kill_at) = (None, None);
        }
        if due(self.timeout_at) {
            self.timed_out = true;
            self.ask_to_end(&watched.process, now, grace);
        }
        if due(self.kill_at) {
            self.kill_at = None;
            watched.process.signal(Signal::KILL);
            self.give_up_at = now.checked_add(AFTER_KILL);
        }
        due(self.give_up_at)
    }
}

/// The sources of events of a command.
struct Watched<'a> {
    process: Process,
    job: &'a CommandJob,
    /// Standard output and standard error.
    streams: [Stream; 2],
    /// The request to stop, until it is noticed.
    stop: Option<BorrowedFd<'a>>,
    ended: bool,
}

impl Watched<'_> {
    fn is_silent(&self) -> bool {
        self.streams.iter().all(|stream| stream.pipe.is_none())
    }

    /// Waits for an event or until `until`, and reads what was printed. Returns whether the command has ended now, and
    /// whether it is to be ended.
    fn wait(&mut self, until: Option<Instant>, buffer: &mut Vec<u8>) -> (bool, bool) {
        let mut timeout = until.map(|at| at.saturating_duration_since(Instant::now()));
        let exit = self.process.event().filter(|_| !self.ended);
        if exit.is_none() && !self.ended {
            timeout = Some(timeout.map_or(LOOK, |timeout| timeout.min(LOOK)));
        }
        let [out, err] = [0, 1].map(|stream| self.streams[stream].fd());
        let [out, err, stopped, exited] = ready([out, err, self.stop, exit], timeout);
        self.read([out, err], buffer);
        if stopped {
            self.stop = None;
        }
        let ended = !self.ended && self.process.has_ended(exited, self.job);
        self.ended |= ended;
        (ended, stopped)
    }

    fn read(&mut self, readable: [bool; 2], buffer: &mut Vec<u8>) {
        for (stream, is_readable) in self.streams.iter_mut().zip(readable) {
            if is_readable {
                stream.read(buffer);
            }
        }
    }

    /// Reads what is in the pipes already.
    fn drain(&mut self, buffer: &mut Vec<u8>, until: Instant) {
        while !self.is_silent() && Instant::now() < until {
            let [out, err] = [0, 1].map(|stream| self.streams[stream].fd());
            let [out, err, ..] = ready([out, err, None, None], Some(Duration::ZERO));
            if !out && !err {
                return;
            }
            self.read([out, err], buffer);
        }
    }
}

/// Which of these became readable or were closed within this time.
fn ready(watched: [Option<BorrowedFd<'_>>; 4], timeout: Option<Duration>) -> [bool; 4] {
    let mut fds: Vec<PollFd<'_>> = watched
        .iter()
        .flatten()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    if poll(&mut fds, timeout.as_ref()).is_err() {
        // Interrupted by a signal: the caller checks again.
        return [false; 4];
    }
    let mut events = fds.iter().map(|fd| !fd.revents().is_empty());
    watched.map(|fd| fd.is_some() && events.next().unwrap_or(false))
}

/// One of the command's two outputs.
struct Stream {
    /// `None` after it was closed.
    pipe: Option<PipeReader>,
    capture: Capture,
}

impl Stream {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Reads what is available, after an event has reported data.
    fn read(&mut self, buffer: &mut Vec<u8>) {
        let Some(pipe) = &self.pipe else { return };
        buffer.resize(BUFFER, 0);
        match rustix::io::read(pipe, &mut buffer[..]) {
            Ok(0) => self.pipe = None,
            Ok(n) => self.capture.take(&buffer[..n]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.pipe = None,
        }
    }
}

/// Limits of a command: for running, for ending, and of its output.
#[derive(Clone, Copy)]
pub(super) struct CommandLimits {
    pub timeout: Option<Duration>,
    /// Time between the request to end (SIGTERM) and the kill (SIGKILL).
    pub grace: Duration,
    pub output: OutputSettings,
}

impl Launcher {
    /// The program of a command, and its arguments.
    fn words(&self, job: &CommandJob) -> Result<Vec<OsString>, JobError> {
        let program = self.programs.resolve(job.program(), &self.folder);
        let program = program.map_err(|why| match why {
            Unusable::Missing(why) => JobError::new(FailureKind::NotFound, why),
            Unusable::NotAllowed(why) => JobError::new(FailureKind::NotAllowed, why),
        })?;
        let arguments = job.command().iter().skip(1).cloned();
        Ok([program.into_os_string()]
            .into_iter()
            .chain(arguments)
            .collect())
    }
}

/// The error of a command that the system did not start.
fn not_started(job: &CommandJob, why: &io::Error) -> JobError {
    let text = format!("cannot run `{}`: {why}", job.program().display());
    match why.kind() {
        _ if is_scarce(why) => scarce(text),
        io::ErrorKind::NotFound => JobError::new(FailureKind::NotFound, text),
        _ => JobError::new(FailureKind::NotStarted, text),
    }
}

/// The same, as the keeper reports it.
#[cfg(target_os = "linux")]
fn refused(job: &CommandJob, why: String, system: Option<i32>) -> JobError {
    let system = system.map(io::Error::from_raw_os_error);
    if system.is_some_and(|system| is_scarce(&system)) {
        return scarce(format!("cannot run `{}`: {why}", job.program().display()));
    }
    JobError::new(FailureKind::Sandbox, why)
}

/// The error of the commands of a keeper that has ended: no further command can be started.
#[cfg(target_os = "linux")]
fn lost() -> JobError {
    let why = "the process that keeps the commands of the run together was ended by another program or by a command, so \
               the kernel has killed all commands";
    JobError::new(FailureKind::Cancelled, why)
}

/// Another attempt may succeed.
fn scarce(text: String) -> JobError {
    let advice = "; use fewer slots (-j), free memory, or raise the limits of open files and processes (`ulimit -n`, `ulimit -u`)";
    JobError::new(FailureKind::Resources, text + advice)
}

/// Whether open files, processes or memory are missing.
fn is_scarce(why: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(why),
        Some(Errno::MFILE | Errno::NFILE | Errno::AGAIN | Errno::NOMEM)
    )
}

/// Signals a group, or its first process if there is no such group: it has just been started, or has left the group. That
/// one must not be reaped yet, so that the number is valid.
pub(super) fn signal_group(leader: Pid, signal: Signal) {
    let group = kill_process_group(leader, signal);
    if group.is_err() || signal == Signal::KILL {
        let _ = kill_process(leader, signal);
    }
}
