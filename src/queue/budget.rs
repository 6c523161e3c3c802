//! The budget of a process.

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use crate::money::budget::Amount;

/// What the calls and batches of a process may cost together, including those of its child processes.
///
/// Workers reserve the most that a call or a batch can cost before they send it, and settle with its reply. A call of
/// unknown outcome counts as the most that it can cost. If the next call does not fit, the process is paused, until
/// money comes back from calls or batches that cost less than was reserved, or until it gets a
/// [higher limit](crate::JobQueue::set_budget).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessBudget {
    /// The limit.
    pub limit: Amount,
    /// What is spent or reserved. Each worker reserves up to a 64th of the limit, so that a call needs no write.
    pub used: Amount,
    /// Why the process is paused; `None` if its budget has not paused it.
    pub pause: Option<BudgetPause>,
}

/// Why a budget has paused its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BudgetPause {
    /// The next call or request of a batch can cost this much, and less is left.
    UsedUp(Amount),
    /// It is unknown what the next request can cost at most. The text names what is missing.
    Unbounded(String),
}

/// For people and programs: `{"unit": "usd", "limit": 12.5, "used": 3.25, "paused": null, "needed": null}`.
impl Serialize for ProcessBudget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let unit = match self.limit {
            Amount::Usd(_) => "usd",
            Amount::Tokens(_) => "tokens",
        };
        let needed = match self.pause {
            Some(BudgetPause::UsedUp(needed)) => Some(Plain(needed)),
            _ => None,
        };
        let mut fields = serializer.serialize_struct("ProcessBudget", 5)?;
        fields.serialize_field("unit", unit)?;
        fields.serialize_field("limit", &Plain(self.limit))?;
        fields.serialize_field("used", &Plain(self.used))?;
        fields.serialize_field("paused", &self.why())?;
        fields.serialize_field("needed", &needed)?;
        fields.end()
    }
}

/// An amount as a number.
struct Plain(Amount);

impl Serialize for Plain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Amount::Usd(usd) => usd.serialize(serializer),
            Amount::Tokens(tokens) => serializer.serialize_u64(tokens),
        }
    }
}

impl ProcessBudget {
    /// A new budget, without anything spent.
    pub fn of(limit: Amount) -> Self {
        Self::new(limit, Amount::new(limit.unit(), 0))
    }

    /// A new budget, with what was spent before; both have the same unit.
    pub fn new(limit: Amount, used: Amount) -> Self {
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
