//! Findings of a health check, and those that all stores share.

use std::time::Duration;

use crate::base::ProcessId;
use crate::queue::info::ProcessInfo;

/// One finding of a health check.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct HealthFinding {
    /// The checked property, in one or two words.
    pub what: String,
    /// How bad it is.
    pub verdict: Severity,
    /// The observation, for people.
    pub seen: String,
    /// The recommended action.
    pub advice: Option<String>,
}

impl HealthFinding {
    /// A finding with a recommended action.
    pub fn new(what: &str, verdict: Severity, seen: String, advice: Option<&str>) -> Self {
        Self {
            what: what.to_owned(),
            verdict,
            seen,
            advice: advice.map(str::to_owned),
        }
    }
}

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// No problem.
    Good,
    /// Information.
    Note,
    /// A problem that costs time or disk space.
    Warning,
    /// The queue cannot be used, or its contents cannot be trusted.
    Bad,
}

fn told(info: Option<String>) -> ProcessInfo {
    info.and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default()
}

/// Commands that resume open jobs, according to the descriptions of their processes. Only a run's own command resumes
/// its jobs, because another worker would use its own settings for them.
pub(super) fn resume_commands(infos: impl IntoIterator<Item = Option<String>>) -> String {
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
        (_, false) => "each run's own command, listed below".to_owned(),
        (_, true) => {
            "batchwright work --processes PROCESS for jobs that belong to no run, and each run's own \
                      command, listed below, for the others"
                .to_owned()
        }
    }
}

/// Findings of a recount of all jobs: the processes whose counters are wrong; `None` for jobs without a process.
pub(super) fn counters(differ: impl IntoIterator<Item = Option<ProcessId>>) -> Vec<HealthFinding> {
    let finding = |process: Option<ProcessId>| {
        let seen = match process {
            Some(id) => format!("those of process {id} differ from its jobs"),
            None => "jobs without a process".to_owned(),
        };
        let advice = "this is a bug in batchwright: please report it. Results can still be fetched: \
                      batchwright results ID";
        HealthFinding::new("counters", Severity::Bad, seen, Some(advice))
    };
    let mut found: Vec<_> = differ.into_iter().map(finding).collect();
    if found.is_empty() {
        let seen = "the counters equal the number of jobs".to_owned();
        found.push(HealthFinding::new("counters", Severity::Good, seen, None));
    }
    found
}

/// Findings of a comparison of the ledger: the processes whose charges differ from what their jobs have used, and whether
/// charges are missing. Further charges may be of a deleted process with the same id.
pub(super) fn ledger(differ: Vec<(ProcessId, bool)>) -> Vec<HealthFinding> {
    let finding = |(id, lacks): (ProcessId, bool)| {
        let (severity, seen, advice) = if lacks {
            let seen = format!("the charges of process {id} are less than what its jobs have used");
            let advice = "this is a bug in batchwright: please report it. The provider's invoice shows what was paid";
            (Severity::Bad, seen, advice)
        } else {
            let seen = format!("the charges of process {id} are more than what its jobs have used");
            let advice = "normal if an earlier process had the same id and was deleted: the ledger shows the charges of \
                          both under the id. Otherwise please report it as a bug";
            (Severity::Note, seen, advice)
        };
        HealthFinding::new("ledger", severity, seen, Some(advice))
    };
    let mut found: Vec<_> = differ.into_iter().map(finding).collect();
    if found.is_empty() {
        let seen = "the charges equal what the jobs have used".to_owned();
        found.push(HealthFinding::new("ledger", Severity::Good, seen, None));
    }
    found
}

/// Jobs whose worker is not registered.
pub(super) fn orphans(jobs: i64) -> Option<HealthFinding> {
    let seen = format!("{jobs} jobs belong to workers that are not registered");
    let advice = "no worker returns them to the queue; to delete their processes: batchwright cancel ID --delete";
    (jobs > 0).then(|| HealthFinding::new("claims", Severity::Bad, seen, Some(advice)))
}

/// Batches whose worker is not registered, jobs in batches that do not exist, and batches without a worker.
pub(super) fn batches(
    orphaned: i64,
    astray: i64,
    free: i64,
    resume_commands: &str,
) -> Vec<HealthFinding> {
    let next = format!("the next worker takes them over: {resume_commands}");
    let all = [
        (
            orphaned,
            Severity::Bad,
            "belong to workers that are not registered",
            "no worker takes them over; this is a bug in batchwright: please report it",
        ),
        (
            astray,
            Severity::Bad,
            "jobs are at a provider in a batch that does not exist",
            "no worker returns them to the queue; to delete their processes: batchwright cancel ID --delete",
        ),
        (free, Severity::Note, "have no active worker", &*next),
    ];
    let found = all.into_iter().filter(|(count, ..)| *count > 0);
    let finding = |(count, verdict, what, advice): (i64, Severity, &str, &str)| {
        HealthFinding::new("batches", verdict, format!("{count} {what}"), Some(advice))
    };
    found.map(finding).collect()
}

/// Processes with a chore that has not been applied to all jobs.
pub(super) fn halfway(processes: i64, resume_commands: &str) -> Option<HealthFinding> {
    let seen = format!("{processes} processes are being released, cancelled, retried or deleted");
    let advice = format!("any worker completes this: {resume_commands}");
    (processes > 0).then(|| HealthFinding::new("halfway", Severity::Note, seen, Some(&advice)))
}

/// Jobs that are due later than any wait can be; the last of them after `ahead`.
/// A process with jobs that cannot be claimed yet.
pub(super) fn unsealed(
    id: ProcessId,
    held: i64,
    age: Duration,
    info: Option<String>,
) -> HealthFinding {
    let age = humantime::format_duration(Duration::from_secs(age.as_secs()));
    let seen = format!("process {id}: {held} jobs wait to be sealed, the last one for {age}");
    let advice = match told(info).command {
        Some(command) => format!("to resume: {command}"),
        None => format!(
            "if no program is still enqueueing, delete the process and enqueue again: batchwright cancel \
             {id} --delete"
        ),
    };
    HealthFinding::new("unsealed", Severity::Note, seen, Some(&advice))
}
