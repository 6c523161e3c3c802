//! One command: its process, why that ended, and what it leaves behind.

#[cfg(target_os = "linux")]
use std::collections::BTreeSet;
use std::io;
#[cfg(target_os = "linux")]
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
#[cfg(target_os = "linux")]
use std::sync::Arc;
#[cfg(target_os = "linux")]
use std::time::Instant;

#[cfg(target_os = "linux")]
use parking_lot::{Mutex, RwLock};

use super::limits::Limits;
use super::programs::refused;
#[cfg(target_os = "linux")]
use super::{
    cgroup,
    orders::News,
    processes::{self, Process},
    run::Run,
    waiting::{Starter, Waiting},
    watchdog::{COMMAND, uses_too_much_memory},
};
use crate::base::error::Error;
#[cfg(target_os = "linux")]
use crate::commands::reap;

/// The first processes of commands that were not dropped yet, whoever waits for them.
#[cfg(target_os = "linux")]
static LEADERS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Held for reading while one is started and not yet among them.
#[cfg(target_os = "linux")]
static STARTING: RwLock<()> = RwLock::new(());

/// One command in its sandbox, to be dropped after its end: then it kills what the command left behind.
#[derive(Debug)]
pub struct Confined {
    pub(super) command: Command,
    pub(super) number: u64,
    pub(super) token: Option<String>,
    pub(super) limits: Limits,
    /// Its process group, once it is started.
    pub(super) group: Option<u32>,
    #[cfg(target_os = "linux")]
    pub(super) run: Option<Arc<Run>>,
    /// Its cgroup, if it gets one.
    #[cfg(target_os = "linux")]
    pub(super) cgroup: Option<PathBuf>,
    /// Starts the helper of the next command, if helpers are started in advance.
    #[cfg(target_os = "linux")]
    pub(super) starter: Option<Arc<Starter>>,
    /// The helper that waits for this command, and what it is to be told.
    #[cfg(target_os = "linux")]
    pub(super) waiting: Option<Box<(Waiting, Vec<u8>)>>,
}

/// What a sandbox did to a command, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intervention {
    /// It was never started.
    NotStarted(String),
    /// It used more than it may.
    Killed(String),
}

impl Confined {
    /// A command that is not confined.
    pub(in crate::commands) fn unconfined(command: Command) -> Self {
        Self {
            command,
            number: 0,
            token: None,
            limits: Limits::NONE,
            group: None,
            #[cfg(target_os = "linux")]
            run: None,
            #[cfg(target_os = "linux")]
            cgroup: None,
            #[cfg(target_os = "linux")]
            starter: None,
            #[cfg(target_os = "linux")]
            waiting: None,
        }
    }

    /// The command, to set where its input comes from and its output goes. Program, arguments, environment
    /// and folder are set already, and not the program's own where a helper comes first.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Starts it in a process group of its own. Whoever waits for it kills that group before.
    ///
    /// On Linux a confined command ends with the thread that started it: this one must last as long.
    ///
    /// # Errors
    /// Those of [`Command::spawn`].
    pub fn spawn(&mut self) -> io::Result<Child> {
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut self.command, 0);
        #[cfg(target_os = "linux")]
        return self.spawn_watched();
        #[cfg(not(target_os = "linux"))]
        {
            let child = self.command.spawn()?;
            self.group = Some(child.id());
            Ok(child)
        }
    }

    /// Starts it without input, and with pipes for its outputs.
    #[cfg(unix)]
    pub(in crate::commands) fn start_piped(&mut self) -> io::Result<Child> {
        #[cfg(target_os = "linux")]
        if let Some(starter) = self.starter.take() {
            let child = match self.assign() {
                Some(child) => child,
                None => self.spawn_piped()?,
            };
            starter.start_next();
            return Ok(child);
        }
        self.spawn_piped()
    }

    #[cfg(unix)]
    fn spawn_piped(&mut self) -> io::Result<Child> {
        use std::process::Stdio;

        self.command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.spawn()
    }

    /// Lets the waiting helper become the command, if there is one that can.
    #[cfg(target_os = "linux")]
    fn assign(&mut self) -> Option<Child> {
        let (waiting, assignment) = *self.waiting.take()?;
        let child = waiting.assign(&assignment);
        let child = child.inspect_err(|error| log::debug!("a waiting helper is not used: {error}"));
        let child = child.ok()?;
        self.group = Some(child.id());
        Some(child)
    }

    /// Leaves the process, its group and its cgroup to the one that has its number now.
    #[cfg(target_os = "linux")]
    pub(super) fn leave_to_successor(&mut self) {
        self.group = None;
    }

    #[cfg(target_os = "linux")]
    fn spawn_watched(&mut self) -> io::Result<Child> {
        self.announce(News::Starting(self.number))?;
        let starting = STARTING.read();
        let spawned = self.command.spawn();
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
        if let Err(error) = self.announce(News::Started(self.number, child.id())) {
            let _ = child.kill().and_then(|()| reap::child(&mut child));
            return Err(error);
        }
        Ok(child)
    }

    #[cfg(target_os = "linux")]
    fn announce(&self, news: News) -> io::Result<()> {
        let told = self.run.as_ref().map_or(Ok(()), |run| run.announce(news));
        told.map_err(|error| {
            io::Error::other(format!(
                "nobody watches the limits of commands any more: {error}"
            ))
        })
    }

    /// To be called every second while it runs: asks how processes ended that commands left behind meanwhile.
    #[cfg(unix)]
    pub(in crate::commands) fn reap_orphans(&self) {
        #[cfg(target_os = "linux")]
        if let Some(run) = &self.run {
            reap_orphans(run);
        }
    }

    /// Why it ended, if that was the sandbox's doing and not its own: it could not be started, or used too
    /// much. `stderr` is what it wrote to standard error, or the beginning of it.
    pub fn failure(&self, status: ExitStatus, stderr: &[u8]) -> Option<Error> {
        #[cfg(unix)]
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        #[cfg(not(unix))]
        let signal = None;
        self.intervention(status.code(), signal, stderr)
            .map(|what| match what {
                Intervention::NotStarted(why) => refused(why),
                Intervention::Killed(why) => refused(format!("killed: {why}")),
            })
    }

    /// The same, as data.
    #[cfg(not(unix))]
    pub(in crate::commands) fn intervention(
        &self,
        _: Option<i32>,
        _: Option<i32>,
        _: &[u8],
    ) -> Option<Intervention> {
        let _ = (self.number, &self.token, self.limits);
        None
    }

    /// The same, as data.
    #[cfg(unix)]
    pub(in crate::commands) fn intervention(
        &self,
        exit_code: Option<i32>,
        signal: Option<i32>,
        stderr: &[u8],
    ) -> Option<Intervention> {
        use rustix::process::Signal;

        if let (Some(token), Some(super::helper::FAILED)) = (&self.token, exit_code) {
            let text = String::from_utf8_lossy(stderr);
            let said = |line: &str| line.strip_prefix(token.as_str()).map(str::to_owned);
            let why = text.lines().find_map(said)?;
            return Some(Intervention::NotStarted(why.trim().to_owned()));
        }
        let signal = Signal::from_named_raw(signal?)?;
        let reason = if signal == Signal::XCPU {
            let limit = self.limits.cpu_seconds?;
            format!("it used more than {limit} s of processor time; --cpu SECONDS allows more")
        } else if signal == Signal::XFSZ {
            let limit = self.limits.file_size?;
            format!("it wrote a file of more than {limit} bytes; --max-file SIZE allows more")
        } else {
            self.watchdogs_reason(signal)?
        };
        Some(Intervention::Killed(reason))
    }

    #[cfg(unix)]
    fn watchdogs_reason(&self, signal: rustix::process::Signal) -> Option<String> {
        #[cfg(target_os = "linux")]
        if signal == rustix::process::Signal::KILL {
            let reported = self.run.as_ref()?.reason(self.number);
            return reported.or_else(|| self.out_of_memory());
        }
        let _ = (signal, self.number);
        None
    }
}

#[cfg(target_os = "linux")]
impl Confined {
    /// The limit of memory, if the kernel ended the command for it between two looks of the watchdog.
    fn out_of_memory(&self) -> Option<String> {
        let limit = self.limits.memory?;
        cgroup::ran_out_of_memory(self.cgroup.as_ref()?).then(|| uses_too_much_memory(limit))
    }
}

#[cfg(target_os = "linux")]
impl Drop for Confined {
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

/// Ends what left the process group of a command, and what of it this process has inherited. Such processes
/// are children of the first thread, which others are started from that is no command's.
#[cfg(target_os = "linux")]
fn end_strays(run: &Run, number: u64, group: rustix::process::Pid) {
    use rustix::process::{Pid, WaitOptions, waitpgid};

    let own = format!("{}.{number}", run.id).into_bytes();
    let first = std::process::id().cast_signed();
    let session = Process::of(first).map(|own| own.session);
    let until = Instant::now() + reap::AFTER_KILL;
    for pid in processes::children(first, Some(first)) {
        let Some((process, pid)) = Process::of(pid).zip(Pid::from_raw(pid)) else {
            continue;
        };
        let in_group = process.group == group.as_raw_nonzero().get();
        if process.ended {
            let left = in_group || (run.owns_children && Some(process.session) != session);
            // Only its tracer keeps an orphan.
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
    // Nobody else asks how the rest of the group ended.
    while let Ok(Some(_)) = waitpgid(group, WaitOptions::NOHANG) {}
}

/// Asks how the processes ended that commands left behind: until then each of them takes a number.
#[cfg(target_os = "linux")]
fn reap_orphans(run: &Run) {
    if !run.owns_children {
        return;
    }
    let first = std::process::id().cast_signed();
    // The watchdog is in that of this process.
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

/// Asks how a child ended, unless a command waits for it. False if its tracer keeps that.
#[cfg(target_os = "linux")]
fn reap_orphan(pid: rustix::process::Pid) -> bool {
    // No new command may get the number of one that is gone meanwhile.
    let _none = STARTING.write();
    LEADERS
        .lock()
        .contains(&pid.as_raw_nonzero().get().cast_unsigned())
        || !matches!(
            rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG),
            Ok(None)
        )
}
