//! What a batch may cost is reserved before it is sent.

use std::sync::Arc;

use crate::base::day::Day;
use crate::base::error::Error;
use crate::llm::route::Route;
use crate::llm::spending;
use crate::money::budget::{AmountUnit, Budget};
use crate::queue::job::COMPLETION_KIND;
use crate::queue::store::{BatchNo, ClaimedJob};

use super::context::BatchContext;
use super::machine::Record;
use super::settle_items::request;
use super::write_input::{CHUNK, CHUNK_BYTES};

/// What is reserved for the jobs of a batch in budgets that are shared with other OS processes, which their store does not
/// know. As long as it is not returned, it counts as spent.
pub(super) struct SharedReservation<'c> {
    context: &'c BatchContext,
    record: &'c Record,
    route: Option<Arc<Route<'static>>>,
    /// The period in which it was reserved.
    since: Option<Day>,
}

impl<'c> SharedReservation<'c> {
    pub(super) fn of(context: &'c BatchContext, record: &'c Record) -> Self {
        Self {
            context,
            record,
            route: context.settler.kinds.route(COMPLETION_KIND),
            since: record.reserved,
        }
    }

    fn budgets(&self) -> impl Iterator<Item = &Budget> {
        self.route.iter().flat_map(|route| route.shared_budgets())
    }

    /// Reserves what the first of these jobs can cost, as many as are affordable. Returns their number, and the period.
    pub(super) fn take(&mut self, jobs: &[ClaimedJob]) -> Result<usize, Error> {
        let since = self.budgets().find_map(Budget::period);
        if since.is_none() {
            return Ok(jobs.len());
        }
        let mut taken = jobs.len();
        while taken > 0 {
            let most = self.most(&jobs[..taken]);
            let held = self.budgets().map(|budget| budget.reserve_now(most));
            let held = held.collect::<Result<Vec<_>, _>>()?;
            if held.iter().all(Option::is_some) {
                held.into_iter()
                    .flatten()
                    .for_each(|held| held.settle(most));
                break;
            }
            held.into_iter().flatten().for_each(|held| held.settle(0));
            taken /= 2;
        }
        if taken == 0
            && let Some(job) = jobs.first()
        {
            let most = self.most(std::slice::from_ref(job));
            self.budgets().for_each(|budget| budget.refuse(most));
        }
        self.since = since;
        Ok(taken)
    }

    /// The period in which something was reserved.
    pub(super) fn since(&self) -> Option<Day> {
        self.since
    }

    /// What these jobs can cost. A request without an upper bound is not sent, so it costs nothing.
    pub(super) fn most(&self, jobs: &[ClaimedJob]) -> u64 {
        let Some(route) = self
            .route
            .as_ref()
            .filter(|_| self.budgets().next().is_some())
        else {
            return 0;
        };
        let model = self.record.intent.model.as_deref().unwrap_or_default();
        let payee = [self.record.account.provider.as_str(), model];
        let most = |job: &ClaimedJob| {
            let request = request(job)?;
            spending::most_batched(AmountUnit::Usd, &route.pricing(), payee, &request)
        };
        jobs.iter().fold(0, |sum: u64, job| {
            sum.saturating_add(most(job).unwrap_or(0))
        })
    }

    /// Returns what these jobs could cost, because they leave the batch unbilled.
    pub(super) fn release(&self, jobs: &[ClaimedJob]) {
        if self.since.is_some() {
            self.refund(self.most(jobs));
        }
    }

    /// Returns an amount that was not spent.
    pub(super) fn refund(&self, amount: u64) {
        if let Some(since) = self.since {
            self.budgets()
                .for_each(|budget| budget.refund(since, amount));
        }
    }

    /// What all remaining jobs of the batch can cost.
    pub(super) fn remaining(&self, no: BatchNo) -> Result<u64, Error> {
        let (mut after, mut sum) = (None, 0_u64);
        while self.since.is_some() {
            let jobs = self
                .context
                .store
                .batch_jobs(no, after, CHUNK, CHUNK_BYTES)?;
            let Some(last) = jobs.last() else { break };
            after = Some(last.receipt.job);
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
            Ok(most) => needed.push((job.receipt.job, most)),
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
