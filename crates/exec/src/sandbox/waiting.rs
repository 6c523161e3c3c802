//! Helpers that are started before their command is known. The kernel may need more than ten milliseconds to move a
//! process into a cgroup; a waiting helper is moved while the previous command is running.

use std::collections::HashMap;
use std::io::{self, Write};
use std::mem;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, ThreadId};

use parking_lot::Mutex;

use super::helper;
use super::helper_program::Confinement;
use super::place::Place;
use super::policy;
use super::run::Run;
use super::watched::Watched;
use crate::reap;

/// The number of bytes that a pipe accepts at once, so that writing does not wait for the helper.
const MOST: usize = 60 * 1024;

/// Starts helpers in advance, one for each thread that starts commands, because a helper ends with its thread.
#[derive(Debug)]
pub struct Starter {
    pub confinement: Arc<Confinement>,
    pub run: Arc<Run>,
    pub next: Arc<AtomicU64>,
    pub waiting: Mutex<HashMap<ThreadId, Waiting>>,
}

impl Starter {
    /// The helper that waits for a command of this thread.
    pub fn take(&self) -> Option<Waiting> {
        self.waiting.lock().remove(&thread::current().id())
    }

    /// Starts a helper for the next command of this thread, unless one waits already.
    pub fn start_next(&self) {
        let thread = thread::current().id();
        if self.waiting.lock().contains_key(&thread) {
            return;
        }
        match self.start() {
            Ok(waiting) => drop(self.waiting.lock().insert(thread, waiting)),
            // The next command starts its own helper, and reports the error.
            Err(error) => log::debug!("no helper can be started in advance: {error}"),
        }
    }

    fn start(&self) -> io::Result<Waiting> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let policy = self.confinement.policy.of_command(number, Place::default());
        let mut command = self.confinement.helper.command();
        command.arg(helper::WAIT).env_clear();
        command.env(policy::VARIABLE, policy.encode());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // It can be killed as a group from the beginning.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut watched = Watched::new(number, Some(self.run.clone()), policy.cgroup);
        let mut child = watched.spawn(&mut command)?;
        let input = child.stdin.take();
        Ok(Waiting {
            watched,
            input,
            child: Some(child),
        })
    }
}

/// A helper in its cgroup, which waits for its command.
#[derive(Debug)]
pub struct Waiting {
    watched: Watched,
    input: Option<ChildStdin>,
    child: Option<Child>,
}

impl Waiting {
    /// The number of its command.
    pub fn number(&self) -> u64 {
        self.watched.number
    }

    /// Turns it into this command.
    pub fn assign(mut self, assignment: &[u8]) -> io::Result<(Child, Watched)> {
        let input = self.input.take().ok_or(io::ErrorKind::BrokenPipe)?;
        if assignment.len() > MOST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let child = self.child.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let told = self.watched.announce_start(&child);
        if let Err(error) = told.and_then(|()| (&input).write_all(assignment)) {
            self.child = Some(child);
            return Err(error);
        }
        Ok((child, mem::take(&mut self.watched)))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill().and_then(|()| reap::child(&mut child));
        }
    }
}
