//! Waits for processes that have ended or were killed, always with a time limit: a process that hangs in the kernel
//! does not end, and the end of a traced one is not reported while its tracer holds it.

use std::io;
#[cfg(target_os = "linux")]
use std::io::Read;
use std::process::{Child, ExitStatus};
#[cfg(target_os = "linux")]
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
use parking_lot::Mutex;
use rustix::process::Pid;
#[cfg(target_os = "linux")]
use rustix::process::{WaitOptions, waitpid};

#[cfg(target_os = "linux")]
use crate::sandbox::processes::{Identity, Process};

/// A killed process that has not ended after this time is abandoned.
pub const AFTER_KILL: Duration = Duration::from_secs(10);
/// The helper and the watchdog answer within this time, unless the program is another one.
#[cfg(target_os = "linux")]
pub const ANSWER: Duration = Duration::from_secs(60);
/// The processes that were abandoned.
#[cfg(target_os = "linux")]
static ABANDONED: Mutex<Vec<Identity>> = Mutex::new(Vec::new());
/// Interval of checks that no event replaces.
const LOOK: Duration = Duration::from_millis(5);
/// Interval of checks for a tracer, while an event would report the end.
const TRACER: Duration = Duration::from_millis(100);

/// Waits for the end of a child that is about to end. `None` if it is abandoned, which is logged.
pub fn child(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let pid = Pid::from_child(child);
    let status = reap(pid, AFTER_KILL, || child.try_wait())?;
    if status.is_none() {
        given_up(pid);
    }
    Ok(status)
}

/// Waits for the end of a killed child of this process. If it is abandoned, that is logged once, and nothing waits for
/// it again.
#[cfg(target_os = "linux")]
pub fn stray(pid: Pid, until: Instant) {
    let identity = Process::of(pid.as_raw_nonzero().get()).map(|process| process.identity);
    let known = identity.is_some_and(|identity| ABANDONED.lock().contains(&identity));
    let longest = if known {
        Duration::ZERO
    } else {
        until.saturating_duration_since(Instant::now())
    };
    let ended = reap(pid, longest, || {
        // An error means that it does not exist any more.
        Ok(waitpid(Some(pid), WaitOptions::NOHANG).map_or(Some(()), |ended| ended.map(|_| ())))
    });
    if let Ok(None) = ended
        && !known
    {
        given_up(pid);
    }
}

/// A process was waited for until it was abandoned.
pub fn given_up(pid: Pid) {
    #[cfg(target_os = "linux")]
    if let Some(process) = Process::of(pid.as_raw_nonzero().get()) {
        ABANDONED.lock().push(process.identity);
    }
    log::warn!("{}", crate::record::never_ends(pid.as_raw_nonzero().get()));
}

/// Checks for the end of a process until the system reports it. `None` if that takes too long.
pub fn reap<T>(
    pid: Pid,
    longest: Duration,
    mut ask: impl FnMut() -> io::Result<Option<T>>,
) -> io::Result<Option<T>> {
    let until = Instant::now() + longest;
    loop {
        if let Some(status) = ask()? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        end_tracer(pid);
        // If the process has ended and a tracer holds it, no further event follows.
        if wait_for_end(pid, TRACER) {
            thread::sleep(LOOK);
        }
    }
}

/// Waits until the process has ended. False if it did not end within this time.
fn wait_for_end(pid: Pid, longest: Duration) -> bool {
    #[cfg(target_os = "linux")]
    {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        use rustix::process::{PidfdFlags, pidfd_open};

        if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
            let timeout = Timespec::try_from(longest).ok();
            let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], timeout.as_ref());
            return ended.is_ok_and(|ended| ended > 0);
        }
    }
    let _ = (pid, longest);
    true
}

/// Kills the tracer of this process if this program has started it: while it lives, only the tracer learns of the
/// end. Returns true if there was such a tracer.
pub fn end_tracer(pid: Pid) -> bool {
    #[cfg(target_os = "linux")]
    if let Some(tracer) = super::sandbox::processes::tracer(pid.as_raw_nonzero().get()) {
        tracer.kill();
        return true;
    }
    let _ = pid;
    false
}

/// Runs a program that ends soon and prints little.
#[cfg(target_os = "linux")]
pub fn output(mut command: Command) -> io::Result<Output> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let pid = Pid::from_child(&child);
    let Some(status) = reap(pid, ANSWER, || child.try_wait())? else {
        child.kill()?;
        self::child(&mut child)?;
        let why = format!("it did not end within {} s", ANSWER.as_secs());
        return Err(io::Error::new(io::ErrorKind::TimedOut, why));
    };
    // Its output is in the pipes, and is not larger than they can hold.
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    if let Some(mut from) = child.stdout.take() {
        from.read_to_end(&mut stdout)?;
    }
    if let Some(mut from) = child.stderr.take() {
        from.read_to_end(&mut stderr)?;
    }
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}
