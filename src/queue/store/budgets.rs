//! The interface for budgets of processes.

use crate::base::{Error, ProcessId, Timestamp, Usd};
use crate::queue::budget::ProcessBudget;

use super::{BatchNo, WorkerId};

/// Budgets of processes. A part of [`JobStore`](super::JobStore).
///
/// A budget counts what its process and the descendants of that process have spent, what calls of unknown outcome may have
/// cost, and the most that their open batches can cost. If that, together with the worst case of a call that was refused,
/// exceeds the limit, the process is closed: no claim returns its jobs. It opens by itself when the sum falls, or with a
/// higher limit.
pub trait BudgetStore: Send + Sync {
    /// Sets the limit of a process, and forgets which call was refused. Fails if the process does not exist, is a child, or
    /// has calls of unknown cost.
    fn set_budget(&self, process: ProcessId, limit: Usd, now: Timestamp) -> Result<(), Error>;

    /// Writes what a batch can cost at most, and checks it against the budget of its process. `held` is that of its first
    /// jobs, which fit before; `amounts` are those of the next ones, in picodollars. Returns how many of these fit. If the
    /// batch would stay empty, the first amount is [refused](Self::note_refused). A repetition changes nothing.
    fn hold_batch(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        held: (u64, usize),
        amounts: &[u64],
    ) -> Result<usize, Error>;

    /// Closes a process because a call that can cost this much, in picodollars, does not fit.
    fn note_refused(&self, process: ProcessId, most: u64) -> Result<(), Error>;

    /// Notes that a call of a process can cost this much, in picodollars. As long as no job of it has ended, that counts for
    /// each job that a worker had when it died.
    fn note_most(&self, process: ProcessId, most: u64) -> Result<(), Error>;

    /// The closed processes for which jobs wait, oldest first.
    fn closed_processes(&self) -> Result<Vec<(ProcessId, ProcessBudget)>, Error>;
}

/// The budget that limits the calls of a job, as its claim has read it. Amounts are in picodollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobBudget {
    /// The process that has the budget.
    pub process: ProcessId,
    /// The limit.
    pub limit: u64,
    /// What is spent or lost. It never falls.
    pub used: u64,
    /// The most that open batches can cost.
    pub held: u64,
    /// What [`note_most`](BudgetStore::note_most) has noted.
    pub most: u64,
}
