//! A cgroup for each command, if the kernel has cgroups of version 2 and this process may create some. A process
//! cannot leave its cgroup by changing its group, session, parent or environment.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

use super::limits::Limits;

/// Prefix of the name of a run's cgroup, so that a later run finds it.
const PREFIX: &str = "batchwright-";
/// The paths at which systems mount version 2; the second one is next to version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// Another run may mistake a new cgroup for an abandoned one and remove it.
const ATTEMPTS: usize = 10;
/// A killed process that has not ended after this time is abandoned.
const PATIENCE: Duration = Duration::from_secs(10);
/// Interval at which processes are killed again and removal is retried.
const AGAIN: Duration = Duration::from_millis(20);

/// The cgroup of a run. It contains the cgroups of its commands, and no process.
#[derive(Debug)]
pub struct Tree {
    path: PathBuf,
    /// Locked as long as this process exists, to distinguish it from an abandoned one.
    _lock: File,
}

impl Tree {
    /// Creates one below the cgroup of this process, and removes those that killed runs left there.
    pub fn new(id: &str) -> io::Result<Self> {
        Self::below(&own()?, id)
    }

    fn below(own: &Path, id: &str) -> io::Result<Self> {
        sweep(own);
        let path = own.join(format!("{PREFIX}{id}"));
        for _ in 0..ATTEMPTS {
            if let Ok(lock) = make_locked(&path) {
                for controller in ["+pids", "+memory"] {
                    // Without these controllers, only the watchdog enforces the limits.
                    let _ = fs::write(path.join("cgroup.subtree_control"), controller);
                }
                return Ok(Self { path, _lock: lock });
            }
            // Another run may be checking it.
            thread::sleep(Duration::from_millis(2));
        }
        make_locked(&path).map(|lock| Self { path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if let Err(error) = end(&self.path) {
            log::warn!("{error}");
        }
    }
}

fn make_locked(path: &Path) -> io::Result<File> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let lock = File::open(path)?;
    lock.try_lock()?;
    // It may have been removed before it was locked.
    fs::metadata(path)?;
    Ok(lock)
}

/// The cgroup of this process.
fn own() -> io::Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let path = path.ok_or(ErrorKind::Unsupported)?;
    let pid = std::process::id().to_string();
    let of_this_process = |folder: &PathBuf| {
        let members = fs::read_to_string(folder.join("cgroup.procs"));
        members.is_ok_and(|members| members.lines().any(|member| member == pid))
    };
    let folders = MOUNTS.map(|mount| Path::new(mount).join(path));
    let own = folders.into_iter().find(of_this_process);
    own.ok_or_else(|| ErrorKind::Unsupported.into())
}

/// Removes the cgroups of runs that were killed together with their watchdogs.
fn sweep(own: &Path) {
    for entry in fs::read_dir(own).into_iter().flatten().flatten() {
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PREFIX.as_bytes())
            && let Ok(folder) = File::open(entry.path())
            && folder.try_lock().is_ok()
            && let Err(error) = end(&entry.path())
        {
            log::warn!("{error}");
        }
    }
}

/// Creates a cgroup, sets its limits, and moves this process into it.
pub fn enter(path: &Path, limits: &Limits) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // The launcher does not count.
    let processes = limits.processes.map(|limit| limit.saturating_add(1));
    // Twice the limit, because the watchdog should be the first to detect a violation and report which limit it was.
    // These files exist only if the controllers do.
    let twice = |limit: Option<u64>| limit.map(|limit| limit.saturating_mul(2).to_string());
    for (file, limit) in [
        ("pids.max", twice(processes)),
        ("memory.max", twice(limits.memory)),
        ("memory.oom.group", limits.memory.map(|_| "1".to_owned())),
    ] {
        let file = path.join(file);
        if let Some(limit) = limit.filter(|_| file.exists()) {
            fs::write(file, limit)?;
        }
    }
    fs::write(path.join("cgroup.procs"), "0")
}

/// Whether the kernel killed processes in it because of their memory.
pub fn ran_out_of_memory(path: &Path) -> bool {
    let events = fs::read_to_string(path.join("memory.events")).unwrap_or_default();
    let killed = events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "));
    killed.is_some_and(|killed| killed != "0")
}

/// The processes in it, and in the cgroups that its processes created below it.
pub fn members(path: &Path) -> Vec<i32> {
    let mut waiting = vec![path.to_owned()];
    let mut members = Vec::new();
    while let Some(path) = waiting.pop() {
        let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        members.extend(text.lines().filter_map(|pid| pid.parse::<i32>().ok()));
        waiting.extend(below(&path));
    }
    members
}

fn below(path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path())
}

/// Kills all processes in it at once.
pub fn kill(path: &Path) {
    // Kernels before 5.14 do not have this file; opening it must not create it.
    let kill = File::options().write(true).open(path.join("cgroup.kill"));
    let killed = kill.and_then(|mut file| io::Write::write_all(&mut file, b"1"));
    if killed.is_err() {
        for pid in members(path).into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Kills the remaining processes and removes it.
pub fn end(path: &Path) -> io::Result<()> {
    // Most commands leave no processes behind.
    if remove(path).is_ok() {
        return Ok(());
    }
    let until = Instant::now() + PATIENCE;
    loop {
        kill(path);
        wait_until_empty(path, AGAIN);
        let Err(error) = remove(path) else {
            return Ok(());
        };
        if Instant::now() >= until {
            let (path, left) = (path.display(), members(path));
            let why = format!("cannot remove {path}: {error}; processes that are left: {left:?}");
            return Err(io::Error::new(error.kind(), why));
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    for inner in below(path) {
        remove(&inner)?;
    }
    fs::remove_dir(path)
}

/// Waits until the kernel reports that no process is left; waits at least once for any report.
fn wait_until_empty(path: &Path, longest: Duration) {
    let Ok(mut events) = File::open(path.join("cgroup.events")) else {
        return;
    };
    let mut text = String::new();
    let _ = io::Read::read_to_string(&mut events, &mut text);
    if text.lines().any(|line| line == "populated 0") {
        // A cgroup that is being released cannot be removed yet.
        return thread::sleep(Duration::from_millis(1));
    }
    let timeout = Timespec::try_from(longest).ok();
    let _ = poll(
        &mut [PollFd::new(&events, PollFlags::PRI)],
        timeout.as_ref(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    /// `None` if this process cannot create a cgroup here.
    fn own_or_skip() -> Option<PathBuf> {
        let made = Tree::new("probe").and_then(|tree| own().map(|own| (tree, own)));
        match made {
            Ok((_, own)) => Some(own),
            Err(error) => {
                eprintln!("SKIPPED: no cgroup can be made here: {error}");
                None
            }
        }
    }

    fn sleeper(path: &Path) -> Child {
        fs::create_dir_all(path).unwrap();
        let sleeper = Command::new("sleep").arg("600").spawn().unwrap();
        fs::write(path.join("cgroup.procs"), sleeper.id().to_string()).unwrap();
        sleeper
    }

    #[test]
    fn leftovers_of_a_killed_run_are_ended_and_running_ones_are_not() {
        let Some(own) = own_or_skip() else { return };
        let running = Tree::new(&format!("{}-running", std::process::id())).unwrap();
        let mut kept = sleeper(&running.path().join("1"));
        let left = own.join(format!("{PREFIX}{}-left", std::process::id()));
        let mut inner = sleeper(&left.join("1/of the command"));
        let mut outer = sleeper(&left.join("2"));

        sweep(&own);

        assert!(!left.exists());
        assert!(!inner.wait().unwrap().success());
        assert!(!outer.wait().unwrap().success());
        assert_eq!(members(running.path()), [kept.id().cast_signed()]);
        assert_eq!(kept.try_wait().unwrap(), None);
        let path = running.path().to_owned();
        drop(running);
        assert!(!kept.wait().unwrap().success());
        assert!(!path.exists());
    }

    /// A folder in place of a cgroup shows what a kernel would receive.
    #[test]
    fn limits_go_to_the_controllers_that_are_there() {
        let site = tempfile::tempdir().unwrap();
        let cgroup = site.path().join("1");
        enter(&cgroup, &Limits::default()).unwrap();
        assert!(!cgroup.join("pids.max").exists(), "there is no controller");
        for file in ["pids.max", "memory.max", "memory.oom.group"] {
            fs::write(cgroup.join(file), "max").unwrap();
        }
        enter(&cgroup, &Limits::default()).unwrap();
        let told = |file: &str| fs::read_to_string(cgroup.join(file)).unwrap();
        let of = ["pids.max", "memory.max", "memory.oom.group", "cgroup.procs"];
        assert_eq!(of.map(told), ["1026", "1000000000", "1", "0"]);

        assert!(!ran_out_of_memory(&cgroup));
        let event = |n: u8| {
            fs::write(
                cgroup.join("memory.events"),
                format!("max 9\noom_kill {n}\n"),
            )
        };
        event(0).unwrap();
        assert!(!ran_out_of_memory(&cgroup));
        event(2).unwrap();
        assert!(ran_out_of_memory(&cgroup));
    }

    /// As in kernels before Linux 5.14.
    #[test]
    fn processes_are_killed_one_by_one_where_the_kernel_cannot_kill_a_cgroup() {
        let site = tempfile::tempdir().unwrap();
        let mut sleeper = Command::new("sleep")
            .arg("600")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        fs::write(
            site.path().join("cgroup.procs"),
            format!("{}\n", sleeper.id()),
        )
        .unwrap();
        kill(site.path());
        assert!(!sleeper.wait().unwrap().success());
        assert!(!site.path().join("cgroup.kill").exists());
    }
}
