//! What the jobs of a queue were billed, and what they may cost.

use crate::base::{Day, Error, ProcessId, Usd};
use crate::money::budget::{Amount, Budget};
use crate::money::ledger::{Ledger, LedgerQuery, LedgerRow};

use super::budget::BudgetPause;
use super::host::JobQueue;

impl JobQueue {
    /// What was paid on these days, from the first to the last; `None` means without limit. The store books each call
    /// in the transaction that records its end, so the ledger equals the usage of all processes, and survives them.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn ledger(&self, since: Option<Day>, until: Option<Day>) -> Result<Ledger, Error> {
        let mut ledger = Ledger::new();
        self.store
            .charges(since, until, &mut |charge| ledger.add(charge))?;
        Ok(ledger)
    }

    /// The sums of the charges that a query selects, by its groups, in order. The store sums them, so this is quicker
    /// than [`ledger`](Self::ledger) if there are many.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn charge_sums(&self, query: &LedgerQuery) -> Result<Vec<LedgerRow>, Error> {
        self.store.charge_sums(query)
    }

    /// The known cost of all calls for processes of this [owner](crate::queue::ProcessInfo::owner) since a day.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn cost_of(&self, owner: &str, since: Day) -> Result<Usd, Error> {
        let query = LedgerQuery::default().between(Some(since), None);
        let sums = self.charge_sums(&query.owner(Some(owner.to_owned())))?;
        Ok(sums.first().map_or(Usd::ZERO, |row| row.sum.cost_usd))
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
    /// If the process does not exist, is a child of another one, or has spent in another unit; or if the queue cannot be
    /// written.
    pub fn set_budget(&self, process: ProcessId, limit: Amount) -> Result<(), Error> {
        self.store.set_budget(process, limit, self.clock.wall())
    }

    /// Removes the budget of a process, so that nothing limits what it costs. If the budget has paused the process, this
    /// resumes it. Does nothing if the process has no budget. A later budget counts what the process has spent, without
    /// calls that were in flight at this moment.
    ///
    /// # Errors
    /// If the process does not exist or is a child of another one, or if the queue cannot be written.
    pub fn remove_budget(&self, process: ProcessId) -> Result<(), Error> {
        self.store.remove_budget(process, self.clock.wall())
    }

    /// Has a budget take over what the queue has counted for this process. If the process had used an amount `before`, the
    /// budget adds the difference to what other calls have spent.
    pub(crate) fn note_spent(
        &self,
        process: ProcessId,
        budget: &Budget,
        before: Option<Amount>,
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
