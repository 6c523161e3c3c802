//! What a worker has drawn from the budgets of processes, so that most calls need no write.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::base::cancel::Context;
use crate::base::clock::Clock;
use crate::base::error::{Error, ErrorKind};
use crate::base::usage::Paid;
use crate::base::warn_once::WarnOnce;
use crate::engine::route::Tries;
use crate::engine::run::Reply;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::route::Route;
use crate::llm::spending;

use super::store::{BudgetDraw, JobBudget, JobStore};
use super::task::JobTask;

/// How often, and at which interval, a worker tries to draw from a store that cannot be written.
const MOST_DRAWS: u32 = 60;
const DRAW_AGAIN: Duration = Duration::from_secs(1);

/// How long it is tried to return an amount while a call draws.
const LONGEST_LOOK: Duration = Duration::from_millis(100);

type Answers = Vec<Result<Response, Error>>;

/// The purses of a worker, one for each budget.
pub(crate) struct Purses {
    store: Arc<dyn JobStore>,
    clock: Arc<dyn Clock>,
    purses: Mutex<HashMap<JobBudget, Arc<Mutex<Purse>>>>,
}

/// An amount that was drawn from a budget.
#[derive(Debug, Default)]
struct Purse {
    /// Not reserved for a call.
    free: u64,
    /// Calls in flight.
    calls: usize,
    /// The last draw was refused: each amount that comes back is returned at once, because the process waits for it.
    is_short: bool,
    /// A call has used it since the last look.
    is_used: bool,
}

/// What is reserved for a call. If it is dropped unsettled, the call counts as the most that it can cost.
struct Held<'p> {
    purses: &'p Purses,
    budget: JobBudget,
    most: u64,
    is_settled: bool,
}

/// What the part of a call for one job can cost.
#[derive(Clone, Copy, Default)]
struct Need {
    budget: Option<JobBudget>,
    most: u64,
}

impl Need {
    /// What the part at this position has cost. The reply of a call `for_one` job shows what it cost without earlier ones.
    fn spent(&self, at: usize, for_one: bool, reply: &Reply<Answers>) -> u64 {
        let Some(budget) = self.budget else {
            return 0;
        };
        let part = reply.result.as_ref().map(|answers| answers.get(at));
        let (paid, error) = match part {
            Err(error) => (reply.paid, Some(error)),
            Ok(Some(Err(error))) => (error.paid(), Some(error)),
            Ok(_) if for_one => (reply.paid, None),
            Ok(Some(Ok(answer))) => (answer.paid(), None),
            Ok(None) => (Paid::default(), None),
        };
        spending::spent(budget.unit, paid, error, self.most)
    }
}

/// Sums for each budget.
fn by_budget(parts: impl Iterator<Item = (Option<JobBudget>, u64)>) -> BTreeMap<JobBudget, u64> {
    let mut sums = BTreeMap::new();
    for (budget, part) in parts {
        if let Some(budget) = budget {
            let sum: &mut u64 = sums.entry(budget).or_default();
            *sum = sum.saturating_add(part);
        }
    }
    sums
}

impl Purses {
    pub(crate) fn new(store: Arc<dyn JobStore>, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            clock,
            purses: Mutex::default(),
        }
    }

    fn purse(&self, budget: JobBudget) -> Arc<Mutex<Purse>> {
        self.purses.lock().entry(budget).or_default().clone()
    }

    /// Makes a call for these jobs within the budgets of their processes.
    ///
    /// # Errors
    /// [`ErrorKind::BudgetExceeded`] if a budget does not allow it; its process is paused then.
    pub(crate) fn call(
        &self,
        route: &Route<'_>,
        pack: &[&JobTask],
        requests: &[&Request],
        tries: &Tries,
        ctx: &Context,
        call: impl FnOnce() -> Reply<Answers>,
    ) -> Reply<Answers> {
        // Reserved as one amount, because a call that is partly affordable is not made.
        let mut needs: Vec<Need> = Vec::new();
        for (task, request) in pack.iter().zip(requests) {
            let Some(budget) = task.claimed.budget else {
                needs.push(Need::default());
                continue;
            };
            match self.most(budget, route, request, tries) {
                Ok(most) => needs.push(Need {
                    budget: Some(budget),
                    most,
                }),
                Err(error) => return error.into(),
            }
        }
        let mut held = Vec::new();
        for (budget, most) in by_budget(needs.iter().map(|need| (need.budget, need.most))) {
            match self.hold(budget, most, ctx) {
                Ok(one) => held.extend(one),
                Err(error) => {
                    held.into_iter().for_each(|held: Held<'_>| held.settle(0));
                    return error.into();
                }
            }
        }
        let reply = call();
        let spent = by_budget(needs.iter().enumerate().map(|(at, need)| {
            let spent = need.spent(at, needs.len() == 1, &reply);
            (need.budget, spent)
        }));
        for held in held {
            let spent = spent.get(&held.budget).copied().unwrap_or(held.most);
            held.settle(spent);
        }
        reply
    }

    /// What a call can cost at most; without a bound, the process is paused.
    fn most(
        &self,
        budget: JobBudget,
        route: &Route<'_>,
        request: &Request,
        tries: &Tries,
    ) -> Result<u64, Error> {
        match route.most(budget.unit, request, tries) {
            Ok(most) => Ok(most),
            Err(error) => {
                self.store.stop_budget(budget, error.message())?;
                Err(error.with_process_paused())
            }
        }
    }

    /// Reserves what a call can cost. `None` if nothing limits it.
    fn hold(&self, budget: JobBudget, most: u64, ctx: &Context) -> Result<Option<Held<'_>>, Error> {
        let purse = self.purse(budget);
        let mut purse = purse.lock();
        purse.is_used = true;
        if purse.free < most {
            // If the outcome is unknown, what was returned must not be spent.
            let back = std::mem::take(&mut purse.free);
            match self.draw(budget, back, most, ctx)? {
                BudgetDraw::Drawn(drawn) => (purse.free, purse.is_short) = (drawn, false),
                BudgetDraw::Unlimited => return Ok(None),
                BudgetDraw::Paused => {
                    if !std::mem::replace(&mut purse.is_short, true) {
                        log::info!("a process waits because its budget is used up");
                    }
                    return Err(refused("the budget of its process is used up"));
                }
                BudgetDraw::OtherUnit => {
                    return Err(refused("the budget of its process has changed"));
                }
            }
        }
        purse.free -= most;
        purse.calls += 1;
        Ok(Some(Held {
            purses: self,
            budget,
            most,
            is_settled: false,
        }))
    }

    /// Draws from the store. Nothing is wrong with the job while the store cannot be written, so it waits for that.
    fn draw(
        &self,
        budget: JobBudget,
        mut back: u64,
        most: u64,
        ctx: &Context,
    ) -> Result<BudgetDraw, Error> {
        let mut trouble = WarnOnce::default();
        for _ in 0..MOST_DRAWS {
            let drawn = self
                .store
                .draw_budget(budget, back, most, self.clock.wall());
            match drawn {
                Err(error) if error.kind() == ErrorKind::Transient => {
                    // It may have been returned.
                    back = 0;
                    trouble.warn(format!(
                        "calls wait for the budget of their process: {error}"
                    ));
                }
                other => return other,
            }
            ctx.cancel_signal().wait(DRAW_AGAIN);
            ctx.check()?;
            if ctx.is_run_cancelled() {
                return Err(Error::cancelled());
            }
        }
        let why = "the budget of the process cannot be read or written";
        Err(Error::new(ErrorKind::Transient, why).with_storage())
    }

    /// Returns what no call has used since the last look.
    pub(crate) fn return_unused(&self) {
        self.return_free(|purse| !std::mem::take(&mut purse.is_used) && purse.calls == 0);
        let mut purses = self.purses.lock();
        purses.retain(|_, purse| {
            Arc::strong_count(purse) > 1 || {
                let purse = purse.lock();
                purse.free > 0 || purse.calls > 0 || purse.is_used
            }
        });
    }

    /// Returns everything that is left.
    pub(crate) fn close(&self) {
        self.return_free(|_| true);
    }

    fn return_free(&self, goes: impl Fn(&mut Purse) -> bool) {
        let purses: Vec<_> = {
            let purses = self.purses.lock();
            let purses = purses.iter();
            purses
                .map(|(budget, purse)| (*budget, purse.clone()))
                .collect()
        };
        for (budget, purse) in purses {
            // A call may hold it while it waits for the store.
            let Some(mut purse) = purse.try_lock_for(LONGEST_LOOK) else {
                continue;
            };
            if goes(&mut purse) && purse.free > 0 {
                self.give_back(budget, &mut purse);
            }
        }
    }

    fn give_back(&self, budget: JobBudget, purse: &mut Purse) {
        let free = i64::try_from(std::mem::take(&mut purse.free)).unwrap_or(i64::MAX);
        self.booked(budget, free);
    }

    /// An amount that could not be written stays spent.
    fn booked(&self, budget: JobBudget, amount: i64) {
        if let Err(error) = self.store.return_budget(budget, amount, self.clock.wall()) {
            log::warn!("the budget of a process counts too much or too little: {error}");
        }
    }
}

fn refused(why: &str) -> Error {
    Error::new(ErrorKind::BudgetExceeded, why).with_process_paused()
}

impl Held<'_> {
    /// Counts what the call cost.
    fn settle(mut self, spent: u64) {
        self.end(spent);
    }

    fn end(&mut self, spent: u64) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let purse = self.purses.purse(self.budget);
        let mut purse = purse.lock();
        purse.calls = purse.calls.saturating_sub(1);
        let all = purse.free.saturating_add(self.most);
        purse.free = all.saturating_sub(spent);
        if spent > all {
            let more = i64::try_from(spent - all).unwrap_or(i64::MAX);
            self.purses.booked(self.budget, -more);
        }
        if purse.is_short && purse.free > 0 {
            self.purses.give_back(self.budget, &mut purse);
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.end(self.most);
    }
}
