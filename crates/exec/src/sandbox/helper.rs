//! The helper: a second instance of this program that drops the permissions which a command must not have, and then
//! becomes the command.

use std::env;
#[cfg(target_os = "linux")]
use std::io::Read;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(target_os = "linux")]
use super::assignment::Assignment;
use super::policy::{Policy, VARIABLE};

/// The first argument of the helper.
pub const CONFINE: &str = "__confine";

/// With this first argument, it enters its cgroup and waits for an [`Assignment`] on its standard input.
#[cfg(target_os = "linux")]
pub const WAIT: &str = "__wait";

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
        Some(first) if first == WAIT => {}
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
    #[cfg(target_os = "linux")]
    if first.is_some_and(|first| first == WAIT) {
        fail(&policy, &wait(&policy));
    }
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

/// Does the slow steps, and then becomes the command that it is assigned. Returns only on failure, with the reason.
#[cfg(target_os = "linux")]
fn wait(policy: &Policy) -> String {
    if let Err(why) = enter_cgroup(policy) {
        return why;
    }
    let mut assignment = Vec::new();
    if let Err(error) = io::stdin().lock().read_to_end(&mut assignment) {
        return format!("cannot read its command: {error}");
    }
    if assignment.is_empty() {
        // There is no further command.
        std::process::exit(0);
    }
    let Some(assignment) = Assignment::decode(&assignment) else {
        return "its command is not whole".to_owned();
    };
    let nothing = std::fs::File::open("/dev/null");
    if let Err(error) = nothing.and_then(|file| Ok(rustix::stdio::dup2_stdin(file)?)) {
        return format!("cannot open /dev/null: {error}");
    }
    let mut command = Command::new(&assignment.program);
    command.args(&assignment.arguments).env_clear();
    command.envs(assignment.environment);
    become_command(&assignment.policy, command)
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
    let hint = match error.kind() {
        io::ErrorKind::NotFound => {
            " (it has vanished, or the interpreter that its first line names is missing)"
        }
        _ => "",
    };
    let program = command.get_program().display();
    format!("cannot start {program}: {error}{hint}")
}

/// Drops all permissions that the policy forbids; returns those that the kernel could not remove.
fn confine(policy: &Policy) -> Result<Vec<String>, String> {
    #[cfg(target_os = "linux")]
    enter_cgroup(policy)?;
    begin_session();
    let path = &policy.folder.path;
    let nowhere = |why: io::Error| format!("cannot work in {}: {why}", path.display());
    #[cfg(target_os = "linux")]
    let missing = if policy.confine {
        let folder = policy.folder.open()?;
        rustix::process::fchdir(&folder).map_err(|error| nowhere(error.into()))?;
        super::confine::confine(policy, folder)?
    } else {
        env::set_current_dir(path).map_err(nowhere)?;
        Vec::new()
    };
    #[cfg(not(target_os = "linux"))]
    let missing = env::set_current_dir(path)
        .map(|()| Vec::new())
        .map_err(nowhere)?;
    // The last step, because the helper itself needs memory for the others.
    policy
        .limits
        .apply()
        .map_err(|(what, error)| format!("cannot limit {what}: {error}"))?;
    Ok(missing)
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

/// Makes this process end together with its parent, however the parent ends.
#[cfg(target_os = "linux")]
fn follow_parent(policy: &Policy) -> Result<(), String> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};

    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| format!("cannot follow the parent process: {error}"))?;
    // The parent may have ended before that was set.
    let parent = getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
    if parent == Some(policy.parent) {
        Ok(())
    } else {
        Err("the process that started it has ended".to_owned())
    }
}

/// Leaves the terminal: then nothing on the terminal can stop the command, and no process of the command can join a
/// group of another session, for example that of batchwright, where it would not be searched.
fn begin_session() {
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
