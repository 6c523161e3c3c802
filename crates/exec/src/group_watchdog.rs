//! Kills the commands of a run without a sandbox if this program is killed: a thread does not outlive `kill -9`, so a
//! shell reads the process groups of commands from a pipe, and kills those that are left when the pipe ends.

use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::Pid;

use super::reap;

const SCRIPT: &str = include_str!("group_watchdog.sh");

/// The shell of one run.
#[derive(Debug)]
pub(crate) struct GroupWatchdog {
    shell: Child,
    input: Option<ChildStdin>,
}

impl GroupWatchdog {
    /// Starts the shell. Without one, commands outlive this program if it is killed, which is logged.
    pub(crate) fn start() -> Option<Self> {
        use std::os::unix::process::CommandExt;

        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT]).current_dir("/");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // A Ctrl-C at the terminal is not for it: it has to see the end.
        let started = command.process_group(0).spawn();
        let mut shell = started
            .inspect_err(|why| log::warn!("commands go on if this program is killed: {why}"))
            .ok()?;
        let input = shell.stdin.take();
        // A command may stop the shell: then the run must not wait for it.
        if let Some(input) = &input {
            let _ = fcntl_setfl(input, OFlags::NONBLOCK);
        }
        Some(Self { shell, input })
    }

    /// Has this group killed if this program ends before [`release`](Self::release).
    pub(crate) fn watch(&self, group: Pid) {
        self.tell('+', group);
    }

    /// To be called when the group was killed and its first process was not reaped: later, its number may be another's.
    pub(crate) fn release(&self, group: Pid) {
        self.tell('-', group);
    }

    fn tell(&self, sign: char, group: Pid) {
        let line = format!("{sign} {}\n", group.as_raw_nonzero());
        // Short lines of several threads go into a pipe whole. The shell is gone if a command has killed it.
        if let Some(mut input) = self.input.as_ref() {
            let _ = input.write_all(line.as_bytes());
        }
    }
}

impl Drop for GroupWatchdog {
    fn drop(&mut self) {
        // All commands have ended.
        let _ = self
            .shell
            .kill()
            .and_then(|()| reap::child(&mut self.shell));
    }
}
