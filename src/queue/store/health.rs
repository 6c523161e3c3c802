//! Findings of a health check.

use crate::base::ProcessId;

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
