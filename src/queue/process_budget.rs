//! Limits of processes, and what calls outside of the queue may still spend.

use crate::base::{Error, ProcessId, Usd};
use crate::money::budget::Budget;

use super::host::JobQueue;

impl JobQueue {
    /// Sets the limit of a process. The first limit counts what the process has spent before. If the budget was
    /// used up, its jobs can start again. Calls that are in flight when a process gets its first limit count when they end.
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
        budget.replace(known.used, before, known.needed)
    }
}
