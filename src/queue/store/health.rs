//! What a look at a store's health finds.

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
