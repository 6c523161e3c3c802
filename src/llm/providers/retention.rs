//! How long results of batches can be had from whoever made them.

use std::time::Duration;

use serde::Deserialize;

use crate::base::clock::Timestamp;

/// How long a provider says it keeps the results of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Retention {
    /// So many days from the batch's creation.
    FromCreation(u32),
    /// So many days from its end.
    FromEnd(u32),
    /// It names no end.
    Unlimited,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Retention {
    /// Where nobody says anything, or says it for each batch: as short as the shortest there is.
    pub const UNKNOWN: Self = Self::FromEnd(2);

    /// Until when the results are kept of a batch that was created and seen to have ended then; `None`
    /// where no end is named.
    pub fn until(self, created: Timestamp, ended: Timestamp) -> Option<Timestamp> {
        match self {
            Self::FromCreation(days) => Some(created.after(DAY * days)),
            // It may have ended long before it was seen, but hardly later than it was to be worked on.
            Self::FromEnd(days) => Some(ended.min(created.after(DAY * 2)).after(DAY * days)),
            Self::Unlimited => None,
        }
    }
}
