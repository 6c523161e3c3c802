//! Times as results say them.

use std::time::{Duration, UNIX_EPOCH};

use batchwright::progress::Timestamp;

/// As `2026-11-21T23:14:39Z`.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    let since = Duration::from_millis(u64::try_from(at.0).unwrap_or(0));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}
