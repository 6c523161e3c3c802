//! Times in results.

use std::time::SystemTime;

/// The present time, for example `2026-11-21T23:14:39Z`.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}
