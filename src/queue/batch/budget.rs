//! What a batch may cost is reserved before it is sent.

use crate::base::{Error, ErrorKind, ProcessId};
use crate::llm::spending;
use crate::money::budget::{AmountUnit, Budget};
use crate::queue::store::{BatchNo, ClaimedJob};

use super::context::BatchContext;
use super::machine::Record;
use super::settle_items::request;

/// What is reserved for a batch in budgets that its store does not know: those that are shared with other OS processes,
/// and those of owners. They keep it under the label of the batch until the batch has ended.
pub(super) struct SharedReservation<'c> {
    context: &'c BatchContext,
    record: &'c Record,
    budgets: Option<Vec<Budget>>,
    /// How many of them are those of the route; the others are those of the owner.
    of_route: usize,
    /// What the jobs can cost whose lines are written.
    total: u64,
    /// What is reserved.
    reserved: u64,
}

impl<'c> SharedReservation<'c> {
    pub(super) fn of(context: &'c BatchContext, record: &'c Record) -> Self {
        Self {
            context,
            record,
            budgets: None,
            of_route: 0,
            total: 0,
            reserved: 0,
        }
    }

    /// What each of these jobs can cost. A request without an upper bound fails if a budget of the route limits it, and one
    /// that could cost more than a whole budget fails.
    pub(super) fn needs(&mut self, jobs: &[ClaimedJob]) -> Result<Vec<Result<u64, Error>>, Error> {
        if self.budgets.is_none() {
            // All jobs of a batch have the same owner.
            let owner = jobs.first().and_then(|job| job.owner.as_deref());
            self.budgets = Some(self.context.shared_budgets(owner)?);
        }
        let route = self.context.settler.kinds.prompt_route();
        let (Some(route), false) = (route, self.budgets.iter().all(Vec::is_empty)) else {
            return Ok(jobs.iter().map(|_| Ok(0)).collect());
        };
        self.of_route = route.shared_budgets().count();
        let is_limited = self.of_route > 0;
        let model = self.record.intent.model.as_deref().unwrap_or_default();
        let payee = [self.record.account.provider.as_str(), model];
        let pricing = route.pricing();
        let need = |job| {
            // An invalid request is not sent.
            let Ok(request) = request(job) else {
                return Ok(0);
            };
            let most = match spending::most_batched(AmountUnit::Usd, &pricing, payee, &request) {
                Err(error) if is_limited => {
                    return Err(Error::new(ErrorKind::Invalid, error.message()));
                }
                // It counts when it has ended. A limit that is used up does not allow it.
                most => most.unwrap_or(1),
            };
            let mut budgets = self.budgets.iter().flatten();
            match budgets.find_map(|budget| budget.above_limit(most)) {
                Some(error) => Err(Error::new(ErrorKind::Invalid, error.message())),
                None => Ok(most),
            }
        };
        Ok(jobs.iter().map(need).collect())
    }

    /// Reserves what these jobs can cost, without those that do not fit. Returns which ones fit.
    pub(super) fn take(&mut self, needs: &[Result<u64, Error>]) -> Result<Vec<bool>, Error> {
        let needs = needs
            .iter()
            .map(|need| need.as_ref().map_or(0, |need| *need));
        let needs: Vec<u64> = needs.collect();
        let (mut most, mut refused_by) = (u64::MAX, None::<(usize, Budget)>);
        loop {
            let mut sum = self.total;
            let fitting = needs.iter().map(|need| {
                let all = sum.saturating_add(*need);
                let fits = *need == 0 || all <= most;
                sum = if fits { all } else { sum };
                fits
            });
            let fitting: Vec<bool> = fitting.collect();
            let none_fits = sum == self.total;
            let refused = if none_fits { None } else { self.reserve(sum)? };
            if let Some((at, budget, less)) = refused {
                most = less.min(sum - 1);
                refused_by = Some((at, budget));
                continue;
            }
            self.total = sum;
            // While some fit, jobs without an owner go on: others may need less. Those of an owner wait.
            let refused_by = refused_by.filter(|(at, _)| none_fits || *at >= self.of_route);
            let left_out = needs.iter().zip(&fitting).filter(|(_, fits)| !**fits);
            if let (Some((_, budget)), Some(least)) =
                (refused_by, left_out.map(|(need, _)| need).min())
            {
                budget.refuse(*least);
            }
            return Ok(fitting);
        }
    }

    /// Reserves an amount for the batch in all budgets, or changes none. Returns the number of the budget that has less, the
    /// budget, and how much it has.
    fn reserve(&mut self, amount: u64) -> Result<Option<(usize, Budget, u64)>, Error> {
        let label = &self.record.intent.label;
        for (at, budget) in self.budgets.iter().flatten().enumerate() {
            if let Some(most) = budget.reserve_batch(label, amount)? {
                for earlier in self.budgets.iter().flatten().take(at) {
                    earlier.reserve_batch(label, self.reserved)?;
                }
                return Ok(Some((at, budget.clone(), most)));
            }
        }
        self.reserved = amount;
        Ok(None)
    }

    /// Leaves out what this job could cost, because it leaves the batch unbilled.
    pub(super) fn leave_out(&mut self, need: &Result<u64, Error>) {
        self.total -= need.as_ref().copied().unwrap_or(0);
    }

    /// Reserves exactly what the written jobs can cost.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        if self.reserved != self.total {
            self.reserve(self.total)?;
        }
        Ok(())
    }
}

/// Ends what is reserved in such budgets for a batch of this process that has ended or was not sent. If it may have been
/// billed and its cost is unknown, the reservation counts as spent.
pub(super) fn end_batch(
    context: &BatchContext,
    process: Option<ProcessId>,
    record: &Record,
    is_spent: bool,
) {
    let label = &record.intent.label;
    let of_payer = || record.payer.as_ref().and_then(|(_, owner)| owner.clone());
    let owner = match (&context.owners, process) {
        (Some(_), Some(process)) => context.store.process(process).map(|state| match state {
            Some(state) => state.info.owner,
            None => of_payer(),
        }),
        _ => Ok(of_payer()),
    };
    match owner.and_then(|owner| context.shared_budgets(owner.as_deref())) {
        Ok(budgets) => budgets
            .iter()
            .for_each(|budget| budget.end_batch(label, is_spent)),
        Err(error) => log::warn!("the reservation of batch {label} stays: {error}"),
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
    let Some(route) = context.settler.kinds.prompt_route() else {
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
