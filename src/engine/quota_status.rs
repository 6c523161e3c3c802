//! What a quota allows at a moment, for people and programs that look.

use std::time::Duration;

use serde::Serialize;

/// What a quota allows at a moment, as far as its limiter knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuotaStatus {
    /// Requests; `None` while no limit is known.
    pub requests: Option<RateStatus>,
    /// Tokens of input and output; `None` while no limit is known.
    pub tokens: Option<RateStatus>,
    /// Calls under way.
    pub in_flight: u32,
    /// How many may be under way at once, set or found; `None` while as many as the run or worker makes.
    pub most_in_flight: Option<u32>,
    /// For how long nothing starts, since a call was refused or its provider could not be reached; zero if it may.
    pub paused_for: Duration,
}

/// What a limit per minute allows at a moment: of [`requests`](QuotaStatus::requests) in calls, of
/// [`tokens`](QuotaStatus::tokens) in tokens of input and output together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateStatus {
    /// How much it allows a minute: as it was set, or as the provider's replies tell it.
    pub limit: u64,
    /// How much of that is left. Nothing while the next call has to wait: however much a minute allows, no more
    /// starts at once than [`Limits::burst`](crate::Limits::burst) says, or of tokens ten seconds' worth.
    pub remaining: u64,
    /// When all of it is left again, if nothing more is used until then.
    pub reset_after: Duration,
}

impl RateStatus {
    /// The same while nothing may start for so long.
    pub(super) fn paused(self, pause: Duration) -> Self {
        if pause.is_zero() {
            self
        } else {
            Self {
                remaining: 0,
                reset_after: self.reset_after.max(pause),
                ..self
            }
        }
    }
}

/// A limit that nobody set, while it holds calls back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LearnedLimit {
    /// What it limits: `"requests"`, or `"tokens"` of input and output together.
    pub unit: &'static str,
    /// How much it allows a minute.
    pub per_minute: u64,
    /// Where it was learned.
    pub source: LimitSource,
    /// How long ago it was last reported, or inferred.
    pub age: Duration,
}

/// Where a limit was learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LimitSource {
    /// This header of a reply reported it.
    Header(&'static str),
    /// A reply reported it.
    Reply,
    /// It was reported to another run or worker that shares the limit.
    OtherRun,
    /// Inferred from refused calls, since no reply reports a limit.
    Refusals,
}
