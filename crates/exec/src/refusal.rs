//! What a launcher reports of a command that it did not start.

use serde::{Deserialize, Serialize};

/// The reason.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Refusal {
    pub why: String,
    /// The system's error if it may be passing.
    pub scarce: Option<i32>,
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self { why, scarce: None }
    }
}
