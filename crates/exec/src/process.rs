//! Runs one command from its start to its end.
//!
//! One loop waits for all events: the end of the process, its two pipes, the request to stop, and the next deadline.
//! As soon as the command itself has ended, the rest of its group is killed: immediately if no process
//! holds its pipes any more, otherwise after a moment in which the last output is read. The process is reaped after that,
//! so no other process can have its number when the group is killed.

use std::ffi::OsStr;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use batchwright::unstable::{Clock, SystemClock};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};

use super::output::Capture;
use super::record::{CommandJob, CommandResult, End, FailureKind, JobError};
use super::sandbox::Launcher;
#[cfg(target_os = "linux")]
use {
    crate::sandbox::{Keeper, LOST, wire},
    std::os::unix::net::UnixStream,
};

/// Time to read the output of processes that outlive their command.
const STRAGGLERS: Duration = Duration::from_millis(200);
/// A killed command whose end is not reported after this time is left behind.
const AFTER_KILL: Duration = Duration::from_secs(10);
/// Time between SIGTERM and SIGKILL for aborted commands.
const ABORT_GRACE: Duration = Duration::from_millis(250);
/// Number of bytes read at once; a pipe holds no more.
const BUFFER: usize = 64 * 1024;

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
enum Process<'a> {
    /// A child of this program, the leader of its group, and a pipe that is closed when it has ended.
    Child(Child, PipeReader),
    /// The connection to a command of the keeper.
    #[cfg(target_os = "linux")]
    Launched(UnixStream, &'a Keeper),
}

impl<'a> Process<'a> {
    fn start(
        launcher: &'a Launcher,
        job: &CommandJob,
        outputs: [PipeWriter; 2],
    ) -> Result<Self, JobError> {
        let program = launcher.programs.resolve(job.program(), &launcher.folder)?;
        let arguments = job.command.get(1..).unwrap_or_default();
        let failed = |why: io::Error| not_started(job.program(), &why);
        #[cfg(target_os = "linux")]
        if let Some(keeper) = &launcher.keeper {
            let launched = keeper.run((program.as_os_str(), arguments), &outputs);
            return match launched {
                Ok(connection) => Ok(Self::Launched(connection, keeper)),
                Err(why)
                    if matches!(
                        why.kind(),
                        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                    ) =>
                {
                    Err(lost(keeper))
                }
                Err(why) => Err(failed(why)),
            };
        }
        let [stdout, stderr] = outputs;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&launcher.folder);
        command.env_clear().envs(launcher.environment.clone());
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let mut child = command.process_group(0).spawn().map_err(failed)?;
        let event = end_of(&child).inspect_err(|_| {
            let _ = child.kill();
            let _ = child.wait();
        });
        Ok(Self::Child(child, event.map_err(failed)?))
    }

    /// Becomes readable when the command has ended.
    fn event(&self) -> BorrowedFd<'_> {
        match self {
            Self::Child(_, event) => event.as_fd(),
            #[cfg(target_os = "linux")]
            Self::Launched(connection, _) => connection.as_fd(),
        }
    }

    /// How it ended, after its event. It is not reaped yet, so that its number and that of its group are valid.
    fn end(&self) -> Result<End, JobError> {
        match self {
            Self::Child(child, _) => {
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
                let status = waitid(WaitId::Pid(Pid::from_child(child)), options);
                let unknown = || JobError::new(FailureKind::NotStarted, UNKNOWN);
                let end = status.ok().flatten().ok_or_else(unknown)?;
                Ok((end.exit_status(), end.terminating_signal()))
            }
            #[cfg(target_os = "linux")]
            Self::Launched(connection, keeper) => {
                let reply = wire::receive::<wire::Reply>(connection);
                reply.map_or_else(|_| Err(lost(keeper)), |(reply, _)| reply)
            }
        }
    }

    /// Signals the command and its group.
    fn signal(&self, signal: Signal) {
        match self {
            Self::Child(child, _) => signal_group(Pid::from_child(child), signal),
            #[cfg(target_os = "linux")]
            Self::Launched(connection, _) => {
                let _ = wire::send(connection, &signal.as_raw(), &[]);
            }
        }
    }

    /// Kills what is left of the group of a command that has ended.
    fn close(self) {
        match self {
            Self::Child(mut child, _) => {
                signal_group(Pid::from_child(&child), Signal::KILL);
                let _ = child.wait();
            }
            // The keeper does that when the connection is closed.
            #[cfg(target_os = "linux")]
            Self::Launched(..) => {}
        }
    }
}

/// A pipe that is closed when this child has ended, by a thread that waits for that.
fn end_of(child: &Child) -> io::Result<PipeReader> {
    let (event, open) = io::pipe()?;
    let child = WaitId::Pid(Pid::from_child(child));
    let wait = move || {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let _ = rustix::io::retry_on_intr(|| waitid(child.clone(), options));
        drop(open);
    };
    std::thread::Builder::new().spawn(wait)?;
    Ok(event)
}

/// How far a command is, each with the time at which the next one begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Until its time limit.
    Runs,
    /// It was asked to end, and has a moment until it is killed.
    Asked,
    /// Until it is left behind.
    Killed,
    /// Its group has a moment for a last output.
    Ended,
}

/// A command while it runs.
struct Running<'a> {
    process: Process<'a>,
    /// Standard output and standard error.
    streams: [Capture; 2],
    stop: &'a StopCall,
    limits: CommandLimits,
    step: Step,
    /// When the next step is due.
    due: Option<Instant>,
    end: Option<End>,
    timed_out: bool,
    stopped: bool,
}

/// Runs the command until it ends. The second value is why it failed, if it did.
///
/// # Errors
/// If it cannot be started.
pub(super) fn run<'a>(
    launcher: &'a Launcher,
    job: &CommandJob,
    limits: CommandLimits,
    stop: &'a StopCall,
) -> Result<(CommandResult, Option<JobError>), JobError> {
    let start = SystemClock.wall();
    let began = Instant::now();
    let pipes = || Ok((io::pipe()?, io::pipe()?));
    let pipes = pipes().map_err(|why| not_started(job.program(), &why))?;
    let ((stdout, out_writer), (stderr, err_writer)) = pipes;
    let mut running = Running {
        process: Process::start(launcher, job, [out_writer, err_writer])?,
        streams: [stdout, stderr].map(|pipe| Capture {
            pipe: Some(pipe),
            ..Capture::default()
        }),
        stop,
        limits,
        step: Step::Runs,
        due: limits.timeout.and_then(|limit| began.checked_add(limit)),
        end: None,
        timed_out: false,
        stopped: false,
    };
    let mut buffer = vec![0; BUFFER];
    while running.turn(&mut buffer)? {}
    let duration = began.elapsed();
    match running.end {
        Some(_) => running.process.close(),
        None => log::warn!("{UNKNOWN}; it is left behind"),
    }
    let (exit_code, signal) = running.end.unwrap_or_default();
    let [out, err] = running.streams;
    let failure = match (out.failed.or(err.failed), exit_code, signal) {
        (Some(why), ..) => Some(unkept(&why)),
        _ if running.timed_out => {
            let limit = humantime::format_duration(limits.timeout.unwrap_or_default());
            Some((FailureKind::Timeout, format!("killed after {limit}")))
        }
        (_, Some(0), _) => None,
        _ if running.stopped => {
            let why = "killed while it ran, since the run ended early";
            Some((FailureKind::Cancelled, why.to_owned()))
        }
        (_, Some(code), _) => Some((FailureKind::Exit, format!("exit code {code}"))),
        (.., Some(signal)) => Some((FailureKind::Signal, format!("killed by signal {signal}"))),
        _ => Some((FailureKind::Signal, UNKNOWN.to_owned())),
    };
    let result = CommandResult {
        exit_code,
        signal,
        start,
        duration,
        stdout: out.output,
        stderr: err.output,
    };
    let error = failure.map(|(kind, why)| JobError::new(kind, why));
    Ok((result, error))
}

impl Running<'_> {
    /// Waits for an event, and does what is due. False if nothing more is waited for.
    fn turn(&mut self, buffer: &mut [u8]) -> Result<bool, JobError> {
        let now = Instant::now();
        let timeout = self.due.map(|at| at.saturating_duration_since(now));
        let [out, err] = self.streams.each_ref().map(Capture::fd);
        let runs = self.end.is_none();
        let stop = (runs && !self.stopped).then(|| self.stop.seen.as_fd());
        let exit = runs.then(|| self.process.event());
        let [out, err, stopped, exited] = ready([out, err, stop, exit], timeout);
        for (stream, is_readable) in self.streams.iter_mut().zip([out, err]) {
            if is_readable {
                stream.read(buffer, self.limits.most);
            }
        }
        let now = Instant::now();
        if exited {
            self.end = Some(self.process.end()?);
            (self.step, self.due) = (Step::Ended, Some(now + STRAGGLERS));
        } else if stopped {
            self.stopped = true;
            if matches!(self.step, Step::Runs | Step::Asked) {
                self.ask_to_end(now + ABORT_GRACE.min(self.limits.grace));
            }
        }
        if self.due.is_some_and(|due| due <= now) {
            match self.step {
                Step::Runs => {
                    self.timed_out = true;
                    self.ask_to_end(now + self.limits.grace);
                }
                Step::Asked => {
                    self.process.signal(Signal::KILL);
                    (self.step, self.due) = (Step::Killed, Some(now + AFTER_KILL));
                }
                Step::Killed | Step::Ended => return Ok(false),
            }
        }
        let is_silent = self.streams.iter().all(|stream| stream.fd().is_none());
        Ok(self.end.is_none() || !is_silent)
    }

    fn ask_to_end(&mut self, kill_at: Instant) {
        self.process.signal(Signal::TERM);
        // A stopped process could not react to the signal.
        self.process.signal(Signal::CONT);
        let before = self.due.filter(|_| self.step == Step::Asked);
        self.due = Some(before.map_or(kill_at, |before| before.min(kill_at)));
        self.step = Step::Asked;
    }
}

/// Why an output is not kept.
fn unkept(why: &io::Error) -> (FailureKind, String) {
    let kind = match why.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FailureKind::DiskFull,
        _ => FailureKind::NotStarted,
    };
    (kind, format!("its output cannot be kept: {why}"))
}

/// The message about a process that was killed, or has ended, without a report of its end.
const UNKNOWN: &str = "the system does not report its end";

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

/// Limits of a command: for running, for ending, and of its output.
#[derive(Clone, Copy)]
pub(super) struct CommandLimits {
    pub timeout: Option<Duration>,
    /// Time between the request to end (SIGTERM) and the kill (SIGKILL).
    pub grace: Duration,
    /// Bytes of each output that are kept.
    pub most: u64,
}

/// The error of a command that the system did not start.
pub(super) fn not_started(program: &OsStr, why: &io::Error) -> JobError {
    let text = format!("cannot run `{}`: {why}", program.display());
    match Errno::from_io_error(why) {
        // Another attempt may succeed.
        Some(Errno::MFILE | Errno::NFILE | Errno::AGAIN | Errno::NOMEM) => {
            let advice = "use fewer slots (-j), free memory, or raise the limits of open files and processes \
                          (`ulimit -n`, `ulimit -u`)";
            JobError::new(FailureKind::Resources, format!("{text}; {advice}"))
        }
        Some(Errno::NOENT) => JobError::new(FailureKind::NotFound, text),
        _ => JobError::new(FailureKind::NotStarted, text),
    }
}

/// The error of the commands of a keeper that has ended: no further command can be started.
#[cfg(target_os = "linux")]
fn lost(keeper: &Keeper) -> JobError {
    JobError::new(FailureKind::Cancelled, format!("{LOST}, {}", keeper.lost()))
}

/// Signals a group, or its first process if there is no such group: it has just been started, or has left the group. That
/// one must not be reaped yet, so that the number is valid.
pub(super) fn signal_group(leader: Pid, signal: Signal) {
    let group = kill_process_group(leader, signal);
    if group.is_err() || signal == Signal::KILL {
        let _ = kill_process(leader, signal);
    }
}
