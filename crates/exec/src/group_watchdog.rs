//! Kills the commands of a run without a sandbox if this program is killed. A thread does not survive `kill -9`, so
//! a shell reads process groups from a pipe and kills the remaining ones when the pipe is closed.
//!
//! The shell knows the group of a command before the command starts: it is the group of a process that has ended
//! and is not reaped, which keeps the group's number in use. A process that is being started holds the pipe open
//! until it has joined the group and runs the command, so the shell kills it too.

use std::io::{self, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::Pid;

use super::reap;

const SCRIPT: &str = include_str!("group_watchdog.sh");

/// If this variable is set, the process of a command is not reported, as if this program were killed before.
#[cfg(test)]
pub(crate) const UNREPORTED: &str = "BATCHWRIGHT_TEST_UNREPORTED";

/// The shell of one run.
#[derive(Debug)]
pub(crate) struct GroupWatchdog {
    shell: Child,
    input: Option<ChildStdin>,
    /// The first processes of the groups that no command uses now.
    free: Mutex<Vec<Child>>,
}

/// The process group of one command. When this is dropped, the next command uses it.
#[derive(Debug)]
pub(crate) struct Group {
    watchdog: Arc<GroupWatchdog>,
    /// Its first process, until this is dropped.
    leader: Option<Child>,
    /// The number of the group.
    pub id: Pid,
}

impl GroupWatchdog {
    /// Starts the shell. Without one, commands outlive this program if it is killed, which is logged.
    pub(crate) fn start() -> Option<Self> {
        // A command may stop the shell: then the run must not wait for it.
        let start = || {
            let mut shell = start_shell(SCRIPT, Stdio::piped())?;
            let input = shell.stdin.take();
            if let Some(input) = &input {
                let _ = fcntl_setfl(input, OFlags::NONBLOCK);
            }
            Ok((shell, input))
        };
        let started: io::Result<_> = start();
        let (shell, input) = started
            .inspect_err(|why| log::warn!("commands go on if this program is killed: {why}"))
            .ok()?;
        Some(Self {
            shell,
            input,
            free: Mutex::default(),
        })
    }

    /// Returns a group for a command. It is killed if this program ends before the returned value is dropped.
    ///
    /// # Errors
    /// If no further process can be started.
    pub(crate) fn group(self: &Arc<Self>) -> io::Result<Group> {
        let free = self.free.lock().pop();
        let is_new = free.is_none();
        let leader = free.map_or_else(|| start_shell("", Stdio::null()), Ok)?;
        let id = Pid::from_child(&leader);
        if is_new {
            self.tell('+', id);
        }
        Ok(Group {
            watchdog: self.clone(),
            leader: Some(leader),
            id,
        })
    }

    /// Reaps the first processes of the groups that no command uses.
    pub(crate) fn end_unused(&self) {
        let mut unused = std::mem::take(&mut *self.free.lock());
        for leader in &mut unused {
            self.tell('-', Pid::from_child(leader));
            end(leader);
        }
    }

    fn tell(&self, sign: char, group: Pid) {
        let line = format!("{sign} {}\n", group.as_raw_nonzero());
        // Short lines of several threads are written to a pipe atomically. Writing fails if a command has killed the
        // shell.
        if let Some(mut input) = self.input.as_ref() {
            let _ = input.write_all(line.as_bytes());
        }
    }
}

/// Starts a shell in a separate group. Ctrl-C at the terminal must not reach it, because it has to see the end of
/// the program.
fn start_shell(script: &str, input: Stdio) -> io::Result<Child> {
    use std::os::unix::process::CommandExt;

    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).current_dir("/");
    command
        .stdin(input)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.process_group(0).spawn()
}

impl Group {
    /// Makes sure that the command is killed even if it moves to its own group, as GNU `timeout` does.
    pub(crate) fn started(&self, command: Pid) {
        #[cfg(test)]
        if std::env::var_os(UNREPORTED).is_some() {
            return;
        }
        self.watchdog.tell('+', command);
    }

    /// To be called when the command was killed and not reaped yet: later, another process may have its number.
    pub(crate) fn ended(&self, command: Pid) {
        self.watchdog.tell('-', command);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.watchdog.free.lock().extend(self.leader.take());
    }
}

impl Drop for GroupWatchdog {
    fn drop(&mut self) {
        // All commands have ended. The shell ends first, because other processes may get the numbers of the groups
        // afterwards.
        let _ = self
            .shell
            .kill()
            .and_then(|()| reap::child(&mut self.shell));
        self.free.get_mut().iter_mut().for_each(end);
    }
}

fn end(leader: &mut Child) {
    let _ = leader.kill().and_then(|()| reap::child(leader));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_used_again_until_it_is_ended_as_unused() {
        let groups = Arc::new(GroupWatchdog::start().unwrap());
        let first = groups.group().unwrap();
        let id = first.id;
        drop(first);
        let again = groups.group().unwrap();
        assert_eq!(again.id, id);
        groups.end_unused();
        assert!(rustix::process::test_kill_process(id).is_ok(), "in use");

        drop(again);
        groups.end_unused();
        assert!(groups.free.lock().is_empty());
        assert!(rustix::process::test_kill_process(id).is_err(), "reaped");
    }
}
