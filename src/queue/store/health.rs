//! What a look at a store's health finds, and what stores have in common to say about it.

use std::time::Duration;

use crate::base::id::ProcessId;
use crate::queue::info::ProcessInfo;

/// What one look at a store's health found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct HealthFinding {
    /// What was looked at, in a word or two.
    pub what: String,
    /// How bad it is.
    pub verdict: Severity,
    /// What was seen, for people.
    pub seen: String,
    /// What to do about it.
    pub advice: Option<String>,
}

impl HealthFinding {
    /// Something that was seen, with what to do about it.
    pub fn new(what: &str, verdict: Severity, seen: String, advice: Option<&str>) -> Self {
        Self {
            what: what.to_owned(),
            verdict,
            seen,
            advice: advice.map(str::to_owned),
        }
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Good,
    /// Worth knowing.
    Note,
    /// Something is wrong that costs time or room.
    Warning,
    /// The queue cannot be trusted or used.
    Bad,
}

fn told(info: Option<String>) -> ProcessInfo {
    info.and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default()
}

/// What to type for jobs to go on, by what is told of the processes that have open ones. Those of a run go on by its own
/// command alone: another worker would buy them as that worker is set.
pub(super) fn by_whom(infos: impl IntoIterator<Item = Option<String>>) -> String {
    let (mut runs, mut others) = (Vec::new(), false);
    for info in infos {
        let info = told(info);
        match info.output {
            Some(output) => runs.push(match info.command {
                Some(command) => command,
                None => format!("the program that made it, with the output {output}"),
            }),
            None => others = true,
        }
    }
    match (&runs[..], others) {
        ([], _) => "batchwright work".to_owned(),
        ([only], false) => only.clone(),
        (_, false) => "each run's own command, told below".to_owned(),
        (_, true) => {
            "batchwright work --processes PROCESS for what belongs to no run, and each run's own \
                      command, told below, for the rest"
                .to_owned()
        }
    }
}

/// A process that has jobs which may not be claimed yet.
pub(super) fn unsealed(
    id: ProcessId,
    held: i64,
    age: Duration,
    info: Option<String>,
) -> HealthFinding {
    let age = humantime::format_duration(Duration::from_secs(age.as_secs()));
    let seen = format!("process {id}: {held} jobs wait to be sealed, the last one for {age}");
    let advice = match told(info).command {
        Some(command) => format!("to go on with it: {command}"),
        None => format!(
            "if nobody is enqueueing any more, delete it and enqueue again: batchwright cancel \
             {id} --delete"
        ),
    };
    HealthFinding::new("unsealed", Severity::Note, seen, Some(&advice))
}
