//! The keeper: the helper process that keeps the commands of a run together, so that the end of the run is their end,
//! however it comes about.
//!
//! It makes a process namespace, whose first process starts the commands ([`launch`](super::launch)): when that process
//! ends, the kernel kills all others. Where no namespace can be made, the keeper starts the commands itself, adopts every
//! process that they leave behind, and kills all at the end.

use std::env;
use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fork::Fork;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{
    Pid, Signal, WaitOptions, getgid, getpid, getuid, kill_process, set_child_subreaper,
    set_parent_process_death_signal, wait, waitpid,
};
use rustix::thread::{CapabilitySet, UnshareFlags, capabilities};

use super::launch::{self, children};
use super::wire::{self, Greeting, Policy};

/// The first argument of a keeper; the second one is the version of its program.
pub const ROLE: &str = "__keeper";
/// A keeper of another version may expect other messages.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Killed processes that have not ended after this time are left behind.
const AFTER_KILL: Duration = Duration::from_secs(10);

static CAN_HELP: AtomicBool = AtomicBool::new(false);

/// Whether a new instance of this program would be a keeper.
pub fn can_help() -> bool {
    CAN_HELP.load(Ordering::Relaxed)
}

/// Becomes a keeper if this process was started as one. Otherwise returns immediately.
pub fn main() {
    CAN_HELP.store(true, Ordering::Relaxed);
    let mut arguments = env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != ROLE) {
        return;
    }
    // Without an answer, batchwright looks for another helper.
    let kept = arguments.next().is_some_and(|version| version == VERSION) && keep().is_ok();
    std::process::exit(if kept { 0 } else { launch::FAILED });
}

fn keep() -> io::Result<()> {
    // No command may have the socket, or files that the program which started batchwright left open.
    close_fds::set_fds_cloexec(3, &[]);
    let socket = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let socket = UnixStream::from(socket);
    let Some((policy, _)) = wire::receive::<Policy>(&socket)? else {
        return Ok(());
    };
    let temporary = policy.temporary.clone();
    let ended = if policy.namespace {
        in_namespace(socket, policy)
    } else {
        set_child_subreaper(Some(getpid()))?;
        let ended = launch::serve(socket, policy);
        end_descendants();
        ended.map(|()| true)
    };
    if let (true, Some(folder)) = (ended?, temporary) {
        // Whatever cannot be removed is reported by batchwright.
        let _ = fs::remove_dir_all(folder);
    }
    Ok(())
}

/// Starts the first process of a new namespace, and waits for its end, which is that of all its processes. False if there
/// is no namespace, and another keeper takes over.
fn in_namespace(socket: UnixStream, policy: Policy) -> io::Result<bool> {
    let started = enter_namespace().and_then(|()| {
        // This process has no other threads, so its child may do everything that it may.
        fork::fork().map_err(|why| format!("its first process cannot start: {why}"))
    });
    match started {
        Err(why) => wire::send(&socket, &Greeting::NoNamespace(why), &[]).map(|()| false),
        Ok(Fork::Child) => {
            if let Err(why) = set_up_namespace() {
                let why = format!("it cannot have its own /proc: {why}");
                let _ = wire::send(&socket, &Greeting::NoNamespace(why), &[]);
                std::process::exit(launch::FAILED);
            }
            // However that ends, batchwright does not learn what happens afterwards.
            let _ = launch::serve(socket, policy);
            std::process::exit(0);
        }
        Ok(Fork::Parent(first)) => {
            // Its end must be seen at the other end of the socket.
            drop(socket);
            let ended = waitpid(Pid::from_raw(first), WaitOptions::empty())?;
            Ok(ended.and_then(|(_, status)| status.exit_status()) != Some(launch::FAILED))
        }
    }
}

/// Makes a namespace for the children of this process. An ordinary user may do that only in a user namespace, in which
/// it keeps its numbers.
fn enter_namespace() -> Result<(), String> {
    fn refused(what: &str) -> impl Fn(io::Error) -> String {
        move |why| format!("{what}: {why}")
    }
    let privileged =
        capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::SYS_ADMIN));
    if !privileged {
        let (user, group) = (getuid(), getgid());
        separate(UnshareFlags::NEWUSER).map_err(refused("no user namespace can be made"))?;
        let map = |file: &str, text: String| {
            fs::write(file, text).map_err(refused("the user namespace cannot have this user"))
        };
        map("/proc/self/setgroups", "deny".to_owned())?;
        let (user, group) = (user.as_raw(), group.as_raw());
        map("/proc/self/uid_map", format!("{user} {user} 1"))?;
        map("/proc/self/gid_map", format!("{group} {group} 1"))?;
    }
    separate(UnshareFlags::NEWPID | UnshareFlags::NEWNS)
        .map_err(refused("no process namespace can be made"))?;
    // Later mounts of the system appear in the namespace, but not the other way around.
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", slave)
        .map_err(|why| refused("the mounts cannot be separated")(why.into()))?;
    // Whether `/proc` can be mounted is known only inside: see `set_up_namespace`.
    Ok(())
}

/// In the first process of the namespace: without its own `/proc`, programs would see the numbers of other processes.
fn set_up_namespace() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None::<&std::ffi::CStr>)?;
    Ok(())
}

/// `unshare` is deprecated because it can separate the tables of open files, which these flags do not.
#[expect(
    deprecated,
    reason = "its successor is unsafe, for flags that are not used here"
)]
fn separate(what: UnshareFlags) -> io::Result<()> {
    Ok(rustix::thread::unshare(what)?)
}

/// Kills every process below this one. They are stopped first, because they may start others meanwhile.
fn end_descendants() {
    let until = Instant::now() + AFTER_KILL;
    let own = getpid().as_raw_nonzero().get();
    while Instant::now() < until {
        let mut known = Vec::new();
        loop {
            let found = descendants(own);
            let new: Vec<_> = found
                .into_iter()
                .filter(|pid| !known.contains(pid))
                .collect();
            if new.is_empty() {
                break;
            }
            new.iter().for_each(|pid| signal(*pid, Signal::STOP));
            known.extend(new);
        }
        known.iter().for_each(|pid| signal(*pid, Signal::KILL));
        // The children of those that have ended are now children of this process.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        if known.is_empty() {
            return;
        }
        std::thread::yield_now();
    }
}

fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// The processes below this one, also those that have ended and were not waited for.
fn descendants(pid: i32) -> Vec<i32> {
    let mut found = children(pid);
    let mut at = 0;
    while let Some(next) = found.get(at) {
        let below = children(*next);
        found.extend(below);
        at += 1;
    }
    found
}
