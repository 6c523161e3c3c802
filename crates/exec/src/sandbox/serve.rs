//! The launcher: a helper that starts commands one after the other, so that most steps of a confinement are done once.
//!
//! It is in the cgroup in which its commands start, and adopts the processes that they leave behind. As soon as it has a
//! child that is not the running command, it must not start another one. It has no limits and no rules of Landlock of
//! its own: a child of it takes those of its command, and becomes the command.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use fork::Fork;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, pidfd_open, set_child_subreaper, setpgid, wait,
};

use super::cgroup;
use super::confine::{confine_process, restrict_files};
use super::helper;
use super::policy::Policy;
use super::processes::end_descendants;
use super::watchdog::COMMAND;
use super::wire::{self, Message, Order, Reply, Setup};
use crate::reap;
use crate::started::signal_command;

/// Interval at which orphaned processes are reaped.
const REAP: Duration = Duration::from_secs(1);
/// Interval of checks for the end of the command on kernels without pidfds.
const LOOK: Duration = Duration::from_millis(5);

/// Starts commands until batchwright closes the socket, which is the standard input. Then kills what is left of them.
pub fn main() -> ! {
    if let Err(why) = serve() {
        // This is visible only if the program is started by hand.
        eprintln!("{why}");
    }
    std::process::exit(helper::FAILED);
}

fn serve() -> io::Result<()> {
    // No command may have the socket.
    let socket = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let socket = UnixStream::from(socket);
    let setup = wire::receive(&socket)?.and_then(Message::value::<Setup>);
    let (setup, _) = setup.ok_or(io::ErrorKind::InvalidData)?;
    match Launcher::new(socket.try_clone()?, setup) {
        Ok(launcher) => {
            // However that ends, batchwright does not learn what happens afterwards.
            let _ = launcher.serve();
            launcher.end()
        }
        Err(why) => {
            // The answer to the first command.
            wire::receive(&socket)?;
            wire::send(&socket, &Reply::NotStarted(why), &[])
        }
    }
}

struct Launcher {
    socket: UnixStream,
    setup: Setup,
    /// The variable that identifies its commands.
    name: std::ffi::OsString,
    /// The memory in use in its cgroup, if the kernel counts it, and the limit.
    memory: Option<(File, u64)>,
}

impl Launcher {
    /// Takes the permissions that are the same for all commands.
    fn new(socket: UnixStream, setup: Setup) -> Result<Self, String> {
        let Policy { limits, cgroup, .. } = &setup.policy;
        if let Some(cgroup) = cgroup {
            cgroup::enter(cgroup, limits)
                .map_err(|error| format!("cannot enter {}: {error}", cgroup.display()))?;
        }
        helper::begin_session();
        let memory = cgroup.as_ref().zip(limits.memory);
        let memory = memory
            .and_then(|(path, limit)| Some((File::open(path.join("memory.current")).ok()?, limit)));
        set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|error| format!("cannot adopt processes: {error}"))?;
        if setup.policy.confine {
            confine_process(&setup.policy)?;
        }
        Ok(Self {
            socket,
            name: std::env::var_os(COMMAND).unwrap_or_default(),
            memory,
            setup,
        })
    }

    /// Starts commands until batchwright closes the socket.
    fn serve(&self) -> io::Result<()> {
        while let Some(message) = wire::receive(&self.socket)? {
            // A signal for a command that has ended.
            if matches!(message, Message::Signal(_)) {
                continue;
            }
            let order = message.value::<Order>();
            let (order, outputs) = order.ok_or(io::ErrorKind::InvalidData)?;
            let reply = match self.start(&order, outputs)? {
                Ok(command) => self.attend(command)?,
                Err(why) => Reply::NotStarted(why),
            };
            wire::send(&self.socket, &reply, &[])?;
        }
        Ok(())
    }

    /// Starts a command in a separate process group; the inner error says why it could not be started.
    fn start(&self, order: &Order, outputs: Vec<OwnedFd>) -> io::Result<Result<Pid, String>> {
        // It is closed when the child becomes the command.
        let (mut failure, mut report) = io::pipe()?;
        let launcher = getpid();
        // The launcher has no other threads, so its child may do everything that it may.
        let child = match fork::fork() {
            Ok(Fork::Parent(child)) => child,
            Ok(Fork::Child) => {
                let why = self.become_command(order, &outputs, launcher);
                let _ = report.write_all(why.as_bytes());
                std::process::exit(helper::FAILED);
            }
            Err(error) => return Ok(Err(format!("cannot start a process: {error}"))),
        };
        // Only the processes of the command hold its outputs.
        drop((report, outputs));
        let mut why = String::new();
        failure.read_to_string(&mut why)?;
        if why.is_empty() {
            return Ok(Ok(Pid::from_raw(child).ok_or(io::ErrorKind::InvalidData)?));
        }
        Children::reap_all()?;
        Ok(Err(why))
    }

    /// Takes the permissions and limits of a command, and becomes it. Returns only on failure, with the reason.
    fn become_command(&self, order: &Order, outputs: &[OwnedFd], launcher: Pid) -> String {
        if let Err(why) = self.prepare(order, outputs, launcher) {
            return why;
        }
        let variables = self.setup.environment.iter();
        let mut command = Command::new(&order.program);
        command
            .args(&order.arguments)
            .env_clear()
            .envs(variables.map(|(name, value)| (name, value)))
            .env(COMMAND, &self.name);
        helper::not_started(&order.program, &command.exec())
    }

    fn prepare(&self, order: &Order, outputs: &[OwnedFd], launcher: Pid) -> Result<(), String> {
        let policy = &self.setup.policy;
        helper::follow(launcher)?;
        let connect = || {
            let [stdout, stderr] = outputs else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            setpgid(None, None)?;
            rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
            rustix::stdio::dup2_stdout(stdout)?;
            rustix::stdio::dup2_stderr(stderr)?;
            Ok(())
        };
        connect().map_err(|error: io::Error| format!("cannot connect its outputs: {error}"))?;
        if let Some(folder) = helper::enter(&order.folder, policy.confine)? {
            restrict_files(policy, folder)?;
        }
        helper::limit(&policy.limits)
    }

    /// Waits for the end of the command, and passes signals on to it.
    fn attend(&self, command: Pid) -> io::Result<Reply> {
        let pidfd = pidfd_open(command, PidfdFlags::empty()).ok();
        let timeout = Timespec::try_from(pidfd.as_ref().map_or(LOOK, |_| REAP)).ok();
        let mut children = Children::of(command);
        let mut reap_at = Instant::now() + REAP;
        while children.status.is_none() {
            let socket = PollFd::new(&self.socket, PollFlags::IN);
            let mut events = vec![socket];
            events.extend(pidfd.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
            match poll(&mut events, timeout.as_ref()) {
                Err(Errno::INTR) => continue,
                polled => polled?,
            };
            let ready = |at: usize| events.get(at).is_some_and(|fd| !fd.revents().is_empty());
            let (asked, ended) = (ready(0), ready(1));
            if asked {
                match wire::receive(&self.socket)? {
                    Some(Message::Signal(signal)) => {
                        let signal = Signal::from_named_raw(signal).unwrap_or(Signal::KILL);
                        signal_command(command, command, signal);
                        if signal == Signal::KILL {
                            reap::end_tracer(command);
                        }
                    }
                    _ => return Err(io::ErrorKind::UnexpectedEof.into()),
                }
            }
            if ended || pidfd.is_none() || reap_at <= Instant::now() {
                children.reap();
                reap_at = Instant::now() + REAP;
            }
            if ended && children.status.is_none() {
                // Its tracer holds it.
                reap::reap(command, reap::AFTER_KILL, || {
                    children.reap();
                    Ok(children.status)
                })?;
                break;
            }
        }
        Ok(Reply::Ended {
            status: children.status,
            pid: command.as_raw_nonzero().get(),
            clean: children.none && self.has_memory(),
        })
    }

    fn has_memory(&self) -> bool {
        let memory = self.memory.as_ref();
        memory.is_none_or(|(current, limit)| is_little(current, *limit))
    }

    /// Batchwright has ended, or needs this launcher no more.
    fn end(&self) -> ! {
        match &self.setup.policy.cgroup {
            Some(cgroup) => cgroup::kill(cgroup),
            None => end_descendants(std::process::id().cast_signed()),
        }
        std::process::exit(0);
    }
}

/// Whether little of the limit is in use. Files that commands wrote to a file system in memory count toward the limit of
/// the cgroup, also after the command. The next command must not be killed because of them.
fn is_little(current: &File, limit: u64) -> bool {
    let mut text = [0; 32];
    let read = current.read_at(&mut text, 0).unwrap_or(0);
    let used = str::from_utf8(&text[..read]).ok();
    let used: Option<u64> = used.and_then(|used| used.trim().parse().ok());
    used.is_some_and(|used| used < limit / 8)
}

/// The children of this process: the command, and what it left behind.
struct Children {
    command: Pid,
    /// How the command ended.
    status: Option<i32>,
    /// None is left.
    none: bool,
}

impl Children {
    fn of(command: Pid) -> Self {
        Self {
            command,
            status: None,
            none: false,
        }
    }

    /// Waits until no child is left.
    fn reap_all() -> io::Result<()> {
        loop {
            match wait(WaitOptions::empty()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::CHILD) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reaps all that have ended.
    fn reap(&mut self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                // The kernel also reports when a command stops that has made its parent its tracer.
                Ok(Some((pid, status))) if pid == self.command && !status.stopped() => {
                    self.status = Some(status.as_raw());
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return,
                Err(_) => return self.none = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_with_little_memory_left_is_replaced() {
        let site = tempfile::tempdir().unwrap();
        let path = site.path().join("memory.current");
        std::fs::write(&path, "").unwrap();
        let current = File::open(&path).unwrap();
        // What cannot be read may be anything.
        assert!(!is_little(&current, 800));
        for (used, little) in [("99\n", true), ("100\n", false), ("3\n", true)] {
            std::fs::write(&path, used).unwrap();
            assert_eq!(is_little(&current, 800), little, "{used}");
        }
    }
}
