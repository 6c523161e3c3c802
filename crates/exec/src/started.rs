//! The process of a command: a child of this program, or of a launcher.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, getpgid, kill_process, kill_process_group, waitid,
};

use super::group_watchdog::Group;
use super::reap;
use super::refusal::Refusal;
#[cfg(target_os = "linux")]
use super::sandbox::{slot::Launched, wire::Reply};

/// A command that was started.
#[derive(Debug)]
pub(crate) struct Started {
    /// Until they are taken.
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    process: Process,
}

#[derive(Debug)]
enum Process {
    Child {
        child: Child,
        pidfd: Option<OwnedFd>,
        /// The process group in which it started.
        group: Pid,
    },
    #[cfg(target_os = "linux")]
    Launched(Launched),
}

/// How the process of a command ended.
#[derive(Debug, Default)]
pub(crate) struct End {
    pub status: Option<ExitStatus>,
    /// The number of a process whose end the system does not report.
    pub left: Option<i32>,
    /// Why it was not started.
    pub not_started: Option<Refusal>,
}

/// Interval of checks for the end if no event reports it.
const LOOK: Duration = Duration::from_millis(5);

/// A launcher reports the end within this time after the kill.
#[cfg(target_os = "linux")]
const REPORT: Duration = reap::AFTER_KILL.saturating_add(Duration::from_secs(2));

impl Started {
    pub fn child(mut child: Child, group: Option<&Group>) -> Self {
        let pid = Pid::from_child(&child);
        #[cfg(target_os = "linux")]
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok();
        #[cfg(not(target_os = "linux"))]
        let pidfd = None;
        Self {
            stdout: child.stdout.take().map(Into::into),
            stderr: child.stderr.take().map(Into::into),
            process: Process::Child {
                child,
                pidfd,
                group: group.map_or(pid, |group| group.id),
            },
        }
    }

    #[cfg(target_os = "linux")]
    pub fn launched(launched: Launched, [stdout, stderr]: [OwnedFd; 2]) -> Self {
        Self {
            stdout: Some(stdout),
            stderr: Some(stderr),
            process: Process::Launched(launched),
        }
    }

    /// Becomes readable when it has ended, if an event reports that.
    pub fn event(&self) -> Option<BorrowedFd<'_>> {
        match &self.process {
            Process::Child { pidfd, .. } => pidfd.as_ref().map(AsFd::as_fd),
            #[cfg(target_os = "linux")]
            Process::Launched(launched) => launched.event(),
        }
    }

    /// Whether it has ended, which is not reaped here. `event`: the event was seen.
    pub fn has_ended(&mut self, event: bool) -> bool {
        match &mut self.process {
            Process::Child { pidfd: Some(_), .. } => event,
            Process::Child { child, .. } => {
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
                match waitid(WaitId::Pid(Pid::from_child(child)), options) {
                    Ok(status) => status.is_some(),
                    Err(error) => error != Errno::INTR,
                }
            }
            #[cfg(target_os = "linux")]
            Process::Launched(launched) => {
                if event {
                    launched.reply();
                }
                event
            }
        }
    }

    /// Signals the command and its group. After the end of the command, also what is left of it.
    pub fn signal(&self, signal: Signal) {
        match &self.process {
            Process::Child { child, group, .. } => {
                signal_command(Pid::from_child(child), *group, signal);
            }
            #[cfg(target_os = "linux")]
            Process::Launched(launched) => launched.signal(signal),
        }
    }

    /// Kills the command and its group.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        if let Some(pid) = self.pid() {
            // A tracer could keep it from ending; otherwise the kernel does.
            reap::end_tracer(pid);
        }
    }

    /// Waits for the end, and kills what is left of the command.
    pub fn wait(&mut self) -> io::Result<End> {
        let look = Timespec::try_from(LOOK).ok();
        loop {
            let event = self.event();
            let timeout = look.as_ref().filter(|_| event.is_none());
            let mut events: Vec<_> = event
                .iter()
                .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
                .collect();
            let seen = retry_on_intr(|| poll(&mut events, timeout))? > 0;
            if self.has_ended(seen) {
                break;
            }
        }
        // It is not reaped, so its number is still valid.
        self.signal(Signal::KILL);
        self.end()
    }

    /// Waits for the end of a command that has ended or was killed.
    pub fn end(&mut self) -> io::Result<End> {
        match &mut self.process {
            Process::Child { child, .. } => {
                let status = reap::child(child)?;
                let left = status.is_none().then(|| child.id().cast_signed());
                Ok(End {
                    status,
                    left,
                    not_started: None,
                })
            }
            #[cfg(target_os = "linux")]
            Process::Launched(launched) => Ok(end_of(launched)),
        }
    }

    /// The number of a child of this program.
    pub fn pid(&self) -> Option<Pid> {
        match &self.process {
            Process::Child { child, .. } => Some(Pid::from_child(child)),
            #[cfg(target_os = "linux")]
            Process::Launched(_) => None,
        }
    }
}

#[cfg(target_os = "linux")]
fn end_of(launched: &mut Launched) -> End {
    use std::os::unix::process::ExitStatusExt;

    let event = launched.event();
    let mut events: Vec<_> = event
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    let timeout = Timespec::try_from(REPORT).ok();
    let mut wait = || retry_on_intr(|| poll(&mut events, timeout.as_ref()));
    if !launched.has_reply() && wait() == Ok(0) {
        launched.abandon();
    }
    match launched.reply() {
        Reply::NotStarted(refusal) => End {
            not_started: Some(refusal.clone()),
            ..End::default()
        },
        Reply::Ended { status, pid, .. } => {
            let left = status.is_none().then_some(*pid);
            if let Some(pid) = left.and_then(Pid::from_raw) {
                reap::given_up(pid);
            }
            End {
                status: status.map(ExitStatus::from_raw),
                left,
                not_started: None,
            }
        }
    }
}

/// Signals a group. If the command has left the group, also signals the command and the group that it leads. The
/// command must not be reaped yet, so that its number is valid.
pub(crate) fn signal_command(command: Pid, group: Pid, signal: Signal) {
    let _ = kill_process_group(group, signal);
    if getpgid(Some(command)) != Ok(group)
        && (command == group || kill_process_group(command, signal).is_err())
    {
        let _ = kill_process(command, signal);
    }
}
