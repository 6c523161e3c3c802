//! The helper: a second instance of this program. It is a launcher, the watchdog, or finds out what the kernel can
//! enforce.

use std::env;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::cgroup;
use super::confine::{Site, confine_process};
use super::encoding::{FORMAT, decode};
use super::place::Held;
use super::policy::{Policy, VARIABLE};
use super::watchdog::COMMAND;

/// With this first argument, it confines itself as a command of the policy in [`VARIABLE`], and prints what the kernel
/// lacks.
pub const TRY: &str = "__try";

/// With this first argument, it starts the commands that it receives on its standard input.
pub const SERVE: &str = "__serve";

/// With this first argument, it prints its version.
pub const IDENTIFY: &str = "__identify";

/// The exit code of a helper that failed.
pub const FAILED: i32 = 125;

static CAN_HELP: AtomicBool = AtomicBool::new(false);

/// Whether a new instance of this process would act as the helper.
pub fn can_help() -> bool {
    CAN_HELP.load(Ordering::Relaxed)
}

/// Becomes the helper or the watchdog, if this process was started as one. Otherwise returns immediately.
pub fn main() {
    CAN_HELP.store(true, Ordering::Relaxed);
    let Some(first) = env::args_os().nth(1) else {
        return;
    };
    if first == TRY && env::var_os(VARIABLE).is_some() {
        try_out();
    } else if first == SERVE && env::var_os(COMMAND).is_some() {
        super::serve::main();
    } else if first == IDENTIFY {
        print!("{}", identity());
        std::process::exit(0);
    } else if first == super::watchdog::WATCH {
        super::watchdog::main();
    }
}

/// The version of the program and of the format of its policy.
pub fn identity() -> String {
    format!("{} {}", env!("CARGO_PKG_VERSION"), FORMAT)
}

fn try_out() -> ! {
    let policy = env::var_os(VARIABLE);
    let policy = policy.and_then(|policy| decode::<Policy>(policy.as_encoded_bytes()));
    let policy = policy.ok_or_else(|| {
        let version = env!("CARGO_PKG_VERSION");
        format!("{version}: another version of batchwright started this one")
    });
    match policy.and_then(|policy| confine(&policy)) {
        Ok(missing) => {
            println!("{}", missing.join("\n"));
            std::process::exit(0);
        }
        Err(why) => {
            eprintln!("{why}");
            std::process::exit(FAILED);
        }
    }
}

/// Drops all permissions that the policy forbids; returns those that the kernel could not remove.
fn confine(policy: &Policy) -> Result<Vec<String>, String> {
    if let Some(cgroup) = &policy.cgroup {
        cgroup::enter(cgroup, &policy.limits)
            .map_err(|error| format!("cannot enter {}: {error}", cgroup.display()))?;
    }
    begin_session();
    let mut missing = Vec::new();
    if policy.confine {
        let root = Held::new(Path::new("/")).map_err(|error| format!("cannot open /: {error}"))?;
        let site = Site::new(policy, &root.place)?;
        missing = confine_process(policy)?;
        missing.extend(site.confine(policy)?);
    }
    // The last step, because the helper itself needs memory for the others.
    for limit in policy.limits.lowered() {
        limit.apply()?;
    }
    Ok(missing)
}

/// Leaves the terminal: then nothing on the terminal can stop a command, and no process of a command can join a
/// group of another session, for example that of batchwright, where it would not be searched.
pub fn begin_session() {
    use rustix::process::{setpgid, setsid};

    // The leader of a group cannot start a session, and this process is one, so that it could be killed as a group
    // from the beginning. If it cannot join another group, a group of its own must suffice.
    let _ = groups_of_session().find(|&group| setpgid(None, Some(group)).is_ok());
    let _ = setsid();
}

/// Groups that this process may join: its parent's, and those of its parent's other children, one of which is the
/// watchdog. In a container, the parent's group may be outside its view; its number is then zero, which the
/// functions that read it do not expect.
fn groups_of_session() -> impl Iterator<Item = rustix::process::Pid> {
    use super::processes::{Process, children};
    use rustix::process::{Pid, getpid, getppid};

    let own = getpid().as_raw_nonzero().get();
    let parent = getppid().map_or(0, Pid::as_raw_pid);
    let siblings = std::iter::once(()).flat_map(move |()| children(parent, None));
    std::iter::once(parent)
        .chain(siblings.filter(move |&pid| pid != own))
        .filter_map(|pid| Pid::from_raw(Process::of(pid)?.group))
}
