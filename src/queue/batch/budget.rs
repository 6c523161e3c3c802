//! What a batch may cost is reserved before it is sent.

use crate::base::day::Day;
use crate::base::error::{Error, ErrorKind};
use crate::llm::spending;
use crate::money::budget::Budget;
use crate::queue::job::COMPLETION_KIND;
use crate::queue::owners::reserve_all;
use crate::queue::store::{BatchNo, ClaimedJob};

use super::context::BatchContext;
use super::machine::Record;
use super::settle_items::{most_batched, request};

/// Jobs that are read at once.
const CHUNK: usize = 500;
const CHUNK_BYTES: usize = 8 << 20;

/// What is reserved for the jobs of a batch in budgets that its store does not know: those that are shared with other OS
/// processes, and those of owners. As long as it is not returned, it counts as spent.
pub(super) struct SharedReservation<'c> {
    context: &'c BatchContext,
    record: &'c Record,
    budgets: Option<Vec<Budget>>,
    /// The day on which it was reserved.
    day: Option<Day>,
}

impl<'c> SharedReservation<'c> {
    pub(super) fn of(context: &'c BatchContext, record: &'c Record) -> Self {
        Self {
            context,
            record,
            budgets: None,
            day: record.reserved,
        }
    }

    /// The budgets. All jobs of a batch have the same owner.
    fn budgets(&mut self, jobs: &[ClaimedJob]) -> &[Budget] {
        self.budgets.get_or_insert_with(|| {
            let owner = jobs.first().and_then(|job| job.owner.as_deref());
            self.context.shared_budgets(owner)
        })
    }

    /// Reserves what the first of these jobs can cost, as many as are affordable. Returns their number.
    pub(super) fn take(&mut self, jobs: &[ClaimedJob]) -> Result<usize, Error> {
        if self.budgets(jobs).is_empty() {
            return Ok(jobs.len());
        }
        let today = Day::of(self.context.settler.clock.wall());
        let mut taken = jobs.len();
        while taken > 0 {
            let most = self.most(&jobs[..taken]);
            match reserve_all(self.budgets(jobs), most, taken == 1) {
                Ok(held) => {
                    held.into_iter().for_each(|held| held.settle(most));
                    self.day = Some(today);
                    break;
                }
                Err(error) if error.kind() == ErrorKind::BudgetExceeded => taken /= 2,
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    /// The day on which something was reserved.
    pub(super) fn day(&self) -> Option<Day> {
        self.day
    }

    /// What these jobs can cost. A request without an upper bound counts when it has ended.
    fn most(&self, jobs: &[ClaimedJob]) -> u64 {
        let Some(route) = self.context.settler.kinds.route(COMPLETION_KIND) else {
            return 0;
        };
        let model = self.record.intent.model.as_deref().unwrap_or_default();
        let payee = [self.record.account.provider.as_str(), model];
        let most = |job| most_batched(&route, payee, job);
        jobs.iter()
            .fold(0, |sum: u64, job| sum.saturating_add(most(job)))
    }

    /// Returns what these jobs could cost, because they leave the batch unbilled.
    pub(super) fn release(&mut self, jobs: &[ClaimedJob]) {
        if self.day.is_some() {
            let most = self.most(jobs);
            self.refund(most);
        }
    }

    /// Returns an amount that was not spent.
    pub(super) fn refund(&self, amount: u64) {
        if let Some(day) = self.day {
            let budgets = self.budgets.iter().flatten();
            budgets.for_each(|budget| budget.refund(day, amount));
        }
    }

    /// What all remaining jobs of the batch can cost.
    pub(super) fn remaining(&mut self, no: BatchNo) -> Result<u64, Error> {
        let (mut after, mut sum) = (None, 0_u64);
        while self.day.is_some() {
            let jobs = self
                .context
                .store
                .batch_jobs(no, after, CHUNK, CHUNK_BYTES)?;
            let Some(last) = jobs.last() else { break };
            after = Some(last.receipt.job);
            self.budgets(&jobs);
            sum = sum.saturating_add(self.most(&jobs));
        }
        Ok(sum)
    }
}

/// Reserves what each of these jobs of a batch can cost at most. Returns how many of the first jobs are affordable; if no
/// job is, the process is paused. Jobs without a budget are all affordable.
pub(super) fn reserve(
    context: &BatchContext,
    no: BatchNo,
    record: &Record,
    jobs: &[ClaimedJob],
) -> Result<usize, Error> {
    let Some(budget) = jobs.first().and_then(|job| job.budget) else {
        return Ok(jobs.len());
    };
    let Some(route) = context.settler.kinds.route(COMPLETION_KIND) else {
        return Ok(0);
    };
    let model = record.intent.model.as_deref().unwrap_or_default();
    let payee = [record.account.provider.as_str(), model];
    let pricing = route.pricing();
    let mut needed = Vec::with_capacity(jobs.len());
    for job in jobs {
        // An invalid request is not sent.
        let most = match request(job) {
            Ok(request) => spending::most_batched(budget.unit, &pricing, payee, &request),
            Err(_) => Ok(0),
        };
        match most {
            Ok(most) => needed.push((job.receipt, most)),
            Err(error) if needed.is_empty() => {
                let why = format!("{} (job {})", error.message(), job.job_id);
                context.store.stop_budget(budget, &why)?;
                return Ok(0);
            }
            // It is the first one of the next batch.
            Err(_) => break,
        }
    }
    let wall = context.settler.clock.wall();
    let store = &context.store;
    store.reserve_jobs(context.worker, no, budget, &needed, wall)
}
