//! Requirements of the queue on the machine (a folder, disk space) and of commands (a sandbox).

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use batchwright::queue::HealthFinding;
use batchwright_exec::{Sandbox, SandboxMode};

use super::{bad, good, note, warning};

/// Tries to write, which is more reliable than checking permissions.
pub fn writable(folder: &Path) -> HealthFinding {
    const WHAT: &str = "data folder";
    let shown = folder.display();
    let whole = std::path::absolute(folder);
    let whole = whole.as_deref().unwrap_or(folder);
    let unusable = |why: String| {
        let seen = format!("{why}: no job can be queued, and no setting or result stored");
        let advice = "let this user write there, or set another folder with --data-dir or \
                      BATCHWRIGHT_HOME";
        bad(WHAT, seen, advice)
    };
    // A missing folder would be created in the nearest existing one.
    let nearest = whole.ancestors().find_map(|path| match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        looked => Some((path, looked)),
    });
    let (there, looked) = match nearest {
        Some((path, Ok(looked))) => (path, looked),
        Some((path, Err(error))) => {
            return unusable(format!("{} cannot be looked into: {error}", path.display()));
        }
        None => return unusable(format!("no parent folder of {shown} exists")),
    };
    if !looked.is_dir() {
        let file = there.display();
        return unusable(if there == whole {
            format!("{shown} is a file, not a folder")
        } else {
            format!("{shown} cannot be created, because {file} is a file")
        });
    }
    let probe = there.join(format!(".batchwright-doctor-{}", std::process::id()));
    let tried = fs::write(&probe, b"?");
    let _ = fs::remove_file(&probe);
    match (tried, there == whole) {
        (Ok(()), true) => good(WHAT, format!("{shown}, writable")),
        (Ok(()), false) => {
            let seen = format!("{shown} is not there yet");
            note(WHAT, seen, "it is created when it is first needed")
        }
        (Err(error), true) => unusable(format!("{shown} cannot be written to: {error}")),
        (Err(error), false) => {
            let there = there.display();
            unusable(format!(
                "{shown} does not exist and cannot be created in {there}: {error}"
            ))
        }
    }
}

/// Less free space than this is a warning.
const LITTLE_ROOM: u64 = 1_000_000_000;
/// With less than this, even the results of an hour may not fit.
const NO_ROOM: u64 = 50_000_000;

pub fn room(folder: &Path) -> Option<HealthFinding> {
    let folder = std::path::absolute(folder).ok()?;
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let free = free_bytes(there)?;
    let disk = there.display();
    let seen = match free {
        0..LITTLE_ROOM => format!("{:.0} MB free on the disk of {disk}", free as f64 / 1e6),
        _ => format!("{:.1} GB free", free as f64 / 1e9),
    };
    if free >= LITTLE_ROOM {
        return Some(good("disk", seen));
    }
    let finding = if free < NO_ROOM { bad } else { warning };
    let advice = "free disk space: results that cannot be stored wait, and new jobs are rejected; \
                  to move finished results out of the queue: batchwright results PROCESS -o FILE";
    Some(finding("disk", seen, advice))
}

#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let room = rustix::fs::statvfs(folder).ok()?;
    // File systems without a disk, such as /proc, report nothing.
    (room.f_blocks > 0).then_some(())?;
    Some(room.f_bavail.saturating_mul(room.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}

/// How commands of `exec` are confined and kept together, found out without running one.
pub fn sandbox() -> HealthFinding {
    const WHAT: &str = "sandbox";
    let status = match Sandbox::new(SandboxMode::BestEffort).check() {
        Ok(status) => status,
        Err(error) => return note(WHAT, error.message(), "exec needs --sandbox off here"),
    };
    let held = match &status.no_namespace {
        None => "processes of a run are kept together by a process namespace".to_owned(),
        Some(why) => format!("processes of a run are not kept together by the kernel ({why})"),
    };
    if !status.missing.is_empty() {
        let seen = format!("{held}; not in force: {}", status.missing.join("; "));
        let advice = "exec needs --sandbox best-effort or --sandbox off here";
        note(WHAT, seen, advice)
    } else if status.helper.is_none() {
        let seen = format!("{held}; batchwright-sandbox of this version was not found");
        let advice = "exec works, but each command takes longer to start: put batchwright-sandbox, which is \
                      installed with batchwright, into the folder of batchwright";
        note(WHAT, seen, advice)
    } else if status.no_namespace.is_some() {
        let advice = "exec works, but a process that leaves its command may outlive batchwright if that is killed: \
                      allow user namespaces here, or run batchwright in a container";
        note(WHAT, held, advice)
    } else {
        good(WHAT, held)
    }
}
