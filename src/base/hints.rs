//! The limits that a provider reports, in one format for all dialects.
//!
//! Decoders translate headers into it, and the limiter reads nothing else. So differences between vendors, such as
//! the period of a header, are handled in one place.

use std::time::Duration;

/// One reported limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateWindow {
    /// Units (requests or tokens) allowed per [`period`](Self::period).
    pub limit: u64,
    /// The period of `limit`, usually one minute; a day for some vendors.
    pub period: Duration,
    /// Units left when the server accepted the call, if reported.
    pub remaining: Option<u64>,
    /// Time until the full allowance is available again, if reported.
    pub reset: Option<Duration>,
}

/// The limits that one reply reports; empty if it reports none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateHints {
    /// Requests per period.
    pub requests: Option<RateWindow>,
    /// Tokens per period.
    pub tokens: Option<RateWindow>,
}

impl RateHints {
    /// Whether the reply reports no limit.
    pub fn is_empty(&self) -> bool {
        self.requests.is_none() && self.tokens.is_none()
    }

    /// Whether the reply reports a used-up allowance.
    pub(crate) fn is_used_up(&self) -> bool {
        let windows = [self.requests, self.tokens].into_iter().flatten();
        windows
            .map(|window| window.remaining)
            .any(|left| left == Some(0))
    }
}
