//! A command's process and all its descendants: announced to the watchdog, and killed when this is dropped.

use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use super::cgroup;
use super::orders::News;
use super::processes::{self, Process};
use super::run::Run;
use super::watchdog::COMMAND;
use crate::reap;

/// The first processes of commands that were not dropped yet, whether or not a thread waits for them.
static LEADERS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Held for reading while a process is started and not in the set yet.
static STARTING: RwLock<()> = RwLock::new(());

/// The processes of a command, from its first one on.
#[derive(Debug, Default)]
pub struct Watched {
    pub number: u64,
    /// `None` for a command that is not confined.
    pub run: Option<Arc<Run>>,
    /// Its cgroup, if it gets one.
    pub cgroup: Option<PathBuf>,
    /// Its process group, once it is started.
    group: Option<u32>,
}

impl Watched {
    pub fn new(number: u64, run: Option<Arc<Run>>, cgroup: Option<PathBuf>) -> Self {
        Self {
            number,
            run,
            cgroup,
            group: None,
        }
    }

    pub fn spawn(&mut self, command: &mut Command) -> io::Result<Child> {
        self.spawn_as(command, News::Started)
    }

    /// Starts a launcher.
    pub fn spawn_launcher(&mut self, command: &mut Command) -> io::Result<Child> {
        self.spawn_as(command, News::Serving)
    }

    fn spawn_as(&mut self, command: &mut Command, news: fn(u64, u32) -> News) -> io::Result<Child> {
        self.announce(News::Starting(self.number))?;
        let starting = STARTING.read();
        let spawned = command.spawn();
        if let Ok(child) = &spawned {
            self.group = Some(child.id());
            LEADERS.lock().insert(child.id());
        }
        drop(starting);
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                self.announce(News::NotStarted(self.number))?;
                return Err(error);
            }
        };
        // Fails if the watchdog has ended: then the limits of the command would not be enforced.
        if let Err(error) = self.announce(news(self.number, child.id())) {
            let _ = child.kill().and_then(|()| reap::child(&mut child));
            return Err(error);
        }
        Ok(child)
    }

    fn announce(&self, news: News) -> io::Result<()> {
        self.run.as_ref().map_or(Ok(()), |run| run.announce(news))
    }

    /// Reaps processes that commands left behind.
    pub fn reap_orphans(&self) {
        if let Some(run) = &self.run {
            reap_orphans(run);
        }
    }

    /// The reason if the watchdog killed the command.
    pub fn reason(&self) -> Option<String> {
        self.run.as_ref()?.reason(self.number)
    }

    /// Whether the kernel killed processes of it because of their memory.
    pub fn ran_out_of_memory(&self) -> bool {
        let cgroup = self.cgroup.as_deref();
        cgroup.is_some_and(cgroup::ran_out_of_memory)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(cgroup) = self.cgroup.as_ref().filter(|_| self.group.is_some())
            && let Err(error) = cgroup::end(cgroup)
        {
            log::warn!("{error}");
        }
        let group = self.group.map(u32::cast_signed);
        let group = group.and_then(rustix::process::Pid::from_raw);
        if let (Some(group), Some(run)) = (group, &self.run) {
            end_strays(run, self.number, group);
        }
        if let Some(leader) = self.group {
            LEADERS.lock().remove(&leader);
        }
    }
}

/// Ends processes that left the process group of a command, including those that this process has adopted. Adopted
/// processes are children of the first thread, which may also have children that belong to no command.
fn end_strays(run: &Run, number: u64, group: rustix::process::Pid) {
    use rustix::process::{Pid, WaitOptions, waitpgid};

    let own = format!("{}.{number}", run.id).into_bytes();
    let first = std::process::id().cast_signed();
    let session = LazyCell::new(|| Process::of(first).map(|own| own.session));
    let until = Instant::now() + reap::AFTER_KILL;
    let children = processes::children(first, Some(first));
    for pid in children.into_iter().filter(|&pid| pid != run.watchdog()) {
        let Some((process, pid)) = Process::of(pid).zip(Pid::from_raw(pid)) else {
            continue;
        };
        // Commands have groups in the session of their launcher.
        let leader = group.as_raw_nonzero().get();
        let in_group = process.group == leader || process.session == leader;
        if process.ended {
            let left = in_group || (run.owns_children && Some(process.session) != *session);
            // Only its tracer holds an orphan.
            if left && !reap_orphan(pid) && reap::end_tracer(pid) {
                reap::stray(pid, until);
            }
        } else if in_group
            || processes::variable(process.identity.pid, COMMAND).is_some_and(|value| value == own)
        {
            processes::kill_tree(process.identity);
            reap::stray(pid, until);
        }
    }
    // No other thread reaps the rest of the group.
    while let Ok(Some(_)) = waitpgid(group, WaitOptions::NOHANG) {}
}

/// Reaps the processes that commands left behind, because until then each of them occupies a number.
fn reap_orphans(run: &Run) {
    if !run.owns_children {
        return;
    }
    let first = std::process::id().cast_signed();
    // The watchdog is in the session of this process.
    let session = Process::of(first).map(|own| own.session);
    for pid in processes::children(first, Some(first)) {
        let process = Process::of(pid).filter(|process| process.ended);
        if process.is_some_and(|process| Some(process.session) != session)
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            reap_orphan(pid);
        }
    }
}

/// Reaps a child, unless a thread waits for it as a command. False if its tracer holds it.
fn reap_orphan(pid: rustix::process::Pid) -> bool {
    // No new command may get the number of a process that ends meanwhile.
    let _none = STARTING.write();
    LEADERS
        .lock()
        .contains(&pid.as_raw_nonzero().get().cast_unsigned())
        || !matches!(
            rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG),
            Ok(None)
        )
}
