//! `batchwright doctor`: checks the queue and what it needs, and says what to do.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, SystemTime};

use batchwright::batch::{BatchAdoption, BatchInfo, clients_by_address};
use batchwright::config::SettingKey;
use batchwright::provider::api_keys_set;
use batchwright::queue::{HealthFinding, ProcessState, Severity};
use batchwright::{Context, Error, JobQueue};
use serde_json::json;

use crate::args::doctor::DoctorArgs;
use crate::args::shared::DataArgs;
use crate::batches;
use crate::exit::{Exit, Refusal};
use crate::format::{count, span};
use crate::run_process;
use crate::sanitize::{self, harmless};
use crate::settings::settings;
use crate::stdout;
use crate::table::width;
use crate::wrap::wrapped;

pub fn execute(args: &DoctorArgs) -> Exit {
    args.say.start_log();
    match look(args) {
        Ok(findings) => {
            let worst = findings.iter().map(|finding| finding.verdict).max();
            let healthy = worst.is_none_or(|worst| worst <= Severity::Note);
            let text = match args.json {
                true => sanitize::json(&json!({"healthy": healthy, "findings": findings})) + "\n",
                false => findings.iter().map(shown).collect(),
            };
            let exit = match healthy {
                true => Exit::Success,
                false => Exit::CouldNotRun,
            };
            stdout::print(&text, exit)
        }
        Err(refusal) => refusal.end(args.json, args.say.quiet),
    }
}

fn look(args: &DoctorArgs) -> Result<Vec<HealthFinding>, Refusal> {
    let folder = args.data.folder()?;
    let database = args.data.database()?;
    let data = writable(&folder);
    let usable = data.verdict != Severity::Bad;
    let mut findings = vec![data];
    if usable {
        findings.extend(open_to_others(&folder));
        findings.extend(room(&folder));
    }
    findings.push(clock(&database));
    if database.exists() {
        let checked = JobQueue::open(&database).and_then(|queue| {
            let adopted = match args.adopt_batches {
                true => adopt(&queue, &args.data)?,
                false => Vec::new(),
            };
            Ok((
                adopted,
                queue.check()?,
                queue.batches(None)?,
                queue.open_processes()?,
            ))
        });
        match checked {
            Ok((adopted, more, batches, processes)) => {
                let seen = database.display().to_string();
                findings.push(HealthFinding::new("database", Severity::Good, seen, None));
                findings.extend(more);
                let mut batches = batches;
                batches.retain(|batch| adopted.iter().all(|(label, _)| *label != batch.label));
                findings.extend(adopted.into_iter().map(|(_, finding)| finding));
                findings.extend(
                    batches
                        .iter()
                        .filter_map(|batch| judged(batch, &processes, &args.data)),
                );
                findings.extend(processes.iter().filter_map(of_run));
            }
            Err(error) => {
                let seen = error.message().to_owned();
                findings.push(HealthFinding::new("database", Severity::Bad, seen, None));
            }
        }
    } else if usable {
        let seen = format!("{} is not there yet", database.display());
        let advice = "it is made by: batchwright submit INPUT";
        findings.push(HealthFinding::new(
            "database",
            Severity::Note,
            seen,
            Some(advice),
        ));
    }
    findings.extend(stored(args));
    findings.push(keys());
    Ok(findings)
}

/// A process that belongs to a run, and the command that collects its results.
fn of_run(process: &ProcessState) -> Option<HealthFinding> {
    let info = &process.info;
    let output = info.output.as_ref()?;
    let back = format!(
        "its results come there by: {}",
        run_process::collect_command(info)?
    );
    let input = info.name.as_deref().or(info.input.as_deref());
    let (id, input) = (process.process_id, input.unwrap_or("an input"));
    let seen = format!("process {id} belongs to a run of {input} to {output}");
    Some(HealthFinding::new("run", Severity::Note, seen, Some(&back)))
}

/// Takes over batches whose API key is not set any more. Returns the outcome by the label of each.
fn adopt(queue: &JobQueue, data: &DataArgs) -> Result<Vec<(String, HealthFinding)>, Error> {
    let clients = clients_by_address(None, Duration::from_secs(60));
    let adopted = queue.adopt_batches(clients, &Context::new())?;
    let finding = |adoption: BatchAdoption| {
        let batch = adoption.batch;
        let name = batch.remote_id.as_deref().unwrap_or(&batch.label);
        let (provider, total) = (&batch.provider, count(batch.total));
        let batch_is = |what: &str| format!("{name} at {provider}, {total} requests: {what}");
        let finding = match adoption.refused {
            None => {
                let seen = batch_is("taken over with the key that is here");
                let back = run_process::collect_command_of(queue, batch.process_id);
                let collect = back.unwrap_or_else(|| data.command("work --strategy batch"));
                let advice = format!("to collect it: {collect}");
                HealthFinding::new(BATCH, Severity::Good, seen, Some(&advice))
            }
            Some(why) => {
                let seen = batch_is(&format!("not taken over: {why}"));
                let advice = set_that_key(run_process::collect_command_of(queue, batch.process_id));
                HealthFinding::new(BATCH, Severity::Warning, seen, Some(&advice))
            }
        };
        (batch.label, finding)
    };
    Ok(adopted.into_iter().map(finding).collect())
}

const BATCH: &str = "batch";

/// `back`: the command of the run that the batch belongs to.
fn set_that_key(back: Option<String>) -> String {
    let back = back.unwrap_or_else(|| "batchwright work".to_owned());
    format!(
        "set the key that it was made with, and the provider's base URL if it was another one than usual, \
         and run: {back}"
    )
}

/// A finding for a batch that cannot end without help.
fn judged(batch: &BatchInfo, processes: &[ProcessState], data: &DataArgs) -> Option<HealthFinding> {
    let of = processes
        .iter()
        .find(|process| Some(process.process_id) == batch.process_id);
    let back = of.and_then(|process| run_process::collect_command(&process.info));
    let name = batch.remote_id.as_deref().unwrap_or(&batch.label);
    let (provider, total) = (&batch.provider, count(batch.total));
    let batch_is = |what: &str| format!("{name} at {provider}, {total} requests: {what}");
    if batch.state == "held" {
        let why = batch
            .problem
            .as_deref()
            .unwrap_or("it may or may not exist");
        let seen = batch_is(&format!("held; {why}"));
        let advice = "to send it again: batchwright config set batch.on_unknown resubmit; to give it \
                      up: batchwright cancel PROCESS";
        return Some(HealthFinding::new(
            BATCH,
            Severity::Warning,
            seen,
            Some(advice),
        ));
    }
    if let Some(waiting) = batches::missing_results(batch) {
        let why = batch
            .problem
            .as_deref()
            .unwrap_or("its results are not there");
        let seen = batch_is(&format!("{why}; {waiting}"));
        let id = batch.process_id.map(|id| id.to_string());
        let id = id.as_deref().unwrap_or("PROCESS");
        let advice = batches::missing_advice(id, back.as_deref(), |words| data.command(words));
        return Some(HealthFinding::new(
            BATCH,
            Severity::Warning,
            seen,
            Some(&advice),
        ));
    }
    if batches::lacks_its_key(batch) {
        let url = &batch.base_url;
        let seen = batch_is(&format!(
            "the key it was made with is not here, or not for {url}"
        ));
        let rotated = batches::adoption_advice(|words| data.command(words));
        let advice = format!("{rotated}; otherwise {}", set_that_key(back));
        return Some(HealthFinding::new(
            BATCH,
            Severity::Warning,
            seen,
            Some(&advice),
        ));
    }
    None
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

/// Tries to write, which is surer than looking at permissions.
fn writable(folder: &Path) -> HealthFinding {
    const WHAT: &str = "data folder";
    let shown = folder.display();
    let whole = std::path::absolute(folder);
    let whole = whole.as_deref().unwrap_or(folder);
    let bad = |why: String| {
        let seen = format!("{why}: no job can be queued, and no setting or result stored");
        let advice = "let this user write there, or name another folder by --data-dir or \
                      BATCHWRIGHT_HOME";
        HealthFinding::new(WHAT, Severity::Bad, seen, Some(advice))
    };
    // A missing folder would be made in the nearest one that exists.
    let nearest = whole.ancestors().find_map(|path| match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        looked => Some((path, looked)),
    });
    let (there, looked) = match nearest {
        Some((path, Ok(looked))) => (path, looked),
        Some((path, Err(error))) => {
            return bad(format!("{} cannot be looked into: {error}", path.display()));
        }
        None => return bad(format!("{shown} is in no folder that is there")),
    };
    if !looked.is_dir() {
        let file = there.display();
        return bad(match there == whole {
            true => format!("{shown} is a file and no folder"),
            false => format!("{shown} cannot be made, since {file} is a file and no folder"),
        });
    }
    let probe = there.join(format!(".batchwright-doctor-{}", std::process::id()));
    let tried = fs::write(&probe, b"?");
    let _ = fs::remove_file(&probe);
    match (tried, there == whole) {
        (Ok(()), true) => {
            HealthFinding::new(WHAT, Severity::Good, format!("{shown}, writable"), None)
        }
        (Ok(()), false) => {
            let seen = format!("{shown} is not there yet");
            let advice = "it is made when it is first needed";
            HealthFinding::new(WHAT, Severity::Note, seen, Some(advice))
        }
        (Err(error), true) => bad(format!("{shown} cannot be written to: {error}")),
        (Err(error), false) => {
            let there = there.display();
            bad(format!(
                "{shown} is not there and cannot be made in {there}: {error}"
            ))
        }
    }
}

/// A note where other users may read the folder, since prompts and answers lie in it. A folder that the
/// program makes is private; one that existed is left as it is.
#[cfg(unix)]
fn open_to_others(folder: &Path) -> Option<HealthFinding> {
    let rights = fs::metadata(folder).ok()?.permissions();
    let rights = std::os::unix::fs::PermissionsExt::mode(&rights) & 0o777;
    (rights & 0o077 != 0).then(|| {
        let shown = folder.display();
        let seen = format!("other users of this machine may look into {shown} (mode {rights:o})");
        let advice =
            format!("prompts and answers lie there; to keep them private: chmod -R go= {shown}");
        HealthFinding::new("privacy", Severity::Note, seen, Some(&advice))
    })
}

#[cfg(not(unix))]
fn open_to_others(_: &Path) -> Option<HealthFinding> {
    None
}

/// Less room than this is soon used up.
const LITTLE_ROOM: u64 = 1_000_000_000;
/// With less than this not even results of an hour may fit.
const NO_ROOM: u64 = 50_000_000;

fn room(folder: &Path) -> Option<HealthFinding> {
    let folder = std::path::absolute(folder).ok()?;
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let free = free_bytes(there)?;
    let disk = there.display();
    let seen = match free {
        0..LITTLE_ROOM => format!("{:.0} MB free on the disk of {disk}", free as f64 / 1e6),
        _ => format!("{:.1} GB free", free as f64 / 1e9),
    };
    if free >= LITTLE_ROOM {
        return Some(HealthFinding::new("disk", Severity::Good, seen, None));
    }
    let verdict = match free < NO_ROOM {
        true => Severity::Bad,
        false => Severity::Warning,
    };
    let advice = "free some room: what arrives and cannot be stored waits, and new jobs are refused; \
                  finished results leave the queue by: batchwright results PROCESS -o FILE";
    Some(HealthFinding::new("disk", verdict, seen, Some(advice)))
}

#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let room = rustix::fs::statvfs(folder).ok()?;
    // What is no disk, such as /proc, reports nothing.
    (room.f_blocks > 0).then_some(())?;
    Some(room.f_bavail.saturating_mul(room.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}

/// The first second of 2026: this program is no older.
const NOT_BEFORE: Duration = Duration::from_secs(1_767_225_600);
/// The clocks of two machines, or of a machine and its disk, may differ by this.
const TOLERANCE: Duration = Duration::from_secs(60);

fn clock(database: &Path) -> HealthFinding {
    let now = SystemTime::now();
    let bad = |seen: String| {
        let advice = "set the clock: retries and waits are kept by it";
        HealthFinding::new("clock", Severity::Warning, seen, Some(advice))
    };
    if now < SystemTime::UNIX_EPOCH + NOT_BEFORE {
        return bad("it is before 2026 by this clock".to_owned());
    }
    let beside = database.with_extension("db-wal");
    let written = [database, &beside]
        .into_iter()
        .filter_map(|path| fs::metadata(path).ok()?.modified().ok())
        .max();
    let ahead = written.and_then(|written| written.duration_since(now).ok());
    match ahead.filter(|ahead| *ahead > TOLERANCE) {
        Some(ahead) => bad(format!("the database was written {} from now", span(ahead))),
        None => HealthFinding::new("clock", Severity::Good, "plausible".to_owned(), None),
    }
}

/// Settings that cannot be used stop `run` and `work`.
fn stored(args: &DoctorArgs) -> Vec<HealthFinding> {
    const WHAT: &str = "settings";
    let settings = match settings(args.data.data_dir.as_deref()) {
        Ok(settings) => settings,
        Err(refusal) => {
            return vec![HealthFinding::new(
                WHAT,
                Severity::Bad,
                refusal.message,
                None,
            )];
        }
    };
    let keys = SettingKey::all()
        .iter()
        .filter_map(|key| settings.explain(key.name()).ok());
    let problems = keys.filter_map(|setting| setting.problem);
    let bad = problems.map(|problem| HealthFinding::new(WHAT, Severity::Bad, problem, None));
    let unknown = settings.unknown().map(|name| {
        let seen = format!("{name} is stored, and this version knows no such key");
        HealthFinding::new(WHAT, Severity::Note, seen, None)
    });
    let found: Vec<HealthFinding> = bad.chain(unknown).collect();
    match found.is_empty() {
        true => vec![HealthFinding::new(
            WHAT,
            Severity::Good,
            "all can be used".to_owned(),
            None,
        )],
        false => found,
    }
}

fn keys() -> HealthFinding {
    let set = api_keys_set().into_iter();
    let set: Vec<String> = set
        .filter_map(|(provider, variable)| Some(format!("{} ({provider})", variable?)))
        .collect();
    if set.is_empty() {
        let advice =
            "local servers and extract need none; all that can be used: batchwright providers";
        return HealthFinding::new(
            "keys",
            Severity::Note,
            "none is set".to_owned(),
            Some(advice),
        );
    }
    HealthFinding::new(
        "keys",
        Severity::Good,
        format!("set: {}", set.join(", ")),
        None,
    )
}
