//! Waits for processes that have ended or were killed, and never without a bound: one that hangs in the kernel does not
//! end, and one that is traced is not reported as long as its tracer keeps it.

use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Pid;
#[cfg(target_os = "linux")]
use rustix::process::{WaitOptions, waitpid};

/// A process that was killed is given up if it has not ended by then.
pub const AFTER_KILL: Duration = Duration::from_secs(10);
/// The helper and the watchdog say something by then, unless they are something else.
pub const ANSWER: Duration = Duration::from_secs(60);
/// How often it is looked for what no event tells.
const LOOK: Duration = Duration::from_millis(5);
/// How often it is looked for a tracer, while the end would be told by an event.
const TRACER: Duration = Duration::from_millis(100);

/// Waits for the end of a child that is on its way. None if it is given up, which is said.
pub fn child(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let pid = Pid::from_child(child);
    let status = reap(pid, AFTER_KILL, || child.try_wait())?;
    if status.is_none() {
        given_up(pid);
    }
    Ok(status)
}

/// Waits for the end of a process that was killed and is a child of this one. If it is given up, that is said.
#[cfg(target_os = "linux")]
pub fn stray(pid: Pid, until: Instant) {
    let longest = until.saturating_duration_since(Instant::now());
    let ended = reap(pid, longest, || {
        // An error says that it is not there any more.
        Ok(waitpid(Some(pid), WaitOptions::NOHANG).map_or(Some(()), |ended| ended.map(|_| ())))
    });
    if let Ok(None) = ended {
        given_up(pid);
    }
}

fn given_up(pid: Pid) {
    log::warn!("{}", never_ends(pid.as_raw_nonzero().get()));
}

/// What becomes of a process whose end is not waited for any more.
pub fn never_ends(pid: i32) -> String {
    format!(
        "the system does not report the end of process {pid}, which was killed; it is left behind"
    )
}

/// Asks for the end of a process until the system reports it. None if that takes too long.
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
        // Of one that has ended, and is kept by a tracer, there is no further event.
        if wait_for_end(pid, TRACER) {
            thread::sleep(LOOK);
        }
    }
}

/// Waits until the process has ended. False if it did not within this time.
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

/// Kills what traces this process, if this program has started that: as long as it lives, it alone learns of the end.
/// True if there was such a tracer.
pub fn end_tracer(pid: Pid) -> bool {
    #[cfg(target_os = "linux")]
    if let Some(tracer) = super::sandbox::processes::tracer(pid.as_raw_nonzero().get()) {
        tracer.kill();
        return true;
    }
    let _ = pid;
    false
}

/// Runs a program that ends soon and says little.
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
    // What it said is in the pipes, and is no more than they hold.
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
