//! Resources of a run: a folder, the watchdog, and the adoption of orphans.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use batchwright::Error;
use batchwright::unstable::make_private_folder;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::retry_on_intr;
use rustix::process::set_child_subreaper;
use uuid::Uuid;

use super::cgroup::Tree;
use super::encoding::encode;
use super::helper_program::HelperProgram;
use super::limits::Limits;
use super::orders::{News, Orders};
use super::policy::VARIABLE;
use super::processes::{self, Process};
use super::programs::refused;
use super::remove;
use super::watchdog::{LAST_LOOKS, WATCH};
use crate::reap;

/// The runs of this process, which adopts the orphans of their commands; each is represented by the input of its
/// watchdog.
static RUNS: Mutex<Vec<Arc<File>>> = Mutex::new(Vec::new());

/// Maximum time in which the watchdog removes what commands left in their temporary folder.
const LAST_WORK: Duration = Duration::from_secs(300);

/// Lives as long as the last command of the run.
#[derive(Debug)]
pub struct Run {
    /// Unique among all runs.
    pub id: String,
    pub folder: PathBuf,
    /// This process starts only commands.
    pub owns_children: bool,
    /// The cgroup that contains those of the commands, if cgroups are available.
    pub cgroups: Option<Tree>,
    /// The number of the next launcher, or of the next command that is started directly.
    next: AtomicU64,
    watchdog: Child,
    input: Option<Arc<File>>,
    reports: Mutex<Reports>,
}

#[derive(Debug)]
struct Reports {
    output: BufReader<ChildStdout>,
    unread: Vec<u8>,
    /// Why commands were killed, until the reason is read.
    reasons: HashMap<u64, String>,
}

impl Run {
    /// Starts the watchdog. With `contain`, each launcher gets a cgroup.
    pub fn start(
        helper: &HelperProgram,
        limits: &Limits,
        owns_children: bool,
        contain: bool,
    ) -> Result<Self, Error> {
        let id = Uuid::now_v7().simple().to_string();
        let folder = std::env::temp_dir().join(format!("batchwright-{id}"));
        make_private_folder(&folder)
            .map_err(|error| refused(format!("cannot make {}: {error}", folder.display())))?;
        let cgroups = contain.then(|| Tree::new(&id)).and_then(|made| {
            made.inspect_err(|error| log::debug!("no cgroup can be made: {error}"))
                .ok()
        });
        let mut runs = RUNS.lock();
        for other in runs.iter() {
            // From now on, children that the other run's watchdog does not know may belong to this run.
            let _ = other.as_ref().write_all(&News::NotAlone.line());
        }
        let orders = Orders {
            run: id.clone(),
            batchwright: std::process::id().cast_signed(),
            folder: folder.clone(),
            memory: limits.memory,
            processes: limits.processes,
            owns_children: owns_children && runs.is_empty(),
            cgroups: cgroups.as_ref().map(|tree| tree.path().to_owned()),
        };
        let started = start_watchdog(helper, &orders);
        let (watchdog, input, output) = started.map_err(|error| {
            let _ = std::fs::remove_dir_all(&folder);
            refused(format!("cannot start {helper} to watch commands: {error}"))
        })?;
        let input = Arc::new(input);
        runs.push(input.clone());
        if runs.len() == 1 {
            // Without adoption, only the watchdog finds the processes that a command leaves behind.
            let _ = set_child_subreaper(Some(rustix::process::getpid()));
        }
        Ok(Self {
            id,
            folder,
            owns_children,
            cgroups,
            next: AtomicU64::new(1),
            watchdog,
            input: Some(input),
            reports: Mutex::new(Reports {
                output,
                unread: Vec::new(),
                reasons: HashMap::new(),
            }),
        })
    }

    pub fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The folder for temporary files of commands.
    pub fn temporary(&self) -> PathBuf {
        self.folder.join("tmp")
    }

    /// The number of the watchdog.
    pub fn watchdog(&self) -> i32 {
        self.watchdog.id().cast_signed()
    }

    /// Announces a command to the watchdog, through a pipe that no command can access, because the watchdog kills every
    /// process that it is told to watch.
    pub fn announce(&self, news: News) -> std::io::Result<()> {
        let input = self.input.as_deref();
        let mut input = input.ok_or_else(unwatched)?;
        // Short lines of several threads are written to a pipe atomically.
        input.write_all(&news.line()).map_err(|_| unwatched())
    }

    /// Fails if the watchdog has ended: then the limits of commands are not enforced.
    pub fn is_watched(&self) -> std::io::Result<()> {
        let input = self.input.as_deref().ok_or_else(unwatched)?;
        // Only the end of the other side is an event.
        let mut events = [PollFd::new(input, PollFlags::empty())];
        let ended = retry_on_intr(|| poll(&mut events, Some(&Timespec::default())))?;
        if ended == 0 { Ok(()) } else { Err(unwatched()) }
    }

    /// The reason if the watchdog killed this command.
    pub fn reason(&self, number: u64) -> Option<String> {
        let mut reports = self.reports.lock();
        let Reports {
            output,
            unread,
            reasons,
        } = &mut *reports;
        // It does not block: everything about a command was written before the command was killed.
        let _ = output.read_to_end(unread);
        let whole = unread
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |end| end + 1);
        let lines: Vec<u8> = unread.drain(..whole).collect();
        for line in String::from_utf8_lossy(&lines).lines() {
            if let Some((number, reason)) = line.split_once(' ')
                && let Ok(number) = number.parse()
            {
                reasons.insert(number, reason.to_owned());
            }
        }
        reasons.remove(&number)
    }
}

fn unwatched() -> std::io::Error {
    std::io::Error::other("nobody watches the limits of commands any more: the watchdog has ended")
}

fn start_watchdog(
    helper: &HelperProgram,
    orders: &Orders,
) -> std::io::Result<(Child, File, BufReader<ChildStdout>)> {
    use std::os::unix::process::CommandExt;

    make_private_folder(&orders.folder.join("tmp"))?;
    let mut watchdog = helper
        .command()
        .arg(WATCH)
        .env(VARIABLE, encode(orders))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // Ctrl-C at the terminal must not reach it, because it has to see the end of the program.
        .process_group(0)
        .spawn()?;
    let (Some(input), Some(output)) = (watchdog.stdin.take(), watchdog.stdout.take()) else {
        return Err(std::io::ErrorKind::BrokenPipe.into());
    };
    let input = File::from(OwnedFd::from(input));
    let mut ready = String::new();
    let timeout = Timespec::try_from(reap::ANSWER).ok();
    let answers = poll(&mut [PollFd::new(&output, PollFlags::IN)], timeout.as_ref());
    let mut output = BufReader::new(output);
    if answers.is_ok_and(|answers| answers > 0) {
        output.read_line(&mut ready)?;
    }
    if ready != "ready\n" {
        let _ = watchdog.kill().and_then(|()| reap::child(&mut watchdog));
        return Err(std::io::Error::other(
            "it is no batchwright of this version, or does not call batchwright_exec::confine_main",
        ));
    }
    rustix::fs::fcntl_setfl(output.get_ref(), OFlags::NONBLOCK)?;
    Ok((watchdog, input, output))
}

impl Drop for Run {
    fn drop(&mut self) {
        // The end of its input is the signal to kill everything that is left.
        let _ = self.announce(News::Over);
        let mut runs = RUNS.lock();
        if let Some(input) = self.input.take() {
            runs.retain(|of_run| !Arc::ptr_eq(of_run, &input));
        }
        drop(runs);
        self.end_watchdog();
        let runs = RUNS.lock();
        if runs.is_empty() {
            if self.owns_children {
                end_children();
            }
            let _ = set_child_subreaper(None);
        }
    }
}

impl Run {
    /// Waits until the watchdog has ended and removed everything, and does what it could not.
    fn end_watchdog(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.watchdog);
        let ended = reap::reap(pid, LAST_WORK, || {
            // A command without a sandbox may have stopped it.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
            self.watchdog.try_wait()
        });
        if !matches!(ended, Ok(Some(_))) {
            let _ = self.watchdog.kill();
            let _ = reap::child(&mut self.watchdog);
        }
        let left = match ended {
            Ok(Some(status)) if status.success() => self.reason(0),
            _ => remove::tree(&self.folder)
                .err()
                .map(|left| left.to_string()),
        };
        if let Some(left) = left {
            log::warn!("commands left something behind: {left}");
        }
    }
}

/// Kills processes that commands left behind and that could not be distinguished from other children before.
fn end_children() {
    use rustix::process::{Pid, getpid};

    let own = getpid().as_raw_nonzero().get();
    let until = Instant::now() + reap::AFTER_KILL;
    let mut done = HashSet::new();
    // The children of the killed processes are adopted in turn.
    for _ in 0..LAST_LOOKS {
        let mut children = processes::children(own, None);
        // An abandoned process stays.
        children.retain(|&pid| done.insert(pid));
        if children.is_empty() {
            return;
        }
        for pid in children {
            if let Some(process) = Process::of(pid) {
                processes::kill_tree(process.identity);
            }
            if let Some(pid) = Pid::from_raw(pid) {
                reap::stray(pid, until);
            }
        }
    }
}
