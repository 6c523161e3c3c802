//! `batchwright doctor`: checks the queue and its requirements, and says what to do.

use std::path::Path;

use batchwright::Context;
use batchwright::config::SettingKey;
use batchwright::provider::api_keys_set;
use batchwright::queue::Severity::{self, Bad, Good, Note, Warning};
use batchwright::queue::{HealthFinding, SqliteOptions};
use batchwright_exec::{Sandbox, SandboxMode};
use rustix::fs::{Access, access, statvfs};
use rustix::io::Errno;
use serde_json::json;

use crate::args::queue::DoctorArgs;
use crate::exit::{Exit, Refusal};
use crate::queue::{folder, open};
use crate::sanitize::{self, one_line};
use crate::stderr::is_json;
use crate::{settings, stdout};

pub fn execute(args: &DoctorArgs) -> Result<Exit, Refusal> {
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
    let mut findings = of_folder(&folder);
    findings.push(of_settings());
    findings.extend(sandbox());
    let store = &args.data.store;
    if store.store.is_some() || database.exists() {
        let file = args.data.file.queue.as_deref();
        let queue = open(
            store,
            file,
            &folder,
            SqliteOptions::default(),
            &Context::new(),
        );
        match queue.and_then(|queue| queue.check()) {
            Ok(found) => {
                findings.push(finding("database", Good, args.data.place(), None));
                findings.extend(found);
            }
            Err(error) => findings.push(finding("database", Bad, error.message(), None)),
        }
    } else {
        let seen = format!("{} is not there yet", database.display());
        let advice = Some("batchwright submit makes it");
        findings.push(finding("database", Note, seen, advice));
    }
    let set = api_keys_set().into_iter();
    let set: Vec<&str> = set.filter_map(|(_, variable)| variable).collect();
    let advice = Some("see batchwright providers");
    findings.push(match set.as_slice() {
        [] => finding("keys", Note, "none is set", advice),
        set => finding("keys", Good, format!("set: {}", set.join(", ")), None),
    });
    Ok(findings)
}

fn finding(
    what: &str,
    verdict: Severity,
    seen: impl Into<String>,
    advice: Option<&str>,
) -> HealthFinding {
    HealthFinding::new(what, verdict, seen.into(), advice)
}

fn shown(finding: &HealthFinding) -> String {
    let mark = match finding.verdict {
        Good => "ok",
        Note => "note",
        Warning => "warning",
        Bad => "bad",
    };
    let (what, seen) = (one_line(&finding.what), one_line(&finding.seen));
    let advice = finding.advice.as_deref().map(one_line);
    let advice = advice.map_or_else(String::new, |advice| format!("{:22}-> {advice}\n", ""));
    format!("{mark:<8} {what:<12} {seen}\n{advice}")
}

/// Whether the settings are such that commands take them.
fn of_settings() -> HealthFinding {
    let checked = settings::settings().and_then(|settings| {
        for key in SettingKey::all() {
            let setting = settings.explain(key.name()).map_err(settings::refused)?;
            setting
                .problem
                .map_or(Ok(()), |why| Err(Refusal::usage(why)))?;
        }
        settings.model_prices().map(drop).map_err(settings::refused)
    });
    match checked {
        Ok(()) => finding("settings", Good, "each can be used", None),
        Err(why) => finding(
            "settings",
            Bad,
            why.text(),
            Some("see batchwright config list"),
        ),
    }
}

/// Less free space than this is a warning.
const LITTLE_ROOM: u64 = 1_000_000_000;

/// Whether the folder, or the nearest one that is there, can be written to, and how much space its disk has.
fn of_folder(folder: &Path) -> Vec<HealthFinding> {
    let shown = folder.display();
    let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let there = whole.ancestors().find(|path| path.exists());
    let there = there.unwrap_or(Path::new("/"));
    let usable = if there.is_dir() {
        access(there, Access::WRITE_OK | Access::EXEC_OK)
    } else {
        Err(Errno::NOTDIR)
    };
    let writable = match usable {
        Ok(()) => finding("data folder", Good, format!("{shown}, writable"), None),
        Err(error) => {
            let seen = format!("{shown} cannot be used: {}: {error}", there.display());
            let advice = "let this user write there, or set another folder with --data-dir or BATCHWRIGHT_HOME";
            finding("data folder", Bad, seen, Some(advice))
        }
    };
    // File systems without a disk, such as /proc, report nothing.
    let disk = statvfs(there).ok();
    let disk = disk.filter(|disk| disk.f_blocks > 0).map(|disk| {
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let seen = format!("{:.2} GB free", free as f64 / 1e9);
        let advice =
            "free disk space: results that cannot be stored wait, and new jobs are rejected";
        match free {
            LITTLE_ROOM.. => finding("disk", Good, seen, None),
            _ => finding("disk", Warning, seen, Some(advice)),
        }
    });
    [writable].into_iter().chain(disk).collect()
}

/// How commands of `exec` are confined and kept together, found out without running one.
fn sandbox() -> Vec<HealthFinding> {
    let note = |seen: String, advice| finding("sandbox", Note, seen, Some(advice));
    let status = match Sandbox::new(SandboxMode::BestEffort).check() {
        Ok(status) => status,
        Err(error) => {
            let seen = error.message().to_owned();
            return vec![note(seen, "exec needs --sandbox off here")];
        }
    };
    let missing = (!status.missing.is_empty()).then(|| status.missing.join("; "));
    let namespace = |why| format!("a process namespace ({why})");
    let helper = "batchwright-sandbox of this version next to batchwright";
    let lacks = [
        (
            missing,
            "exec needs --sandbox best-effort or --sandbox off here",
        ),
        (
            status.no_namespace.map(namespace),
            "exec runs without: at its end a helper, not the kernel, kills what commands leave behind",
        ),
        (
            // Other systems confine nothing, so they have no helper.
            (cfg!(target_os = "linux") && status.helper.is_none()).then(|| helper.to_owned()),
            "exec confines commands without it, but starts them more slowly; reinstall batchwright, or from source: \
             cargo install --locked --path crates/cli",
        ),
    ];
    let lacks = lacks.into_iter();
    let mut findings: Vec<_> = lacks
        .filter_map(|(what, advice)| Some(note(format!("lacks: {}", what?), advice)))
        .collect();
    if findings.is_empty() {
        let seen = "commands are confined and kept together";
        findings.push(finding("sandbox", Good, seen, None));
    }
    findings
}
