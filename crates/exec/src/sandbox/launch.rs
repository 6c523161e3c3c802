//! Starts the commands of a run, in the first process of its namespace or in the keeper itself.
//!
//! What all commands share is set up once: rights of root, forbidden system calls, the opened folders. A command is a
//! copy of this process that takes its own rules of Landlock and its limits, and becomes the program. This process has no
//! rules of Landlock, so that no command can reach it or another command.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use fork::Fork;
use nix::sys::ptrace;
use nix::sys::signal::Signal as Raised;
use nix::sys::wait::{self, Id, WaitPidFlag, WaitStatus};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, pidfd_open,
    set_parent_process_death_signal, setsid, waitid, waitpid,
};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::confine::{Site, limit_memory};
use super::wire::{self, Greeting, Policy, Reply};
use crate::process::{not_started, signal_group};
use crate::record::{FailureKind, JobError};

/// The exit code of a process that did not become its command.
pub const FAILED: i32 = 125;
/// Interval of checks for what no event reports: ends of orphaned processes and of commands that a tracer holds, and
/// processes that asked to be traced.
const REAP: Duration = Duration::from_secs(1);

/// A program and its arguments.
type Order = (OsString, Vec<OsString>);

/// Starts commands until batchwright closes the socket, or ends.
pub fn serve(socket: &UnixStream, policy: &Policy) -> io::Result<()> {
    let (site, missing) = match Site::new(policy) {
        Ok(made) => made,
        Err(why) => return wire::send(socket, &Greeting::Failed(why), &[]),
    };
    let temporary = policy.temporary.clone();
    wire::send(socket, &Greeting::Ready { missing, temporary }, &[])?;
    let mut launch = Launch {
        socket,
        site,
        policy,
        commands: Vec::new(),
        reap_at: Instant::now() + REAP,
    };
    while launch.turn()? {}
    Ok(())
}

struct Launch<'a> {
    socket: &'a UnixStream,
    site: Site,
    policy: &'a Policy,
    commands: Vec<Running>,
    reap_at: Instant,
}

/// A command that is not reaped yet, so that its number and that of its group are valid.
struct Running {
    connection: UnixStream,
    pid: Pid,
    /// Becomes readable at its end.
    pidfd: OwnedFd,
    /// The events of the process that are waited for: none after its end was seen.
    watched: PollFlags,
    /// Its end was reported.
    ended: bool,
}

impl Launch<'_> {
    /// Waits for events and handles them. False if batchwright has ended.
    fn turn(&mut self) -> io::Result<bool> {
        let mut events = self.wait()?.into_iter();
        let asked = events.next() == Some(true);
        let reap = self.reap_at <= Instant::now();
        self.commands.retain_mut(|command| {
            let (called, exited) = (events.next(), events.next());
            let held = command.watched.is_empty() && !command.ended;
            if exited == Some(true) || (held && reap) {
                command.look();
            }
            called != Some(true) || command.obey()
        });
        if reap {
            self.look_at_children();
            self.reap_at = Instant::now() + REAP;
        }
        if asked {
            let Ok((order, files)) = wire::receive::<Order>(self.socket) else {
                return Ok(false);
            };
            self.start(&order, files);
        }
        Ok(true)
    }

    /// Which have an event: the main socket first, then the connection and the process of each command.
    fn wait(&self) -> io::Result<Vec<bool>> {
        let timeout = self.reap_at.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(timeout).ok();
        let mut events = vec![PollFd::new(self.socket, PollFlags::IN)];
        for command in &self.commands {
            events.push(PollFd::new(&command.connection, PollFlags::IN));
            events.push(PollFd::new(&command.pidfd, command.watched));
        }
        match poll(&mut events, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(why) => return Err(why.into()),
        }
        Ok(events
            .iter()
            .map(|event| event.revents().contains(PollFlags::IN))
            .collect())
    }

    /// Starts a command with its connection, its standard output and its standard error.
    fn start(&mut self, order: &Order, files: Vec<OwnedFd>) {
        let mut files = files.into_iter();
        let Some(connection) = files.next().map(UnixStream::from) else {
            return;
        };
        match self.fork(order, &connection, files.as_slice()) {
            Ok((pid, pidfd)) => self.commands.push(Running {
                connection,
                pid,
                pidfd,
                watched: PollFlags::IN,
                ended: false,
            }),
            Err(why) => say(&connection, &Err(not_started(&order.0, &why))),
        }
    }

    fn fork(
        &self,
        order: &Order,
        connection: &UnixStream,
        outputs: &[OwnedFd],
    ) -> io::Result<(Pid, OwnedFd)> {
        let [stdout, stderr] = outputs else {
            // This process may open no more files.
            return Err(Errno::MFILE.into());
        };
        let own = getpid();
        // This process has no other threads, so its child may do everything that it may.
        match fork::fork()? {
            Fork::Parent(child) => {
                let pid = Pid::from_raw(child).ok_or(io::ErrorKind::InvalidData)?;
                let pidfd = pidfd_open(pid, PidfdFlags::empty()).inspect_err(|_| {
                    let _ = kill_process(pid, Signal::KILL);
                    let _ = waitpid(Some(pid), WaitOptions::empty());
                })?;
                Ok((pid, pidfd))
            }
            Fork::Child => {
                let why = self.become_command(own, order, [stdout, stderr]);
                say(connection, &Err(JobError::new(FailureKind::Sandbox, why)));
                std::process::exit(FAILED);
            }
        }
    }

    /// Takes the rules and limits of a command, and becomes it. Returns why not.
    fn become_command(&self, launch: Pid, order: &Order, outputs: [&OwnedFd; 2]) -> String {
        let prepare = || -> Result<(), String> {
            let connect = || -> io::Result<()> {
                // Outside of a namespace, it ends with this process at the latest, unless that has ended already.
                set_parent_process_death_signal(Some(Signal::KILL))?;
                if rustix::process::getppid() != Some(launch) {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                // A session without a terminal, whose processes cannot join the group of another command.
                setsid()?;
                // Opened for each command, because one may change the state of the opened file.
                let null = rustix::fs::open(c"/dev/null", OFlags::CLOEXEC, Mode::empty())?;
                dup2_stdin(&null)?;
                dup2_stdout(outputs[0])?;
                dup2_stderr(outputs[1])?;
                Ok(())
            };
            connect().map_err(|why| format!("cannot prepare the process: {why}"))?;
            self.site.enter(self.policy)?;
            // The last step, because the others need memory.
            self.policy.memory.map_or(Ok(()), limit_memory)
        };
        if let Err(why) = prepare() {
            return why;
        }
        let (program, arguments) = order;
        let mut command = Command::new(program);
        command.args(arguments);
        let variables = self.policy.environment.iter().cloned();
        command.env_clear().envs(variables);
        let why = command.exec();
        let hint = if why.kind() == io::ErrorKind::NotFound {
            " (it has vanished, or the interpreter that its first line names is missing)"
        } else {
            ""
        };
        format!("cannot start {}: {why}{hint}", program.display())
    }

    /// Reaps processes that commands have left behind, and that have ended. One that asked to be traced by this process
    /// (`PTRACE_TRACEME`) has stopped at a signal or a new program: it goes on, untraced.
    fn look_at_children(&self) {
        // A thread may be traced without its process. One that was stopped and is not traced stays so.
        let stopped = || wait::waitid(Id::All, WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG);
        while let Ok(WaitStatus::Stopped(task, signal) | WaitStatus::PtraceEvent(task, signal, _)) =
            stopped()
        {
            // A new program stops with this one.
            let passed = (signal != Raised::SIGTRAP).then_some(signal);
            let _ = ptrace::detach(task, passed);
        }
        for pid in children(getpid()) {
            if !self.commands.iter().any(|command| command.pid == pid) {
                let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            }
        }
    }
}

impl Running {
    /// Reports its end.
    fn look(&mut self) {
        self.watched = PollFlags::empty();
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let Ok(Some(status)) = waitid(WaitId::Pid(self.pid), options) else {
            // Only a tracer learns of the end, until it ends itself.
            signal_group(self.pid, Signal::KILL);
            return;
        };
        self.ended = true;
        let end = (status.exit_status(), status.terminating_signal());
        say(&self.connection, &Ok(end));
    }

    /// Passes a signal on. False if the connection is closed: then what is left of its group is killed.
    fn obey(&self) -> bool {
        // A closed connection is not the end of the others.
        if let Ok((number, _)) = wire::receive::<i32>(&self.connection) {
            if let Some(signal) = Signal::from_named_raw(number) {
                signal_group(self.pid, signal);
            }
            return true;
        }
        signal_group(self.pid, Signal::KILL);
        // If it has not ended yet, it is reaped as the orphans are.
        let _ = waitpid(Some(self.pid), WaitOptions::NOHANG);
        false
    }
}

fn say(connection: &UnixStream, reply: &Reply) {
    // If nobody reads it, the connection is closed, which is the next event.
    let _ = wire::send(connection, reply, &[]);
}

/// The children of all threads of a process.
pub fn children(pid: Pid) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()));
    let read = |task: io::Result<fs::DirEntry>| {
        fs::read_to_string(task.ok()?.path().join("children")).ok()
    };
    let texts: Vec<String> = tasks.into_iter().flatten().filter_map(read).collect();
    let numbers = texts.iter().flat_map(|text| text.split_whitespace());
    let numbers = numbers.filter_map(|number| number.parse().ok());
    numbers.filter_map(Pid::from_raw).collect()
}
