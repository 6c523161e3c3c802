//! How long providers keep the results of batches.

use std::time::Duration;

use serde::Deserialize;

use crate::base::Timestamp;

/// How long a provider keeps the results of a batch, according to its documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Retention {
    /// This number of days after the creation of the batch.
    FromCreation(u32),
    /// This number of days after its end.
    FromEnd(u32),
    /// The documentation names no end.
    Unlimited,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Retention {
    /// For an undocumented time, or a time that is set for each batch: the shortest of all.
    pub const UNKNOWN: Self = Self::FromEnd(2);

    /// The time until which results are kept, for a batch with this creation time that was seen to have ended at
    /// `ended`; `None` if there is no end.
    pub fn until(self, created: Timestamp, ended: Timestamp) -> Option<Timestamp> {
        match self {
            Self::FromCreation(days) => Some(created.after(DAY * days)),
            // It may have ended long before it was seen, but hardly after the time that it was allowed to take.
            Self::FromEnd(days) => Some(ended.min(created.after(DAY * 2)).after(DAY * days)),
            Self::Unlimited => None,
        }
    }
}
