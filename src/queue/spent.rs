//! What was spent on calls.

use serde::Serialize;

use crate::base::{Day, Error, Usd};

use super::host::JobQueue;

/// What was spent on a model on a day. It stays in the queue when the jobs and their results are gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DaySpent {
    /// The day (UTC) on which the ends of the calls were recorded.
    pub day: Day,
    /// The model, as named by the replies, or by the requests if the replies name none; empty if it is unknown.
    pub model: String,
    /// Calls that were billed, failed ones included. Each request in a batch counts.
    pub calls: u64,
    /// Input and output tokens.
    pub tokens: u64,
    /// The cost of the calls whose cost is known.
    pub cost_usd: Usd,
}

impl JobQueue {
    /// What was spent from this day on, by day and model, in order; `None`: ever. The store adds the cost of a call in the
    /// transaction that records its end.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn spent_since(&self, day: Option<Day>) -> Result<Vec<DaySpent>, Error> {
        self.store.spent_since(day)
    }
}
