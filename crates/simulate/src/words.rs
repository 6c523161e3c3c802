//! How statuses and times are written.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

/// The text after a status.
pub(super) fn reason(status: u16) -> &'static str {
    match status {
        529 => "Overloaded",
        status => http_net::reason_phrase(status),
    }
}

/// Seconds since the epoch as `2026-11-20T05:00:00Z`.
pub(super) struct Rfc3339(pub(super) u64);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = UNIX_EPOCH.checked_add(Duration::from_secs(self.0));
        humantime::format_rfc3339_seconds(time.unwrap_or(UNIX_EPOCH)).fmt(f)
    }
}
