//! Converts the flags to a sandbox.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use batchwright::unstable::Optional;
use batchwright_exec::{Sandbox, SandboxMode};

use crate::args::exec::ExecArgs;
use crate::exit::Refusal;
use crate::settings::data_dir;

/// The sandbox of the commands.
pub fn sandbox(exec: &ExecArgs) -> Result<Sandbox, Refusal> {
    let args = &exec.sandbox;
    let is_sh = |program: &OsStr| Path::new(program).file_name() == Some("sh".as_ref());
    if exec.shell && !args.allow.is_empty() && !args.allow.iter().any(|program| is_sh(program)) {
        return Err(Refusal::usage(
            "--shell has sh run each line, which --allow does not name; with sh on the list every \
             program may run, so leave out one of the two",
        ));
    }
    let sandbox = Sandbox::new(args.sandbox).network(args.net);
    let mut sandbox = sandbox.set(args.memory, Sandbox::memory);
    if !args.allow.is_empty() {
        sandbox = sandbox.allow(&args.allow);
    }
    for wish in &args.env {
        sandbox = add_variables(sandbox, wish)?;
    }
    for path in &args.write {
        if !path.exists() {
            let why = format!(
                "--write {}: the file or folder does not exist",
                path.display()
            );
            return Err(Refusal::usage(why));
        }
        sandbox = sandbox.write_to(std::path::absolute(path).unwrap_or_else(|_| path.clone()));
    }
    Ok(sandbox)
}

/// `NAME=VALUE`, or names separated by commas.
fn add_variables(sandbox: Sandbox, wish: &OsStr) -> Result<Sandbox, Refusal> {
    let text = wish.to_str().ok_or_else(|| {
        Refusal::usage("--env: only variables that are UTF-8 can be named; `*` passes all")
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

/// The folders that commands may write to, if these are more than most users want.
pub fn wide(exec: &ExecArgs, mode: SandboxMode) -> Option<String> {
    if mode == SandboxMode::Off {
        return None;
    }
    let folder = exec.workdir.clone().unwrap_or_else(|| PathBuf::from("."));
    let mut writable = exec.sandbox.write.iter().chain([&folder]);
    let home = env::var_os("HOME").map(|home| (PathBuf::from(home), "your home folder"));
    let data = data_dir();
    let data = data.map(|data| (data, "the data of batchwright itself"));
    let places = [home, data].into_iter().flatten();
    let places: Vec<_> = places
        .filter_map(|(path, what)| Some((path.canonicalize().ok()?, what)))
        .collect();
    writable.find_map(|path| {
        let path = path.canonicalize().ok()?;
        let (_, what) = places.iter().find(|(place, _)| place.starts_with(&path))?;
        Some(format!(
            "commands may write to all of {}, including {what}; use --workdir DIR for a separate folder",
            path.display()
        ))
    })
}

/// What the sandbox forbids, for commands that do not report why they failed.
pub const REMINDER: &str = "in the sandbox, commands have no network (--net), write only below their folder and to TMPDIR \
                            (--write PATH), and get few of your environment variables (--env NAME)";
