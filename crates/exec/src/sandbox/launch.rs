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
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use fork::Fork;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, pidfd_open,
    set_parent_process_death_signal, setsid, waitid, waitpid,
};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::confine::{Site, limit_memory};
use super::wire::{self, Greeting, Order, Policy, Reply};
use crate::output::STRAGGLERS;
use crate::process::signal_group;

/// The exit code of a process that did not become its command.
pub const FAILED: i32 = 125;
/// Interval at which orphaned processes are reaped, because no event reports their end.
const REAP: Duration = Duration::from_secs(1);
/// Interval of checks for the end of a command that its tracer holds.
const HELD: Duration = Duration::from_millis(100);

/// Starts commands until batchwright closes the socket, or ends.
pub fn serve(socket: UnixStream, policy: Policy) -> io::Result<()> {
    let (site, missing) = match Site::new(&policy) {
        Ok(made) => made,
        Err(why) => return wire::send(&socket, &Greeting::Failed(why), &[]),
    };
    wire::send(&socket, &Greeting::Ready { missing }, &[])?;
    let mut launch = Launch {
        socket,
        site,
        policy,
        slots: Vec::new(),
        reap_at: Instant::now() + REAP,
    };
    while launch.turn()? {}
    Ok(())
}

struct Launch {
    socket: UnixStream,
    site: Site,
    policy: Policy,
    slots: Vec<Slot>,
    reap_at: Instant,
}

/// A connection, on which one command runs after the other.
struct Slot {
    socket: UnixStream,
    command: Option<Running>,
}

/// A command that is not reaped yet, so that its number and that of its group are valid.
struct Running {
    pid: Pid,
    /// Becomes readable at its end.
    pidfd: OwnedFd,
    /// Its end was reported.
    ended: bool,
    /// When to look again: its tracer holds it, or its group gets no more time for a last output.
    due: Option<Instant>,
}

impl Launch {
    /// Waits for events and handles them. False if batchwright has ended.
    fn turn(&mut self) -> io::Result<bool> {
        let [main, slots @ ..] = &self.wait()?[..] else {
            return Ok(true);
        };
        let (main, slots) = (*main, slots.to_vec());
        let now = Instant::now();
        if main {
            match wire::receive::<()>(&self.socket)? {
                None => return Ok(false),
                Some(((), files)) => self.slots.extend(files.into_iter().map(|socket| Slot {
                    socket: socket.into(),
                    command: None,
                })),
            }
        }
        let mut gone = Vec::new();
        for (at, ready) in slots.chunks(2).enumerate() {
            let due = self.slots[at]
                .command
                .as_ref()
                .and_then(|command| command.due);
            if ready[1] || due.is_some_and(|due| due <= now) {
                self.slots[at].look(now)?;
            }
            if ready[0] && !self.obey(at)? {
                gone.push(at);
            }
        }
        for at in gone.into_iter().rev() {
            // The command is reaped as the orphans are.
            self.slots.remove(at).clear();
        }
        if self.reap_at <= now {
            self.reap_orphans();
            self.reap_at = now + REAP;
        }
        Ok(true)
    }

    /// Which sockets and commands have an event: the main socket first, then two for each slot.
    fn wait(&self) -> io::Result<Vec<bool>> {
        let due = self
            .slots
            .iter()
            .filter_map(|slot| slot.command.as_ref()?.due);
        let until = due.chain([self.reap_at]).min();
        let timeout = until.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut events = vec![PollFd::new(&self.socket, PollFlags::IN)];
        for slot in &self.slots {
            events.push(PollFd::new(&slot.socket, PollFlags::IN));
            // A place without a command never has an event, and keeps the order.
            let running = slot
                .command
                .as_ref()
                .filter(|command| command.due.is_none());
            events.push(match running {
                Some(command) => PollFd::new(&command.pidfd, PollFlags::IN),
                None => PollFd::new(&slot.socket, PollFlags::empty()),
            });
        }
        match poll(&mut events, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(why) => return Err(why.into()),
        }
        Ok(events
            .iter()
            .map(|event| !event.revents().is_empty())
            .collect())
    }

    /// Does what a connection asks for. False if it is closed.
    fn obey(&mut self, at: usize) -> io::Result<bool> {
        // A closed connection is not the end of the others.
        let order = wire::receive::<Order>(&self.slots[at].socket).unwrap_or(None);
        match order {
            None => return Ok(false),
            Some((Order::Signal(number), _)) => {
                let running = self.slots[at].command.as_ref();
                if let (Some(command), Some(signal)) = (running, Signal::from_named_raw(number)) {
                    signal_group(command.pid, signal);
                }
            }
            Some((Order::Run(words), files)) => {
                self.slots[at].clear();
                let started = self.start(at, &words, &files);
                let slot = &mut self.slots[at];
                match started {
                    Ok(command) => slot.command = Some(command),
                    Err(why) => {
                        let scarce = why.raw_os_error();
                        let why = format!("cannot start a process: {why}");
                        slot.say(&Reply::NotStarted { why, scarce });
                        slot.say(&Reply::Ended {
                            code: Some(FAILED),
                            signal: None,
                        });
                    }
                }
            }
        }
        Ok(true)
    }

    fn start(&self, at: usize, words: &[OsString], files: &[OwnedFd]) -> io::Result<Running> {
        let own = getpid();
        // This process has no other threads, so its child may do everything that it may.
        match fork::fork()? {
            Fork::Parent(child) => {
                let pid = Pid::from_raw(child).ok_or(io::ErrorKind::InvalidData)?;
                let pidfd = pidfd_open(pid, PidfdFlags::empty()).inspect_err(|_| {
                    let _ = kill_process(pid, Signal::KILL);
                    let _ = waitpid(Some(pid), WaitOptions::empty());
                })?;
                Ok(Running {
                    pid,
                    pidfd,
                    ended: false,
                    due: None,
                })
            }
            Fork::Child => {
                let why = self.become_command(own, words, files);
                self.slots[at].say(&Reply::NotStarted { why, scarce: None });
                std::process::exit(FAILED);
            }
        }
    }

    /// Takes the rules and limits of a command, and becomes it. Returns why not.
    fn become_command(&self, launch: Pid, words: &[OsString], files: &[OwnedFd]) -> String {
        let prepare = || -> Result<(), String> {
            let connect = || -> io::Result<()> {
                let [stdout, stderr] = files else {
                    return Err(io::ErrorKind::InvalidData.into());
                };
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
                dup2_stdout(stdout)?;
                dup2_stderr(stderr)?;
                Ok(())
            };
            connect().map_err(|why| format!("cannot prepare the process: {why}"))?;
            self.site.enter(&self.policy)?;
            // The last step, because the others need memory.
            self.policy.memory.map_or(Ok(()), limit_memory)
        };
        if let Err(why) = prepare() {
            return why;
        }
        let [program, arguments @ ..] = words else {
            return "the command names no program".to_owned();
        };
        let mut command = Command::new(program);
        command.args(arguments);
        if let Some(environment) = &self.policy.environment {
            let variables = environment.iter().map(|(name, value)| (name, value));
            command.env_clear().envs(variables);
        }
        let why = command.exec();
        let hint = match why.kind() {
            io::ErrorKind::NotFound => {
                " (it has vanished, or the interpreter that its first line names is missing)"
            }
            _ => "",
        };
        format!("cannot start {}: {why}{hint}", program.display())
    }

    /// Reaps processes that commands have left behind, and that have ended.
    fn reap_orphans(&self) {
        let commands = || self.slots.iter().filter_map(|slot| slot.command.as_ref());
        for pid in children(getpid().as_raw_nonzero().get()) {
            let Some(pid) = Pid::from_raw(pid) else {
                continue;
            };
            if !commands().any(|command| command.pid == pid) {
                let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            }
        }
    }
}

impl Slot {
    /// Reports the end of the command. Its group has a moment for a last output, then it is killed.
    fn look(&mut self, now: Instant) -> io::Result<()> {
        let Some(command) = &mut self.command else {
            return Ok(());
        };
        if command.ended {
            self.clear();
            return Ok(());
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let Some(status) = waitid(WaitId::Pid(command.pid), options)? else {
            // Only a tracer learns of the end, until it ends itself.
            signal_group(command.pid, Signal::KILL);
            command.due = Some(now + HELD);
            return Ok(());
        };
        command.ended = true;
        command.due = Some(now + STRAGGLERS);
        self.say(&Reply::Ended {
            code: status.exit_status(),
            signal: status.terminating_signal(),
        });
        Ok(())
    }

    /// Kills what the command left of its group.
    fn clear(&mut self) {
        if let Some(command) = self.command.take() {
            signal_group(command.pid, Signal::KILL);
            let _ = waitpid(Some(command.pid), WaitOptions::NOHANG);
        }
    }

    fn say(&self, reply: &Reply) {
        // If nobody reads it, the connection is closed, which is the next event.
        let _ = wire::send(&self.socket, reply, &[]);
    }
}

/// The children of all threads of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task"));
    let read = |task: io::Result<fs::DirEntry>| {
        fs::read_to_string(task.ok()?.path().join("children")).ok()
    };
    let texts: Vec<String> = tasks.into_iter().flatten().filter_map(read).collect();
    let numbers = texts.iter().flat_map(|text| text.split_whitespace());
    numbers.filter_map(|number| number.parse().ok()).collect()
}
