//! The budget of a process.

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use crate::base::Usd;

/// What the calls and batches of a process may cost together, including those of its child processes.
///
/// Workers reserve the most that a call or a batch can cost before they send it, and settle with its reply. A call of
/// unknown outcome counts as the most that it can cost. If the next call does not fit, the process is paused, until
/// money comes back from calls or batches that cost less than was reserved, or until it gets a
/// [higher limit](crate::JobQueue::set_budget).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessBudget {
    /// The limit.
    pub limit: Usd,
    /// What is spent or reserved. Each worker reserves up to a 64th of the limit, so that a call needs no write.
    pub used: Usd,
    /// Why the process is paused; `None` if its budget has not paused it.
    pub pause: Option<BudgetPause>,
}

/// Why a budget has paused its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BudgetPause {
    /// The next call or request of a batch can cost this much, and less is left.
    UsedUp(Usd),
    /// It is unknown what the next request can cost at most. The text names what is missing.
    Unbounded(String),
}

/// For people and programs: `{"limit": 12.5, "used": 3.25, "paused": null, "needed": null}`.
impl Serialize for ProcessBudget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let needed = match self.pause {
            Some(BudgetPause::UsedUp(needed)) => Some(needed),
            _ => None,
        };
        let mut fields = serializer.serialize_struct("ProcessBudget", 4)?;
        fields.serialize_field("limit", &self.limit)?;
        fields.serialize_field("used", &self.used)?;
        fields.serialize_field("paused", &self.why())?;
        fields.serialize_field("needed", &needed)?;
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
            pause: None,
        }
    }

    /// Why the process is paused, as a sentence; `None` if its budget has not paused it.
    pub fn why(&self) -> Option<String> {
        Some(match self.pause.as_ref()? {
            BudgetPause::UsedUp(needed) => format!(
                "the budget of {} is used up: {} is spent or reserved, and the next call could cost {needed}",
                self.limit, self.used
            ),
            BudgetPause::Unbounded(why) => why.clone(),
        })
    }
}
