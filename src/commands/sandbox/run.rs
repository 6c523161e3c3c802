//! What a run keeps beside its commands: a folder, the watchdog, and the inheritance of orphans.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::process::set_child_subreaper;
use uuid::Uuid;

use super::limits::Limits;
use super::processes::{self, Process};
use super::programs::refused;
use super::watchdog::{LAST_LOOKS, Orders, WATCH};
use crate::base::error::Error;
use crate::base::private;

/// How many runs of this process want to inherit the orphans of commands.
static INHERITING: Mutex<usize> = Mutex::new(0);

/// Lives as long as the last command of it.
#[derive(Debug)]
pub struct Run {
    /// Unlike that of any other run.
    pub id: String,
    pub folder: PathBuf,
    /// This process starts nothing but commands.
    pub owns_children: bool,
    watchdog: Child,
    reports: Mutex<Reports>,
}

#[derive(Debug)]
struct Reports {
    output: BufReader<ChildStdout>,
    unread: Vec<u8>,
    /// Why commands were killed, until somebody asks.
    reasons: HashMap<u64, String>,
}

impl Run {
    /// Starts the watchdog.
    pub fn start(helper: &Path, limits: &Limits, owns_children: bool) -> Result<Self, Error> {
        let id = Uuid::now_v7().simple().to_string();
        let folder = std::env::temp_dir().join(format!("batchwright-{id}"));
        private::make_folder(&folder)
            .map_err(|error| refused(format!("cannot make {}: {error}", folder.display())))?;
        let started = start_watchdog(&id, helper, limits, &folder);
        let (watchdog, output) = started.map_err(|error| {
            let _ = std::fs::remove_dir_all(&folder);
            let helper = helper.display();
            refused(format!("cannot start {helper} to watch commands: {error}"))
        })?;
        let mut inheriting = INHERITING.lock();
        *inheriting += 1;
        if *inheriting == 1 {
            // Without it, what a command leaves behind is found by the watchdog alone.
            let _ = set_child_subreaper(Some(rustix::process::getpid()));
        }
        Ok(Self {
            id,
            folder,
            owns_children,
            watchdog,
            reports: Mutex::new(Reports {
                output,
                unread: Vec::new(),
                reasons: HashMap::new(),
            }),
        })
    }

    /// The folder for files that commands need for a moment.
    pub fn temporary(&self) -> PathBuf {
        self.folder.join("tmp")
    }

    /// Tells the watchdog which process a command is, by a pipe that no command can reach: it kills what it
    /// is told to watch.
    pub fn announce(&self, number: u64, pid: u32) -> std::io::Result<()> {
        let line = format!("{number} {pid}\n");
        let input = self.watchdog.stdin.as_ref();
        let mut input = input.ok_or(std::io::ErrorKind::BrokenPipe)?;
        // Short lines of several threads go into a pipe whole.
        input.write_all(line.as_bytes())
    }

    /// Why the watchdog killed this command, if it did.
    pub fn reason(&self, number: u64) -> Option<String> {
        let mut reports = self.reports.lock();
        let Reports {
            output,
            unread,
            reasons,
        } = &mut *reports;
        // It does not block: whatever was said of a command was said before the command was killed.
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

fn start_watchdog(
    id: &str,
    helper: &Path,
    limits: &Limits,
    folder: &Path,
) -> std::io::Result<(Child, BufReader<ChildStdout>)> {
    use std::os::unix::process::CommandExt;

    private::make_folder(&folder.join("tmp"))?;
    let mut watchdog = Command::new(helper)
        .arg(WATCH)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // A Ctrl-C at the terminal is not for it: it has to see the end.
        .process_group(0)
        .spawn()?;
    let (Some(input), Some(output)) = (&mut watchdog.stdin, watchdog.stdout.take()) else {
        return Err(std::io::ErrorKind::BrokenPipe.into());
    };
    // Another program may have ended already; that it does not answer says enough.
    let _ = input.write_all(&Orders::new(id, folder, limits).encode());
    let mut output = BufReader::new(output);
    let mut ready = String::new();
    output.read_line(&mut ready)?;
    if ready != "ready\n" {
        let _ = watchdog.kill().and_then(|()| watchdog.wait());
        return Err(std::io::Error::other(
            "it is no batchwright of this version, or does not call commands::confine_main",
        ));
    }
    rustix::fs::fcntl_setfl(output.get_ref(), OFlags::NONBLOCK)?;
    Ok((watchdog, output))
}

impl Drop for Run {
    fn drop(&mut self) {
        // The end of its input is its sign to end all that is left.
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
        let mut inheriting = INHERITING.lock();
        *inheriting -= 1;
        if *inheriting == 0 {
            if self.owns_children {
                end_children();
            }
            let _ = set_child_subreaper(None);
        }
    }
}

/// Kills what commands left behind so well hidden that it could not be told from children of others.
fn end_children() {
    use rustix::process::{Pid, WaitOptions, getpid, waitpid};

    let own = getpid().as_raw_nonzero().get();
    // What its parents leave on their way out is inherited in turn.
    for _ in 0..LAST_LOOKS {
        let children = processes::children(own, None);
        if children.is_empty() {
            return;
        }
        for pid in children {
            if let Some(process) = Process::of(pid) {
                processes::kill_tree(process.identity);
            }
            let _ = waitpid(Pid::from_raw(pid), WaitOptions::empty());
        }
    }
}
