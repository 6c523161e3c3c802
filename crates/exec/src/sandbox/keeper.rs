//! The keeper: the helper process that keeps the commands of a run together, so that the end of the run is their end,
//! however it comes about.
//!
//! It makes a process namespace, whose first process starts the commands ([`launch`](super::launch)): when that process
//! ends, the kernel kills all others. Where no namespace can be made, the keeper starts the commands itself, adopts every
//! process that they leave behind, and kills all at the end.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fork::Fork;
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{
    Pid, Signal, WaitOptions, getgid, getpid, getuid, kill_process, set_child_subreaper,
    set_parent_process_death_signal, wait, waitpid,
};
use rustix::thread::{CapabilitySet, UnshareFlags, capabilities};

use super::launch::{self, children};
use super::remove::Temporary;
use super::wire::{self, Greeting, Policy};

/// The argument of a keeper. One of another version may expect other messages.
pub const ROLE: &str = concat!("__keeper-", env!("CARGO_PKG_VERSION"));
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
    if env::args_os().nth(1).is_some_and(|role| role == ROLE) {
        // Without an answer, batchwright looks for another helper.
        std::process::exit(keep().map_or(launch::FAILED, |()| 0));
    }
}

fn keep() -> io::Result<()> {
    // No command may have the socket, or files that the program which started batchwright left open.
    close_fds::set_fds_cloexec(3, &[]);
    let socket = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let socket = UnixStream::from(socket);
    let (mut policy, _) = wire::receive::<Policy>(&socket)?;
    // Removed at the end of this function, when all processes have ended.
    let _temporary = match make_temporary(&mut policy) {
        Ok(folder) => folder,
        Err(why) => {
            let why = format!("cannot make a folder for temporary files: {why}");
            return wire::send(&socket, &Greeting::Failed(why), &[]);
        }
    };
    // Without a sandbox, commands see the processes of the system, and an ordinary user may use sudo.
    if policy.confine && in_namespace(&socket, &mut policy)? {
        return Ok(());
    }
    set_child_subreaper(Some(getpid()))?;
    let ended = launch::serve(&socket, &policy);
    end_descendants();
    ended
}

/// Makes a folder for temporary files, which only this user may enter and in which commands may write.
fn make_temporary(policy: &mut Policy) -> io::Result<Option<Temporary>> {
    let Some(parent) = &policy.temporary else {
        return Ok(None);
    };
    let folder = tempfile::Builder::new()
        .prefix("batchwright-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(parent)?;
    let folder = folder.keep();
    let path = folder.as_os_str().to_owned();
    policy.writable.push(path.clone());
    policy.environment.push(("TMPDIR".into(), path.clone()));
    policy.temporary = Some(path);
    Ok(Some(Temporary(folder)))
}

/// Serves in a process namespace until the end of all its processes. False if none can be made.
fn in_namespace(socket: &UnixStream, policy: &mut Policy) -> io::Result<bool> {
    // In a child, because a process that fails half-way could not serve without a namespace.
    let forked = match fork::fork() {
        Ok(forked) => forked,
        Err(why) => {
            let why = format!("its first process cannot start: {why}");
            wire::send(socket, &Greeting::NoNamespace(why), &[])?;
            return Ok(false);
        }
    };
    match forked {
        Fork::Parent(child) => Ok(wait_for(child)? != Some(launch::FAILED)),
        Fork::Child => {
            let served = enter_namespace().and_then(|()| serve_inside(socket, policy));
            let failed = served.is_err();
            if let Err(why) = served {
                let _ = wire::send(socket, &Greeting::NoNamespace(why), &[]);
            }
            std::process::exit(if failed { launch::FAILED } else { 0 });
        }
    }
}

/// Starts the first process of the namespace, and waits for its end, which is that of all its processes.
fn serve_inside(socket: &UnixStream, policy: &mut Policy) -> Result<(), String> {
    let failed = |why: io::Error| format!("its first process cannot start: {why}");
    die_with_parent().map_err(failed)?;
    // This process has no other threads, so its child may do everything that it may.
    match fork::fork().map_err(failed)? {
        Fork::Child => {
            set_up_namespace().map_err(|why| format!("it cannot have its own /proc: {why}"))?;
            if let Some(folder) = policy.hidden.take() {
                hide(&folder)
                    .map_err(|why| format!("{} cannot be hidden: {why}", folder.display()))?;
            }
            // However that ends, batchwright does not learn what happens afterwards.
            let _ = launch::serve(socket, policy);
        }
        Fork::Parent(first) => {
            if wait_for(first).map_err(failed)? == Some(launch::FAILED) {
                // It has reported why.
                std::process::exit(launch::FAILED);
            }
        }
    }
    Ok(())
}

/// The exit code of a child; `None` if a signal ended it.
fn wait_for(child: i32) -> io::Result<Option<i32>> {
    let ended = waitpid(Pid::from_raw(child), WaitOptions::empty())?;
    Ok(ended.and_then(|(_, status)| status.exit_status()))
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
        let (user, group) = (getuid().as_raw(), getgid().as_raw());
        separate(UnshareFlags::NEWUSER).map_err(refused("no user namespace can be made"))?;
        let map = |file: &str, text: String| {
            fs::write(file, text).map_err(refused("the user namespace cannot have this user"))
        };
        map("/proc/self/setgroups", "deny".to_owned())?;
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

/// Set after a change of user namespace, which would clear it.
fn die_with_parent() -> io::Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// In the first process of the namespace: without its own `/proc`, programs would see the numbers of other processes.
fn set_up_namespace() -> io::Result<()> {
    die_with_parent()?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None::<&std::ffi::CStr>)?;
    Ok(())
}

/// Puts an empty folder over this one, in the namespace only.
fn hide(folder: &OsStr) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    Ok(mount(
        "none",
        folder,
        "tmpfs",
        flags,
        None::<&std::ffi::CStr>,
    )?)
}

/// `unshare` is deprecated because it can separate the tables of open files, which these flags do not.
#[expect(
    deprecated,
    reason = "its successor is unsafe, for flags that are not used here"
)]
fn separate(what: UnshareFlags) -> io::Result<()> {
    Ok(rustix::thread::unshare(what)?)
}

/// Kills every process below this one. They are stopped first, and once more those that others started meanwhile. False
/// if some do not end.
pub fn end_descendants() -> bool {
    let until = Instant::now() + AFTER_KILL;
    let own = getpid();
    while Instant::now() < until {
        for order in [Signal::STOP, Signal::STOP, Signal::KILL] {
            descendants(own).into_iter().for_each(|pid| {
                let _ = kill_process(pid, order);
            });
        }
        // The children of those that have ended are now children of this process.
        let last = loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => {}
                last => break last,
            }
        };
        if matches!(last, Err(Errno::CHILD)) {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

/// The processes below this one, also those that have ended and were not waited for.
fn descendants(pid: Pid) -> Vec<Pid> {
    let mut found = children(pid);
    let mut at = 0;
    while let Some(next) = found.get(at) {
        let below = children(*next);
        found.extend(below);
        at += 1;
    }
    found
}
