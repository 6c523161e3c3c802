//! From the flags to the sandbox.

use std::ffi::OsStr;

use batchwright::commands::{Limits, Sandbox, SandboxMode};

use crate::args::sandbox::SandboxArgs;
use crate::exit::Refusal;

/// `mode` as the settings have it.
pub fn sandbox(args: &SandboxArgs, mode: &str) -> Result<Sandbox, Refusal> {
    let mode = SandboxMode::parse(mode).unwrap_or_default();
    let mut sandbox = Sandbox::new(mode)
        .network(args.net)
        .local_sockets(args.local_sockets)
        .limits(limits(mode, args))
        .owns_children(true);
    if !args.allow.is_empty() {
        sandbox = sandbox.allow(&args.allow);
    }
    for wish in &args.env {
        sandbox = add_variables(sandbox, wish)?;
    }
    for path in &args.write {
        if !path.exists() {
            let why = format!(
                "--write {}: there is no such file or folder",
                path.display()
            );
            return Err(Refusal::usage(why));
        }
        sandbox = sandbox.write_to(std::path::absolute(path).unwrap_or_else(|_| path.clone()));
    }
    Ok(sandbox)
}

/// With the sandbox off, only what was asked for is limited: that costs a process more for each command.
fn limits(mode: SandboxMode, args: &SandboxArgs) -> Limits {
    let mut limits = match mode {
        SandboxMode::Off => Limits::NONE,
        _ => Limits::default(),
    };
    let asked = |asked: Option<u64>, default: Option<u64>| match asked {
        Some(0) => None,
        Some(limit) => Some(limit),
        None => default,
    };
    limits.cpu_seconds = args.cpu;
    limits.file_size = args.max_file;
    limits.memory = asked(args.max_memory, limits.memory);
    limits.processes = asked(args.max_procs, limits.processes);
    limits
}

/// `NAME=VALUE`, or names with commas between them.
fn add_variables(sandbox: Sandbox, wish: &OsStr) -> Result<Sandbox, Refusal> {
    let text = wish.to_str().ok_or_else(|| {
        Refusal::usage("--env: only variables that are UTF-8 can be named; `*` hands on all")
    })?;
    if let Some((name, value)) = text.split_once('=') {
        return match name {
            "" => Err(Refusal::usage("--env: write NAME, NAME,NAME or NAME=VALUE")),
            name => Ok(sandbox.set_variable(name, value)),
        };
    }
    let names = text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    Ok(names.fold(sandbox, Sandbox::pass_variable))
}
