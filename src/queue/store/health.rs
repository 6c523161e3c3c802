//! Findings of a health check.

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
