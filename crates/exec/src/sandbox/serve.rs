//! The launcher: a helper that starts commands one after the other, so that most steps of a confinement are done once.
//!
//! It is in the cgroup in which its commands start, and adopts the processes that they leave behind. As soon as it has a
//! child that is not the running command, it must not start another one. It has no limits and no rules of Landlock of
//! its own: a child of it takes those of its command, and becomes the command. Each page of memory that the child
//! touches costs time, so the launcher prepares all that it can.

use std::env::set_current_dir;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use fork::Fork;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, getppid, pidfd_open, set_child_subreaper,
    set_parent_process_death_signal, setpgid, wait,
};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::cgroup;
use super::confine::{Site, confine_process};
use super::encoding::{decode, encode};
use super::helper;
use super::limits::Lowered;
use super::place::Place;
use super::policy::Policy;
use super::processes::end_descendants;
use super::wire::{self, Message, Order, Reply};
use crate::reap;
use crate::refusal::Refusal;
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
    dup2_stdin(File::open("/dev/null")?)?;
    let socket = UnixStream::from(socket);
    let policy = wire::receive(&socket)?.and_then(Message::value::<Policy>);
    let (policy, _) = policy.ok_or(io::ErrorKind::InvalidData)?;
    match Launcher::new(socket.try_clone()?, policy) {
        Ok(mut launcher) => {
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
    policy: Policy,
    limits: Vec<Lowered>,
    /// Where the last command was started, if commands are confined.
    site: Option<Site>,
    /// The memory in use in its cgroup, if the kernel counts it, and the limit.
    memory: Option<(File, u64)>,
    own: Pid,
    /// Its children report here why they do not become their command, which does not get it.
    failures: PipeReader,
    failure: PipeWriter,
}

impl Launcher {
    /// Takes the permissions that are the same for all commands.
    fn new(socket: UnixStream, policy: Policy) -> Result<Self, Refusal> {
        let Policy { limits, cgroup, .. } = &policy;
        if let Some(cgroup) = cgroup {
            cgroup::enter(cgroup, limits)
                .map_err(|error| missing(&format!("cannot enter {}", cgroup.display()), &error))?;
        }
        helper::begin_session();
        let memory = cgroup.as_ref().zip(limits.memory);
        let memory = memory
            .and_then(|(path, limit)| Some((File::open(path.join("memory.current")).ok()?, limit)));
        set_child_subreaper(Some(getpid()))
            .map_err(|error| missing("cannot adopt processes", &error.into()))?;
        if policy.confine {
            confine_process(&policy)?;
        }
        let pipe = || {
            let (failures, failure) = io::pipe()?;
            fcntl_setfl(&failures, OFlags::NONBLOCK)?;
            io::Result::Ok((failures, failure))
        };
        let (failures, failure) = pipe().map_err(|error| missing("cannot make a pipe", &error))?;
        Ok(Self {
            socket,
            limits: limits.lowered(),
            site: None,
            memory,
            own: getpid(),
            failures,
            failure,
            policy,
        })
    }

    /// Starts commands until batchwright closes the socket.
    fn serve(&mut self) -> io::Result<()> {
        while let Some(message) = wire::receive(&self.socket)? {
            // A signal for a command that has ended.
            if matches!(message, Message::Signal(_)) {
                continue;
            }
            let order = message.value::<Order>();
            let (order, files) = order.ok_or(io::ErrorKind::InvalidData)?;
            let reply = match self.start(&order, &files) {
                Ok(command) => self.attend(command)?,
                Err(why) => Reply::NotStarted(why),
            };
            wire::send(&self.socket, &reply, &[])?;
            // Only now, so that the end of an output does not wake batchwright before the reply does.
            drop(files);
        }
        Ok(())
    }

    /// Starts a command in a separate process group.
    fn start(&mut self, order: &Order, files: &[OwnedFd]) -> Result<Pid, Refusal> {
        if self.policy.confine {
            self.enter(&order.folder)?;
        }
        let mut command = Command::new(&order.program);
        // The other variables are those of this process.
        let late = self.policy.late_variables.iter();
        command
            .args(&order.arguments)
            .envs(late.map(|(name, value)| (name, value)));
        // An unconfined command can write to the pipe through `/proc`, and a child may be killed after it has written.
        let _ = self.failure();
        // The launcher has no other threads, so its child may do everything that it may.
        match fork::fork() {
            Ok(Fork::Parent(child)) => {
                Pid::from_raw(child).ok_or_else(|| "it has no number".to_owned().into())
            }
            Ok(Fork::Child) => {
                let refusal = match self.prepare(&order.folder, files) {
                    Ok(()) => not_started(&order.program, &command.exec()).into(),
                    Err(refusal) => refusal,
                };
                let _ = self.failure.write_all(encode(&refusal).as_bytes());
                std::process::exit(helper::FAILED);
            }
            Err(error) => Err(missing("cannot start a process", &error)),
        }
    }

    /// Opens all that commands in this folder need, unless the last one was started there.
    fn enter(&mut self, folder: &Place) -> Result<(), String> {
        let site = self.site.as_ref();
        let known = site.map(|site| site.serves(&self.policy, folder));
        if !known.transpose()?.unwrap_or(false) {
            self.site = Some(Site::new(&self.policy, folder)?);
        }
        Ok(())
    }

    /// Takes the permissions and limits of a command. This is the process that becomes the command.
    fn prepare(&self, folder: &Place, files: &[OwnedFd]) -> Result<(), Refusal> {
        follow(self.own)?;
        let connect = || {
            let [stdout, stderr, input @ ..] = files else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            setpgid(None, None)?;
            match input.first() {
                Some(input) => dup2_stdin(input)?,
                None => {
                    let null = rustix::fs::open(c"/dev/null", OFlags::CLOEXEC, Mode::empty())?;
                    dup2_stdin(null)?;
                }
            }
            dup2_stdout(stdout)?;
            dup2_stderr(stderr)?;
            Ok(())
        };
        connect().map_err(|error| missing("cannot connect its standard files", &error))?;
        if self.policy.confine {
            let site = self
                .site
                .as_ref()
                .ok_or("its rules are missing".to_owned())?;
            site.confine(&self.policy)?;
        } else {
            set_current_dir(&folder.path).map_err(|error| folder.unusable(&error))?;
        }
        Ok(self.limits.iter().try_for_each(Lowered::apply)?)
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
        // The status of a process that ended with this exit code.
        if children.status == Some(helper::FAILED << 8)
            && let Some(refusal) = self.failure()
        {
            return Ok(Reply::NotStarted(refusal));
        }
        Ok(Reply::Ended {
            status: children.status,
            pid: command.as_raw_nonzero().get(),
            clean: children.none && self.has_memory(),
        })
    }

    /// Why the child that has ended did not become its command.
    fn failure(&self) -> Option<Refusal> {
        let mut why = Vec::new();
        // It does not wait for more, because this process could write there too.
        let _ = (&self.failures).read_to_end(&mut why);
        decode(&why)
    }

    fn has_memory(&self) -> bool {
        let memory = self.memory.as_ref();
        memory.is_none_or(|(current, limit)| is_little(current, *limit))
    }

    /// Batchwright has ended, or needs this launcher no more.
    fn end(&self) -> ! {
        match &self.policy.cgroup {
            Some(cgroup) => cgroup::kill(cgroup),
            None => end_descendants(std::process::id().cast_signed()),
        }
        std::process::exit(0);
    }
}

/// Makes this process end together with its parent, however the parent ends.
fn follow(parent: Pid) -> Result<(), String> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| format!("cannot follow the parent process: {error}"))?;
    // The parent may have ended before that was set.
    if getppid() == Some(parent) {
        Ok(())
    } else {
        Err("the process that started it has ended".to_owned())
    }
}

/// A failure that may be passing. The errors of later steps are not, because the command's own limits may cause them.
fn missing(what: &str, error: &io::Error) -> Refusal {
    Refusal {
        why: format!("{what}: {error}"),
        scarce: error.raw_os_error(),
    }
}

/// Why a program could not be started.
fn not_started(program: &OsStr, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => {
            " (it has vanished, or the interpreter that its first line names is missing)"
        }
        _ => "",
    };
    format!("cannot start {}: {error}{hint}", program.display())
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
