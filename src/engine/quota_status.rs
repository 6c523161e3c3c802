//! Current limits of a quota, for displays.

use std::time::Duration;

use serde::Serialize;

/// Current limits of a quota, as its limiter knows them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuotaStatus {
    /// Requests; `None` while no limit is known.
    pub requests: Option<RateStatus>,
    /// Tokens of input and output; `None` while no limit is known.
    pub tokens: Option<RateStatus>,
    /// Calls in flight.
    pub in_flight: u32,
    /// Maximum number of calls in flight, configured or found; `None` if only the concurrency of the run or worker
    /// limits them.
    pub most_in_flight: Option<u32>,
    /// Time for which no call starts, because a call was rejected or its provider was unreachable; zero if calls may
    /// start.
    pub paused_for: Duration,
}

/// Current state of a limit per minute: [`requests`](QuotaStatus::requests) in calls, [`tokens`](QuotaStatus::tokens)
/// in input and output tokens together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateStatus {
    /// The limit per minute, as configured or as the provider's replies report it.
    pub limit: u64,
    /// What is left of it; zero while the next call must wait. The number of calls that start at once is limited
    /// further: to [`Limits::burst`](crate::Limits::burst) requests, and to ten seconds' worth of tokens.
    pub remaining: u64,
    /// Time until all of it is left again, if nothing more is used.
    pub reset_after: Duration,
}

impl RateStatus {
    /// The same during a pause.
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

/// A limit that was not configured, while it delays calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LearnedLimit {
    /// What it limits: `"requests"`, or `"tokens"` of input and output together.
    pub unit: &'static str,
    /// The limit per minute.
    pub per_minute: u64,
}
