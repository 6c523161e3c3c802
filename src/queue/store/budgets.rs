//! The interface for budgets of processes.

use crate::base::{Error, ProcessId, Timestamp, Usd};
use crate::queue::budget::ProcessBudget;
use crate::queue::job::Spent;

use super::{BatchNo, JobReceipt, WorkerId};

/// Budgets of processes. A part of [`JobStore`](super::JobStore).
///
/// Amounts are in picodollars. A budget counts everything that is spent or reserved for its process and for the descendants of that process. A worker
/// [draws](Self::draw_budget) an amount, spends it in memory, and [returns](Self::return_budget) what is left. If the worker
/// crashes, what it drew stays spent. What a batch may cost is [reserved](Self::reserve_jobs) for each of its jobs, and
/// released by the transaction that records the end of the job; see [`BudgetEnd`].
///
/// A process whose next call does not fit is paused, in the transaction that refuses the call. The store resumes it when
/// enough money was returned or released.
pub trait BudgetStore: Send + Sync {
    /// Sets the limit of a process. The first limit counts what the process and its descendants have spent before. A limit resumes the process
    /// if its budget has paused it. Fails if the process does not exist, is a child, or has calls of unknown cost.
    fn set_budget(&self, process: ProcessId, limit: Usd, now: Timestamp) -> Result<(), Error>;

    /// Draws an amount for a worker, after it has returned `back`: at least `least`, and more, so that the worker seldom
    /// draws. If that is not available, nothing is drawn, and the process is paused until it is. After an error,
    /// `back` was not returned, except if the error has [`Sent::Maybe`](crate::client::Sent::Maybe): then it is unknown.
    fn draw_budget(
        &self,
        budget: JobBudget,
        back: u64,
        least: u64,
        now: Timestamp,
    ) -> Result<BudgetDraw, Error>;

    /// Returns a drawn amount that was not spent; or books more than was drawn, if it is negative. Does nothing if the
    /// budget no longer exists.
    fn return_budget(&self, budget: JobBudget, amount: i64, now: Timestamp) -> Result<(), Error>;

    /// Pauses the process of a budget because a request has no upper bound. Only a new limit resumes it. If it is paused
    /// already, the earlier reason stays.
    fn stop_budget(&self, budget: JobBudget, why: &str) -> Result<(), Error>;

    /// Reserves amounts for the first of these jobs of a batch, as many as are affordable, instead of what is reserved for
    /// these claims of them. Returns their number. If less than a 64th of the limit is left, and not all of them are affordable, it is 0.
    /// Then the process is paused until more is available.
    fn reserve_jobs(
        &self,
        worker: WorkerId,
        batch: BatchNo,
        budget: JobBudget,
        jobs: &[(JobReceipt, u64)],
        now: Timestamp,
    ) -> Result<usize, Error>;

    /// The processes that their budgets have paused, oldest pause first.
    fn budget_pauses(&self) -> Result<Vec<(ProcessId, ProcessBudget)>, Error>;

    /// Resumes the processes whose budgets have enough again. Returns whether there were any.
    fn resume_budgets(&self, now: Timestamp) -> Result<bool, Error>;
}

/// The budget that limits the calls of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobBudget {
    /// The number of the process that has the budget.
    pub no: i64,
}

/// The answer to [`draw_budget`](BudgetStore::draw_budget).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetDraw {
    /// This much was drawn.
    Drawn(u64),
    /// The process is paused.
    Paused,
    /// The process no longer exists: nothing limits the call.
    Unlimited,
}

/// How the end of a job counts in its budget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BudgetEnd {
    /// What was spent counts, and the rest of its [reservation](BudgetStore::reserve_jobs) is released. If it is unknown
    /// what was spent, the whole reservation counts.
    #[default]
    Spent,
    /// The worker has taken it from what it [drew](BudgetStore::draw_budget).
    Drawn,
    /// Nothing was billed if it is unknown what was spent: the reservation is released.
    Unbilled,
}

/// The end of a job, as it counts in the budget of its process.
pub(crate) struct EndInBudget {
    pub job: i64,
    pub end: BudgetEnd,
    pub spent: Option<Spent>,
    /// The cost of some of its calls is unknown.
    pub is_partial: bool,
    /// The claim whose reservation is released.
    pub claim: i64,
}
