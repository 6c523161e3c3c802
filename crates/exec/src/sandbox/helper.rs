//! The helper: a second instance of this program that drops the permissions which a command must not have, and then
//! becomes the command.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(target_os = "linux")]
use super::confine::{Site, confine_process};
use super::place::Place;
use super::policy::{Policy, VARIABLE};
#[cfg(target_os = "linux")]
use super::watchdog::COMMAND;

/// The first argument of the helper.
pub const CONFINE: &str = "__confine";

/// With this first argument, it starts the commands that it receives on its standard input.
#[cfg(target_os = "linux")]
pub const SERVE: &str = "__serve";

/// With this first argument, it prints its version.
#[cfg(target_os = "linux")]
pub const IDENTIFY: &str = "__identify";

/// The exit code of a helper that did not become the command. It also prints a line on standard error that begins
/// with the token of the policy.
pub const FAILED: i32 = 125;

static CAN_HELP: AtomicBool = AtomicBool::new(false);

/// Whether a new instance of this process would act as the helper.
pub fn can_help() -> bool {
    CAN_HELP.load(Ordering::Relaxed)
}

/// Becomes the helper or the watchdog, if this process was started as one. Otherwise returns immediately.
pub fn main() {
    CAN_HELP.store(true, Ordering::Relaxed);
    let mut arguments = env::args_os().skip(1);
    let first = arguments.next();
    match &first {
        Some(first) if first == CONFINE => {}
        #[cfg(target_os = "linux")]
        Some(first) if first == SERVE && env::var_os(COMMAND).is_some() => super::serve::main(),
        #[cfg(target_os = "linux")]
        Some(first) if first == IDENTIFY => {
            print!("{}", identity());
            std::process::exit(0);
        }
        #[cfg(target_os = "linux")]
        Some(first) if first == super::watchdog::WATCH => super::watchdog::main(),
        _ => return,
    }
    let Some(policy) = env::var_os(VARIABLE) else {
        return;
    };
    let Some(policy) = Policy::decode(&policy) else {
        eprintln!(
            "{}: another version of batchwright started this one to confine a command",
            env!("CARGO_PKG_VERSION")
        );
        std::process::exit(FAILED);
    };
    let why = match arguments.next() {
        Some(program) => {
            let mut command = Command::new(program);
            command.args(arguments).env_remove(VARIABLE);
            become_command(&policy, command)
        }
        None => match confine(&policy) {
            Ok(missing) => {
                println!("{}", missing.join("\n"));
                std::process::exit(0);
            }
            Err(why) => why,
        },
    };
    fail(&policy, &why);
}

fn fail(policy: &Policy, why: &str) -> ! {
    let _ = writeln!(io::stderr(), "{} {why}", policy.token);
    std::process::exit(FAILED);
}

/// The version of the program and of the format of its policy.
#[cfg(target_os = "linux")]
pub fn identity() -> String {
    format!("{} {}", env!("CARGO_PKG_VERSION"), super::encoding::FORMAT)
}

/// Returns only on failure, with the reason.
fn become_command(policy: &Policy, mut command: Command) -> String {
    for (name, value) in &policy.late_variables {
        command.env(name, value);
    }
    if let Err(why) = confine(policy) {
        return why;
    }
    let error = command.exec();
    not_started(command.get_program(), &error)
}

/// Why a program could not be started.
pub fn not_started(program: &OsStr, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => {
            " (it has vanished, or the interpreter that its first line names is missing)"
        }
        _ => "",
    };
    format!("cannot start {}: {error}{hint}", program.display())
}

/// Drops all permissions that the policy forbids; returns those that the kernel could not remove.
fn confine(policy: &Policy) -> Result<Vec<String>, String> {
    #[cfg(target_os = "linux")]
    enter_cgroup(policy)?;
    begin_session();
    #[cfg(target_os = "linux")]
    let missing = if policy.confine {
        let site = Site::new(policy, &policy.folder)?;
        let mut missing = confine_process(policy)?;
        missing.extend(site.confine(policy)?);
        missing
    } else {
        enter(&policy.folder)?;
        Vec::new()
    };
    #[cfg(not(target_os = "linux"))]
    let missing = enter(&policy.folder).map(|()| Vec::new())?;
    // The last step, because the helper itself needs memory for the others.
    for limit in policy.limits.lowered() {
        limit.apply()?;
    }
    Ok(missing)
}

/// Makes a folder the working directory of a command that is not confined.
pub fn enter(folder: &Place) -> Result<(), String> {
    env::set_current_dir(&folder.path).map_err(|error| nowhere(folder, &error))
}

/// Why a command cannot work in this folder.
pub fn nowhere(folder: &Place, error: &io::Error) -> String {
    format!("cannot work in {}: {error}", folder.path.display())
}

#[cfg(target_os = "linux")]
fn enter_cgroup(policy: &Policy) -> Result<(), String> {
    follow_parent(policy)?;
    let Some(cgroup) = &policy.cgroup else {
        return Ok(());
    };
    super::cgroup::enter(cgroup, &policy.limits)
        .map_err(|error| format!("cannot enter {}: {error}", cgroup.display()))
}

#[cfg(target_os = "linux")]
fn follow_parent(policy: &Policy) -> Result<(), String> {
    let parent = rustix::process::Pid::from_raw(policy.parent.cast_signed());
    follow(parent.ok_or("the policy names no parent")?)
}

/// Makes this process end together with its parent, however the parent ends.
#[cfg(target_os = "linux")]
pub fn follow(parent: rustix::process::Pid) -> Result<(), String> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};

    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| format!("cannot follow the parent process: {error}"))?;
    // The parent may have ended before that was set.
    if getppid() == Some(parent) {
        Ok(())
    } else {
        Err("the process that started it has ended".to_owned())
    }
}

/// Leaves the terminal: then nothing on the terminal can stop the command, and no process of the command can join a
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
#[cfg(target_os = "linux")]
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

#[cfg(not(target_os = "linux"))]
fn groups_of_session() -> impl Iterator<Item = rustix::process::Pid> {
    use rustix::process::{getpgid, getppid};

    getpgid(getppid()).into_iter()
}
