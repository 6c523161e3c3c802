//! Reads processes from `/proc`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read};

use rustix::process::{Pid, Signal, kill_process};

/// Number of times that processes are looked for and killed.
const MOST_LOOKS: usize = 10_000;

/// Identifies a process; its number alone may be reused later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    pub pid: i32,
    /// Time of its start, in ticks since the machine started.
    pub started: u64,
}

impl Identity {
    /// Kills it; it cannot prevent that.
    pub fn kill(self) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            // An error means that it has ended already.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Properties of a process at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    pub identity: Identity,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    pub threads: u64,
    /// Memory that it uses or shares, in pages.
    pub resident: u64,
    /// It has ended and was not reaped.
    pub ended: bool,
}

impl Process {
    pub fn of(pid: i32) -> Option<Self> {
        let process = Self::read(&format!("/proc/{pid}/stat"))?;
        if !process.ended || process.threads < 2 {
            return Some(process);
        }
        // Its first thread has ended, but others have not: their entries have the memory.
        Some(live_thread(pid).map_or(process, |(_, thread)| Self {
            resident: thread.resident,
            ended: false,
            ..process
        }))
    }

    fn read(path: &str) -> Option<Self> {
        // The fields below are within the first bytes, which the kernel returns in one read.
        let mut text = [0; 1024];
        let length = File::open(path).ok()?.read(&mut text).ok()?;
        let text = String::from_utf8_lossy(&text[..length]);
        // The name before it may contain anything, also bytes that are not UTF-8.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse().ok();
        Some(Self {
            identity: Identity {
                pid: text.split_once(' ')?.0.parse().ok()?,
                started: fields.get(22 - 3)?.parse().ok()?,
            },
            parent: number(4)?,
            group: number(5)?,
            session: number(6)?,
            threads: number(20)?.try_into().ok()?,
            resident: fields.get(24 - 3)?.parse().ok()?,
            ended: matches!(*fields.first()?, "Z" | "X"),
        })
    }
}

/// A thread of the process that has not ended, with its number.
fn live_thread(pid: i32) -> Option<(i32, Process)> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut threads = threads.filter_map(|thread| {
        let thread: i32 = thread.ok()?.file_name().to_str()?.parse().ok()?;
        Some((
            thread,
            Process::read(&format!("/proc/{pid}/task/{thread}/stat"))?,
        ))
    });
    threads.find(|(_, thread)| !thread.ended)
}

/// The memory of a process in bytes; each shared page is divided equally among the processes that share it.
pub fn proportional_memory(pid: i32) -> Option<u64> {
    let rollup = |pid: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
        text.ok().filter(|text| !text.is_empty())
    };
    let text = rollup(pid).or_else(|| rollup(live_thread(pid)?.0))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// The value of a variable in the environment with which a process was started.
pub fn variable(pid: i32, name: &str) -> Option<Vec<u8>> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let of = |line: &[u8]| {
        let value = line.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.to_vec())
    };
    environment.split(|&byte| byte == 0).find_map(of)
}

/// The numbers of all processes.
pub fn all() -> io::Result<impl Iterator<Item = i32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

/// The children of one thread of a process, or of all its threads.
pub fn children(pid: i32, thread: Option<i32>) -> Vec<i32> {
    let of_thread = |thread: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/children"));
        let text = text.unwrap_or_default();
        let numbers = text.split_ascii_whitespace();
        numbers.filter_map(|n| n.parse().ok()).collect::<Vec<i32>>()
    };
    if let Some(thread) = thread {
        return of_thread(&thread.to_string());
    }
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let threads = threads.into_iter().flatten().flatten();
    threads
        .flat_map(|thread| of_thread(&thread.file_name().to_string_lossy()))
        .collect()
}

/// All descendants of a process whose parents still exist, parents before their children.
pub fn descendants(ancestor: i32) -> Vec<Process> {
    // Some kernels do not list the children of a process.
    if fs::exists(format!("/proc/{ancestor}/task/{ancestor}/children")).unwrap_or(false) {
        let mut found = Vec::new();
        let mut waiting: VecDeque<i32> = children(ancestor, None).into();
        while let Some(pid) = waiting.pop_front() {
            if let Some(process) = Process::of(pid) {
                found.push(process);
                waiting.extend(children(pid, None));
            }
        }
        return found;
    }
    let mut by_parent: HashMap<i32, Vec<Process>> = HashMap::new();
    for process in all().into_iter().flatten().filter_map(Process::of) {
        by_parent.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut waiting = VecDeque::from([ancestor]);
    while let Some(pid) = waiting.pop_front() {
        let processes = by_parent.remove(&pid).unwrap_or_default();
        waiting.extend(processes.iter().map(|process| process.identity.pid));
        found.extend(processes);
    }
    found
}

/// The tracer of a process, if it is a descendant of this process.
pub fn tracer(pid: i32) -> Option<Identity> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"))?;
    let tracer: i32 = line.trim().parse().ok().filter(|&tracer| tracer != 0)?;
    let descends = descendants(std::process::id().cast_signed());
    let tracer = descends
        .into_iter()
        .find(|process| process.identity.pid == tracer);
    tracer.map(|tracer| tracer.identity)
}

/// Stops a process. If all of these others have ended, lets it continue and returns false.
pub fn stop_unless_ended(pid: i32, others: &[Process]) -> bool {
    let signal = |signal| Pid::from_raw(pid).map(|pid| kill_process(pid, signal));
    signal(Signal::STOP);
    let is_there = |process: &Process| {
        let now = Process::of(process.identity.pid);
        now.is_some_and(|now| now.identity == process.identity && !now.ended)
    };
    let runs = others.iter().any(is_there);
    if !runs {
        signal(Signal::CONT);
    }
    runs
}

/// Kills all descendants of a process that adopts orphans, including those that they start meanwhile.
pub fn end_descendants(ancestor: i32) {
    for _ in 0..MOST_LOOKS {
        let mut below = descendants(ancestor);
        below.retain(|process| !process.ended);
        if below.is_empty() {
            return;
        }
        below.iter().for_each(|process| process.identity.kill());
    }
}

/// Kills a process and all its descendants, including those that it starts meanwhile.
pub fn kill_tree(root: Identity) {
    let mut killed = HashSet::new();
    loop {
        let below = descendants(root.pid);
        root.kill();
        let fresh: Vec<_> = below
            .into_iter()
            .filter(|process| killed.insert(process.identity))
            .collect();
        if fresh.is_empty() {
            return;
        }
        for process in fresh {
            process.identity.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::process::{Command, Stdio};

    #[test]
    fn a_launcher_is_stopped_only_for_a_command_that_still_runs() {
        let start = || {
            let mut cat = Command::new("cat");
            cat.stdin(Stdio::piped()).stdout(Stdio::piped());
            cat.spawn().unwrap()
        };
        let (mut launcher, mut command) = (start(), start());
        let pid = launcher.id().cast_signed();
        let counted = [Process::of(command.id().cast_signed()).unwrap()];
        assert!(stop_unless_ended(pid, &counted));
        let options = rustix::process::WaitOptions::UNTRACED;
        let stopped = rustix::process::waitpid(Pid::from_raw(pid), options).unwrap();
        assert!(stopped.unwrap().1.stopped());
        command.kill().unwrap();
        command.wait().unwrap();
        assert!(!stop_unless_ended(pid, &counted));
        // It continues: it notices the end of its input.
        drop(launcher.stdin.take());
        assert!(launcher.wait().unwrap().success());
    }

    #[test]
    fn a_process_is_seen_whatever_its_name_is() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join(OsStr::from_bytes(b"\xff) Z 1"));
        std::os::unix::fs::symlink("/bin/sh", &name).unwrap();
        let mut command = Command::new(&name);
        let command = command.args(["-c", "read line"]).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let process = Process::of(child.id().cast_signed());
        drop(child.stdin.take());
        child.wait().unwrap();
        let process = process.expect("it is not seen");
        assert_eq!(process.parent, std::process::id().cast_signed());
        assert!(!process.ended);
    }
}
