//! `batchwright doctor`: checks the queue and its requirements, and gives advice.

use batchwright::config::SettingKey;
use batchwright::provider::api_keys_set;
use batchwright::queue::{HealthFinding, Severity};
use batchwright::{Error, JobQueue};
use serde_json::json;

use crate::args::doctor::DoctorArgs;
use crate::args::shared::StoreSource;
use crate::exit::{Exit, Refusal};
use crate::sanitize::{self, harmless};
use crate::stdout;
use crate::table::width;
use crate::wrap::wrapped;
use machine::{room, sandbox, writable};

mod machine;

pub fn execute(args: &DoctorArgs) -> Exit {
    args.say.start_log();
    match check(args) {
        Ok(findings) => {
            let worst = findings.iter().map(|finding| finding.verdict).max();
            let healthy = worst.is_none_or(|worst| worst <= Severity::Note);
            let text = if args.json {
                sanitize::json(&json!({"healthy": healthy, "findings": findings})) + "\n"
            } else {
                findings.iter().map(shown).collect()
            };
            let exit = if healthy {
                Exit::Success
            } else {
                Exit::CouldNotRun
            };
            stdout::print(&text, exit)
        }
        Err(refusal) => refusal.end(args.json, args.say.quiet),
    }
}

fn check(args: &DoctorArgs) -> Result<Vec<HealthFinding>, Refusal> {
    let folder = args.data.folder()?;
    let database = args.data.database()?;
    let data = writable(&folder);
    let usable = data.verdict != Severity::Bad;
    let mut findings = vec![data];
    if usable {
        findings.extend(room(&folder));
    }
    findings.push(sandbox());
    let is_there = args.data.store.store.is_some() || database.exists();
    if is_there {
        let queue = args.data.connect(&folder, &database);
        match queue.and_then(|queue| queue_findings(args, &queue)) {
            Ok(found) => findings.extend(found),
            Err(error) => {
                let seen = error.message().to_owned();
                let advice = match &args.data.store.source {
                    StoreSource::Setting(_) => Some(
                        "the address is the setting queue.store; to use the file in the data folder again: \
                         batchwright config unset queue.store",
                    ),
                    _ => None,
                };
                findings.push(HealthFinding::new("database", Severity::Bad, seen, advice));
            }
        }
    } else if usable {
        let seen = format!("{} is not there yet", database.display());
        let advice = "it is made by: batchwright submit INPUT";
        findings.push(note("database", seen, advice));
    }
    findings.extend(settings_findings(args));
    findings.push(keys_finding());
    Ok(findings)
}

/// The findings about an open queue.
fn queue_findings(args: &DoctorArgs, queue: &JobQueue) -> Result<Vec<HealthFinding>, Error> {
    let mut findings = vec![good(
        "database",
        match &args.data.store.source {
            StoreSource::Default => args.data.place(),
            source => format!("{} (from {source})", args.data.place()),
        },
    )];
    findings.extend(queue.check()?);
    Ok(findings)
}

fn shown(finding: &HealthFinding) -> String {
    let mark = match finding.verdict {
        Severity::Good => "ok",
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Bad => "bad",
    };
    let broken = |text: &str, indent: usize| {
        let text = harmless(text);
        match width() {
            Some(width) => {
                wrapped(&text, width.saturating_sub(indent)).join(&format!("\n{:indent$}", ""))
            }
            None => text,
        }
    };
    let what = harmless(&finding.what.to_string());
    let mut text = format!("{mark:<8} {what:<12} {}\n", broken(&finding.seen, 22));
    if let Some(advice) = &finding.advice {
        text.push_str(&format!("{:22}-> {}\n", "", broken(advice, 25)));
    }
    text
}

fn good(what: &str, seen: impl Into<String>) -> HealthFinding {
    HealthFinding::new(what, Severity::Good, seen.into(), None)
}

fn advised(what: &str, how: Severity, seen: impl Into<String>, advice: &str) -> HealthFinding {
    HealthFinding::new(what, how, seen.into(), Some(advice))
}

fn note(what: &str, seen: impl Into<String>, advice: &str) -> HealthFinding {
    advised(what, Severity::Note, seen, advice)
}

fn warning(what: &str, seen: impl Into<String>, advice: &str) -> HealthFinding {
    advised(what, Severity::Warning, seen, advice)
}

fn bad(what: &str, seen: impl Into<String>, advice: &str) -> HealthFinding {
    advised(what, Severity::Bad, seen, advice)
}

/// Unusable settings, which stop `run` and `work`.
fn settings_findings(args: &DoctorArgs) -> Vec<HealthFinding> {
    const WHAT: &str = "settings";
    let unusable = |problem| HealthFinding::new(WHAT, Severity::Bad, problem, None);
    let settings = match args.data.settings() {
        Ok(settings) => settings,
        Err(refusal) => return vec![unusable(refusal.message)],
    };
    let keys = SettingKey::all()
        .iter()
        .filter_map(|key| settings.explain(key.name()).ok());
    let problems = keys.filter_map(|setting| setting.problem);
    let bad = problems.map(unusable);
    let unknown = settings.unknown().map(|name| {
        let seen = format!("{name} is stored, but this version has no such setting");
        HealthFinding::new(WHAT, Severity::Note, seen, None)
    });
    let found: Vec<HealthFinding> = bad.chain(unknown).collect();
    if found.is_empty() {
        vec![good(WHAT, "all can be used")]
    } else {
        found
    }
}

fn keys_finding() -> HealthFinding {
    let set = api_keys_set().into_iter();
    let set: Vec<String> = set
        .filter_map(|(provider, variable)| Some(format!("{} ({provider})", variable?)))
        .collect();
    if set.is_empty() {
        let advice =
            "local servers and extract need none; all that can be used: batchwright providers";
        return note("keys", "none is set", advice);
    }
    good("keys", format!("set: {}", set.join(", ")))
}
