//! Numbers of batches by outcome. This file only has the type; `store` counts.

use serde::Serialize;
use serde_json::Value;

/// Exact counts of files and batches since the simulator's start, taken at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct BatchStats {
    /// Requests to create a batch, including rejected ones.
    pub creates: u64,
    /// Created batches.
    pub created: u64,
    /// Batches that passed validation: their requests are worked on and paid.
    pub started: u64,
    /// Batches that failed validation.
    pub failed: u64,
    /// Batches that expired before all of their requests were finished.
    pub expired: u64,
    /// Batches whose cancellation is complete.
    pub cancelled: u64,
    /// Batches that are over, in whatever way.
    pub ended: u64,
    /// Requests in the batches that started.
    pub items_accepted: u64,
    /// Requests that were worked on, also those that failed.
    pub items_finished: u64,
    /// Requests that a batch answered for pay though their prompt had been paid before.
    pub bought_twice: u64,
    /// Input files received.
    pub files_uploaded: u64,
    /// Input files deleted.
    pub files_deleted: u64,
    /// Input files that are still there.
    pub files_left: u64,
    /// Requests for one batch.
    pub statuses: u64,
    /// Requests for a page of batches.
    pub lists: u64,
    /// Requests for results that were served, also those cut.
    pub downloads: u64,
    /// Requests to cancel a batch.
    pub cancels: u64,
    /// Each batch, the oldest first.
    pub batches: Vec<BatchSeen>,
}

/// One batch in [`BatchStats`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct BatchSeen {
    /// Its id at the provider.
    pub id: String,
    /// Data of the client: metadata, or a name; null at Anthropic.
    pub label: Value,
    /// How many requests it has.
    pub items: u64,
    /// How many were worked on.
    pub finished: u64,
    /// `validating`, `failed`, `running`, `finalizing`, `expired`, `cancelling`, `cancelled` or
    /// `ended`, whatever the API calls it.
    pub state: &'static str,
    /// Whether its record has been deleted.
    pub deleted: bool,
}
