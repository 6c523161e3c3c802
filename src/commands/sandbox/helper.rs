//! The helper: this program once more, which gives up what a command shall not have and then becomes the
//! command.

use std::env;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use super::policy::{Policy, VARIABLE};

/// What the helper is started with as its first argument.
pub const CONFINE: &str = "__confine";

/// The exit code of a helper that did not become the command. Beside it stands a line on standard error
/// that begins with the token of the policy.
pub const FAILED: i32 = 125;

static CAN_HELP: AtomicBool = AtomicBool::new(false);

/// Whether this process, started again, would be a helper.
pub fn can_help() -> bool {
    CAN_HELP.load(Ordering::Relaxed)
}

/// Becomes the helper, or the watchdog, if this process was started as such. Otherwise it returns at once.
pub fn main() {
    CAN_HELP.store(true, Ordering::Relaxed);
    let mut arguments = env::args_os().skip(1);
    match arguments.next() {
        Some(first) if first == CONFINE => {}
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
        Some(program) => become_command(&policy, program, arguments),
        None => match confine(&policy) {
            Ok(missing) => {
                println!("{}", missing.join("\n"));
                std::process::exit(0);
            }
            Err(why) => why,
        },
    };
    let _ = writeln!(io::stderr(), "{} {why}", policy.token);
    std::process::exit(FAILED);
}

/// Returns only if it fails, with the reason.
fn become_command(
    policy: &Policy,
    program: OsString,
    arguments: impl Iterator<Item = OsString>,
) -> String {
    let mut command = Command::new(&program);
    command.args(arguments).env_remove(VARIABLE);
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
    format!("cannot start {}: {error}{hint}", program.display())
}

/// Gives up all that the policy says; what the kernel could not take away is returned.
fn confine(policy: &Policy) -> Result<Vec<String>, String> {
    #[cfg(target_os = "linux")]
    follow_parent(policy)?;
    if let Some(watchdog) = &policy.watchdog {
        announce(watchdog, policy.number)?;
    }
    env::set_current_dir(&policy.folder)
        .map_err(|error| format!("cannot work in {}: {error}", policy.folder.display()))?;
    #[cfg(target_os = "linux")]
    let missing = match policy.confine {
        true => super::confine::confine(policy)?,
        false => Vec::new(),
    };
    #[cfg(not(target_os = "linux"))]
    let missing = Vec::new();
    // The last step: the helper needs memory of its own for the others.
    policy
        .limits
        .apply()
        .map_err(|(what, error)| format!("cannot limit {what}: {error}"))?;
    Ok(missing)
}

/// Ends with the process that started it, however that ends.
#[cfg(target_os = "linux")]
fn follow_parent(policy: &Policy) -> Result<(), String> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};

    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| format!("cannot follow the parent process: {error}"))?;
    // It may have ended before that was asked for.
    let parent = getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
    match parent == Some(policy.parent) {
        true => Ok(()),
        false => Err("the process that started it has ended".to_owned()),
    }
}

/// Tells the watchdog which process belongs to which command, while that is still beyond doubt.
fn announce(watchdog: &std::path::Path, number: u64) -> Result<(), String> {
    let nobody =
        |error: io::Error| format!("nobody watches the limits of commands any more: {error}");
    let mut options = OpenOptions::new();
    options.write(true);
    // Without a reader the open fails instead of waiting for one.
    #[cfg(target_os = "linux")]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let mut pipe = options.open(watchdog).map_err(nobody)?;
    let line = format!("{number} {}\n", std::process::id());
    let full = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    loop {
        match pipe.write_all(line.as_bytes()) {
            // Short lines go into a pipe whole or not at all.
            Err(error) if full(&error) => std::thread::sleep(std::time::Duration::from_millis(1)),
            written => return written.map_err(nobody),
        }
    }
}
