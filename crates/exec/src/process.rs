//! Runs one command from its start to its end, in a separate process group.
//!
//! One loop waits for all events: the end of the process (through a pidfd if the system has them), its two pipes,
//! the request to stop, and the next deadline. It starts no thread, and with pidfds it does not poll. As soon as
//! the command itself has ended, the rest of its group is killed: immediately if no process holds its pipes any
//! more, otherwise after a moment in which the last output is read. The process is reaped after that, so no other
//! process can have its number when the group is killed.

use std::cell::Cell;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use batchwright::progress::Timestamp;
use batchwright::unstable::{Clock, SystemClock};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;

use super::job::CommandJob;
use super::launch::{Deadlines, Ended, NotStarted};
use super::output::{Capture, Output, OutputSettings, STRAGGLERS};
use super::record::{CommandResult, FailureKind, JobError};
use super::sandbox::confined::Confined;
use super::started::Started;

/// Time to read the output of a killed command; after that, only its end is awaited.
const DEAD: Duration = Duration::from_secs(1);
/// Interval at which orphaned processes are reaped. No event of the command reports their end.
const REAP: Duration = Duration::from_secs(1);
/// Interval of checks for the end of a process if no event reports it.
const LOOK: Duration = Duration::from_millis(5);
/// Number of bytes read at once; a pipe holds no more.
const BUFFER: usize = 64 * 1024;

thread_local! {
    /// Read buffer of the commands that this thread runs one after the other. It is filled with zeros only once.
    static READ: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Requests to stop. All waiting threads notice them, and they are never reset.
pub(super) struct StopCall {
    stop: Flare,
    abort: Flare,
}

impl StopCall {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            stop: Flare::new()?,
            abort: Flare::new()?,
        })
    }

    /// Ends the running commands.
    pub fn stop(&self) {
        self.stop.dark.lock().take();
    }

    /// Aborts the running commands.
    pub fn abort(&self) {
        self.stop();
        self.abort.dark.lock().take();
    }
}

/// A pipe that becomes readable when it is lit, because its writing end is closed.
struct Flare {
    seen: PipeReader,
    dark: Mutex<Option<PipeWriter>>,
}

impl Flare {
    fn new() -> io::Result<Self> {
        let (seen, dark) = io::pipe()?;
        Ok(Self {
            seen,
            dark: Mutex::new(Some(dark)),
        })
    }
}

/// Runs the command until it ends.
///
/// # Errors
/// If it cannot be started.
pub(super) fn run(
    mut command: Confined,
    job: &CommandJob,
    deadlines: Deadlines,
    output: &OutputSettings,
    stop: &StopCall,
) -> Result<Ended, NotStarted> {
    let start = SystemClock.wall();
    let began = Instant::now();
    let failed = |why: io::Error| NotStarted::new(job, &why);
    let started = output.start(|| command.start_piped(None));
    let (mut process, [of_stdout, of_stderr]) = started.map_err(failed)?;
    let mut watched = Watched {
        stdout: Stream::new(
            process.stdout.take(),
            Capture::new(output, of_stdout, job.seq, "stdout"),
        ),
        stderr: Stream::new(
            process.stderr.take(),
            Capture::new(output, of_stderr, job.seq, "stderr"),
        ),
        process,
        calls: [
            Some((stop.stop.seen.as_fd(), deadlines.grace)),
            Some((stop.abort.seen.as_fd(), deadlines.abort_grace)),
        ],
        ended: false,
    };
    let mut killing = Killing::after(deadlines.timeout, began);
    let mut buffer = READ.take();
    let mut reap_at = began + REAP;
    loop {
        let next = killing.next().map_or(reap_at, |at| at.min(reap_at));
        let events = watched.wait(Some(next), &mut buffer);
        let now = Instant::now();
        if reap_at <= now {
            command.reap_orphans();
            reap_at = now + REAP;
        }
        if events.ended {
            killing.give_up_at = Some(now + STRAGGLERS);
        }
        if watched.ended && watched.is_silent() {
            break;
        }
        if let Some(grace) = events.stop {
            killing.stopped = true;
            killing.ask_to_end(&watched.process, now, grace);
        }
        if killing.advance(&watched, now, deadlines.grace) {
            break;
        }
    }
    let duration = began.elapsed();
    // The command has ended but is not reaped, so its number is still valid.
    watched.process.signal(Signal::KILL);
    if let Some((group, pid)) = command.group.as_ref().zip(watched.process.pid()) {
        group.ended(pid);
    }
    // A process that has left the group may print for ever.
    watched.drain(&mut buffer, Instant::now() + STRAGGLERS);
    READ.set(buffer);
    watched.result(&mut command, job, start, duration, &killing)
}

/// The times at which a group is asked to end, is killed, and is abandoned.
struct Killing {
    timeout_at: Option<Instant>,
    kill_at: Option<Instant>,
    give_up_at: Option<Instant>,
    timed_out: bool,
    stopped: bool,
}

impl Killing {
    /// The command may run for this time.
    fn after(timeout: Option<Duration>, began: Instant) -> Self {
        Self {
            timeout_at: timeout.and_then(|timeout| began.checked_add(timeout)),
            kill_at: None,
            give_up_at: None,
            timed_out: false,
            stopped: false,
        }
    }

    fn next(&self) -> Option<Instant> {
        let times = [self.timeout_at, self.kill_at, self.give_up_at];
        times.into_iter().flatten().min()
    }

    fn ask_to_end(&mut self, process: &Started, now: Instant, grace: Duration) {
        self.timeout_at = None;
        process.signal(Signal::TERM);
        // A stopped process could not react to the signal.
        process.signal(Signal::CONT);
        let at = now + grace;
        self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
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
            watched.process.kill();
            self.give_up_at = now.checked_add(DEAD);
        }
        due(self.give_up_at)
    }
}

/// The sources of events of a command.
struct Watched<'a> {
    process: Started,
    stdout: Stream<'a>,
    stderr: Stream<'a>,
    /// Requests to stop that were not noticed yet, each with its grace period.
    calls: [Option<(BorrowedFd<'a>, Duration)>; 2],
    ended: bool,
}

/// The events of one wait.
struct Events {
    ended: bool,
    /// The grace period of a request to stop.
    stop: Option<Duration>,
}

impl Watched<'_> {
    fn is_silent(&self) -> bool {
        self.stdout.pipe.is_none() && self.stderr.pipe.is_none()
    }

    /// Waits for an event or until `until`, and reads what was printed.
    fn wait(&mut self, until: Option<Instant>, buffer: &mut Vec<u8>) -> Events {
        let mut timeout = until.map(|at| at.saturating_duration_since(Instant::now()));
        let exit = self.process.event().filter(|_| !self.ended);
        if exit.is_none() && !self.ended {
            timeout = Some(timeout.map_or(LOOK, |timeout| timeout.min(LOOK)));
        }
        let call = self.calls.iter().position(Option::is_some);
        let [stdout, stderr, called, exited] = ready(
            [
                self.stdout.fd(),
                self.stderr.fd(),
                call.and_then(|call| self.calls[call]).map(|(fd, _)| fd),
                exit,
            ],
            timeout,
        );
        if stdout {
            self.stdout.read(buffer);
        }
        if stderr {
            self.stderr.read(buffer);
        }
        let heard = call
            .filter(|_| called)
            .and_then(|call| self.calls[call].take());
        let ended = !self.ended && self.process.has_ended(exited);
        self.ended |= ended;
        let stop = heard.map(|(_, grace)| grace);
        Events { ended, stop }
    }

    /// Reads what is in the pipes already.
    fn drain(&mut self, buffer: &mut Vec<u8>, until: Instant) {
        while !self.is_silent() && Instant::now() < until {
            let streams = [self.stdout.fd(), self.stderr.fd(), None, None];
            let [stdout, stderr, ..] = ready(streams, Some(Duration::ZERO));
            if !stdout && !stderr {
                return;
            }
            if stdout {
                self.stdout.read(buffer);
            }
            if stderr {
                self.stderr.read(buffer);
            }
        }
    }

    /// What the command did, after its end: its process is reaped.
    fn result(
        mut self,
        command: &mut Confined,
        job: &CommandJob,
        start: Timestamp,
        duration: Duration,
        killing: &Killing,
    ) -> Result<Ended, NotStarted> {
        // It was started, so it is not tried again.
        let unknown = |why| {
            let why = format!("how it ended is unknown: {why}");
            JobError::new(FailureKind::NotStarted, why)
        };
        let end = self.process.end().map_err(unknown)?;
        if let Some(refusal) = end.not_started {
            return Err(NotStarted::refused(job, refusal));
        }
        let status = end.status.as_ref();
        let (code, signal) = status.map_or((None, None), |status| (status.code(), status.signal()));
        let (stdout, out_error) = self.stdout.end();
        let (stderr, err_error) = self.stderr.end();
        Ok(Ended {
            excess: signal.and_then(|signal| command.excess(signal)),
            left: end.left,
            result: CommandResult {
                exit_code: code,
                signal,
                start,
                duration,
                stdout,
                stderr,
            },
            timed_out: killing.timed_out,
            stopped: killing.stopped,
            output_error: out_error.or(err_error),
        })
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
struct Stream<'a> {
    /// `None` after it was closed.
    pipe: Option<OwnedFd>,
    capture: Capture<'a>,
}

impl<'a> Stream<'a> {
    fn new(pipe: Option<OwnedFd>, capture: Capture<'a>) -> Self {
        Self { pipe, capture }
    }

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

    fn end(mut self) -> (Output, Option<io::Error>) {
        let error = self.capture.failed.take();
        (self.capture.end(), error)
    }
}
