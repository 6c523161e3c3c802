//! `batchwright doctor`: checks the queue and its requirements, and says what to do.

use std::fs;
use std::path::Path;

use batchwright::config::SettingKey;
use batchwright::provider::api_keys_set;
use batchwright::queue::{HealthFinding, Severity, SqliteOptions};
use batchwright_exec::{Sandbox, SandboxMode};
use serde_json::json;

use crate::args::queue::DoctorArgs;
use crate::exit::{Early, Exit, Refusal};
use crate::logging::is_json;
use crate::queue::{folder, open};
use crate::sanitize::{self, one_line};
use crate::settings::settings;
use crate::stdout;

pub fn execute(args: &DoctorArgs) -> Result<Exit, Early> {
    let findings = check(args)?;
    let is_fine = |finding: &HealthFinding| finding.verdict <= Severity::Note;
    let healthy = findings.iter().all(is_fine);
    let text = if is_json() {
        sanitize::json(&json!({"healthy": healthy, "findings": findings})) + "\n"
    } else {
        findings.iter().map(shown).collect()
    };
    let exit = if healthy {
        Exit::Success
    } else {
        Exit::CouldNotRun
    };
    Ok(stdout::print(&text, exit))
}

fn check(args: &DoctorArgs) -> Result<Vec<HealthFinding>, Refusal> {
    let folder = folder()?;
    let database = args.data.database()?;
    let data = writable(&folder);
    let usable = data.verdict != Severity::Bad;
    let mut findings = vec![data];
    if usable {
        findings.extend(room(&folder));
    }
    findings.push(sandbox());
    let store = &args.data.store;
    if store.store.is_some() || database.exists() {
        let file = args.data.file.queue.as_deref();
        let queue = open(store, file, &folder, SqliteOptions::default());
        match queue.and_then(|queue| queue.check()) {
            Ok(found) => {
                findings.push(good("database", args.data.place()));
                findings.extend(found);
            }
            Err(error) => findings.push(bad("database", error.message(), None)),
        }
    } else if usable {
        let seen = format!("{} is not there yet", database.display());
        findings.push(note("database", seen, "batchwright submit makes it"));
    }
    findings.extend(unusable_settings());
    findings.push(keys());
    Ok(findings)
}

fn shown(finding: &HealthFinding) -> String {
    let mark = match finding.verdict {
        Severity::Good => "ok",
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Bad => "bad",
    };
    let (what, seen) = (one_line(&finding.what), one_line(&finding.seen));
    let mut text = format!("{mark:<8} {what:<12} {seen}\n");
    if let Some(advice) = &finding.advice {
        text.push_str(&format!("{:22}-> {}\n", "", one_line(advice)));
    }
    text
}

fn good(what: &str, seen: impl Into<String>) -> HealthFinding {
    HealthFinding::new(what, Severity::Good, seen.into(), None)
}

fn note(what: &str, seen: impl Into<String>, advice: &str) -> HealthFinding {
    HealthFinding::new(what, Severity::Note, seen.into(), Some(advice))
}

fn bad(what: &str, seen: impl Into<String>, advice: Option<&str>) -> HealthFinding {
    HealthFinding::new(what, Severity::Bad, seen.into(), advice)
}

/// Tries to write, in the nearest folder that is there, which is more reliable than checking permissions.
fn writable(folder: &Path) -> HealthFinding {
    const WHAT: &str = "data folder";
    let shown = folder.display();
    let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let there = whole.ancestors().find(|path| path.exists());
    let there = there.unwrap_or(Path::new("/"));
    let probe = there.join(format!(".batchwright-doctor-{}", std::process::id()));
    let tried = fs::write(&probe, b"?");
    let _ = fs::remove_file(&probe);
    match tried {
        Ok(()) if there == whole => good(WHAT, format!("{shown}, writable")),
        Ok(()) => {
            let seen = format!("{shown} is not there yet");
            note(WHAT, seen, "it is created when it is first needed")
        }
        Err(error) => {
            let there = there.display();
            let seen = format!("{shown} cannot be used: no job can be queued: {there}: {error}");
            let advice = "let this user write there, or set another folder with --data-dir or BATCHWRIGHT_HOME";
            bad(WHAT, seen, Some(advice))
        }
    }
}

/// Less free space than this is a warning.
const LITTLE_ROOM: u64 = 1_000_000_000;
/// With less than this, even the results of an hour may not fit.
const NO_ROOM: u64 = 50_000_000;

fn room(folder: &Path) -> Option<HealthFinding> {
    let folder = std::path::absolute(folder).ok()?;
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let free = free_bytes(there)?;
    let seen = format!("{:.2} GB free", free as f64 / 1e9);
    let verdict = match free {
        LITTLE_ROOM.. => return Some(good("disk", seen)),
        NO_ROOM.. => Severity::Warning,
        _ => Severity::Bad,
    };
    let advice = "free disk space: results that cannot be stored wait, and new jobs are rejected; to move results out of \
                  the queue: batchwright results PROCESS -o FILE";
    Some(HealthFinding::new("disk", verdict, seen, Some(advice)))
}

fn free_bytes(folder: &Path) -> Option<u64> {
    let room = rustix::fs::statvfs(folder).ok()?;
    // File systems without a disk, such as /proc, report nothing.
    (room.f_blocks > 0).then_some(())?;
    Some(room.f_bavail.saturating_mul(room.f_frsize))
}

/// How commands of `exec` are confined and kept together, found out without running one.
fn sandbox() -> HealthFinding {
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
        return note(WHAT, seen, advice);
    }
    if status.helper.is_none() {
        let seen = format!("{held}; batchwright-sandbox of this version was not found");
        let advice = "commands start faster if batchwright-sandbox is in the folder of batchwright";
        return note(WHAT, seen, advice);
    }
    match status.no_namespace {
        Some(_) => note(
            WHAT,
            held,
            "allow user namespaces: a process that leaves its command may outlive a killed batchwright",
        ),
        None => good(WHAT, held),
    }
}

/// Unusable settings, which stop `run` and `work`.
fn unusable_settings() -> Vec<HealthFinding> {
    const WHAT: &str = "settings";
    let settings = match settings() {
        Ok(settings) => settings,
        Err(refusal) => return vec![bad(WHAT, refusal.message, None)],
    };
    let keys = SettingKey::all()
        .iter()
        .filter_map(|key| settings.explain(key.name()).ok());
    let problems = keys.filter_map(|setting| setting.problem);
    let problems = problems.map(|problem| bad(WHAT, problem, None));
    let unknown = settings.unknown().map(|name| {
        let seen = format!("{name} is stored, but this version has no such setting");
        HealthFinding::new(WHAT, Severity::Note, seen, None)
    });
    let found: Vec<HealthFinding> = problems.chain(unknown).collect();
    match found.as_slice() {
        [] => vec![good(WHAT, "all can be used")],
        _ => found,
    }
}

fn keys() -> HealthFinding {
    let set = api_keys_set().into_iter();
    let set: Vec<String> = set
        .filter_map(|(provider, variable)| Some(format!("{} ({provider})", variable?)))
        .collect();
    if set.is_empty() {
        return note("keys", "none is set", "see batchwright providers");
    }
    good("keys", format!("set: {}", set.join(", ")))
}
