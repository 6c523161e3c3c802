//! The budget of a process.

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use crate::base::{Error, ProcessId, Usd};
use crate::money::budget::Budget;

use super::host::JobQueue;

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

impl JobQueue {
    /// Sets the limit of a process. The first limit counts what the process has spent before. If the budget has paused
    /// the process, this resumes it. Calls that are in flight when a process gets its first limit count when they end.
    /// To create a process with a budget, use [`ProcessInfo::budget`](crate::queue::ProcessInfo::budget).
    ///
    /// [`ProcessState::budget`](crate::queue::ProcessState::budget) has the limit and what is used.
    ///
    /// # Errors
    /// If the process does not exist, is a child of another one, or has calls of unknown cost; or if the queue cannot be
    /// written.
    pub fn set_budget(&self, process: ProcessId, limit: Usd) -> Result<(), Error> {
        self.store.set_budget(process, limit, self.clock.wall())
    }

    /// Has a budget take over what the queue has counted for this process. If the process had used an amount `before`, the
    /// budget adds the difference to what other calls have spent.
    pub(crate) fn note_spent(
        &self,
        process: ProcessId,
        budget: &Budget,
        before: Option<Usd>,
    ) -> Result<(), Error> {
        let process = self.process(process)?;
        let Some(known) = process.and_then(|process| process.budget) else {
            return Ok(());
        };
        let refused = match known.pause {
            Some(BudgetPause::UsedUp(needed)) => Some(needed),
            _ => None,
        };
        budget.replace(known.used, before, refused)
    }
}
