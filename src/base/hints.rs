//! What a provider says about its limits, in one shape for every dialect.
//!
//! Decoders translate headers into these; the limiter reads them and nothing else, so a header
//! whose period differs between vendors is put right in exactly one place.

use std::time::Duration;

/// One limit as a reply told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateWindow {
    /// Units (requests or tokens) allowed per [`period`](Self::period).
    pub limit: u64,
    /// Time over which `limit` holds, usually one minute; a day for some vendors.
    pub period: Duration,
    /// Units left when the server accepted the call, if told.
    pub remaining: Option<u64>,
    /// Time until the server's allowance is full again, if told.
    pub reset: Option<Duration>,
    /// The header that reported it, if it was one.
    pub header: Option<&'static str>,
}

/// The limits named by one reply. Empty when it named none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateHints {
    /// Requests in a period.
    pub requests: Option<RateWindow>,
    /// Tokens in a period.
    pub tokens: Option<RateWindow>,
}

impl RateHints {
    /// True when the reply named no limit at all.
    pub fn is_empty(&self) -> bool {
        self.requests.is_none() && self.tokens.is_none()
    }
}
