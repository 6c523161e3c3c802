//! The budget of a process.

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use crate::base::Usd;

/// What the calls and batches of a process may cost together, including those of its child processes.
///
/// Before a call, what is spent, the most that calls in flight and open batches can cost, and the most that this call can
/// cost must not exceed the limit. A call of unknown outcome counts as the most that it can cost, a job of a worker that died
/// as the mean of the calls before. If the next call does not fit, the process waits until a batch has cost less than it
/// could, or until it gets a [higher limit](crate::JobQueue::set_budget). A worker does not count the calls in flight of
/// other workers: by so many calls the limit may be exceeded. A job whose call has no known upper bound fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessBudget {
    /// The limit.
    pub limit: Usd,
    /// What is spent, or reserved for open batches.
    pub used: Usd,
    /// What is reserved for open batches.
    pub held: Usd,
    /// The most that the next call can cost, if that does not fit; `None` while jobs can start.
    pub needed: Option<Usd>,
}

/// For people and programs: `{"limit": 12.5, "used": 3.25, "held": 0, "paused": null, "needed": null}`.
impl Serialize for ProcessBudget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("ProcessBudget", 5)?;
        fields.serialize_field("limit", &self.limit)?;
        fields.serialize_field("used", &self.used)?;
        fields.serialize_field("held", &self.held)?;
        fields.serialize_field("paused", &self.why())?;
        fields.serialize_field("needed", &self.needed)?;
        fields.end()
    }
}

impl ProcessBudget {
    /// A new budget, without anything spent.
    pub fn of(limit: Usd) -> Self {
        Self::new(limit, Usd::ZERO)
    }

    /// A new budget, with what was spent before.
    pub fn new(limit: Usd, used: Usd) -> Self {
        Self {
            limit,
            used,
            held: Usd::ZERO,
            needed: None,
        }
    }

    /// Why no job of the process starts, as a sentence; `None` if jobs can start.
    pub fn why(&self) -> Option<String> {
        let (limit, used, needed) = (self.limit, self.used, self.needed?);
        let spent = if self.held > Usd::ZERO {
            "spent or reserved"
        } else {
            "spent"
        };
        let next = if needed > Usd::ZERO {
            format!(", and the next call could cost {needed}")
        } else {
            String::new()
        };
        Some(format!(
            "the budget of {limit} is used up: {used} is {spent}{next}"
        ))
    }
}

// Limits of processes, and what calls outside of the queue may still spend.
