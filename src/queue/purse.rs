//! What a worker has drawn from the budgets of processes, so that most calls need no write.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::base::{Clock, Context, Error, ErrorKind, Mark, Paid, Sent, Usd, WarnOnce};
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

type Answers = Vec<Result<Response, Error>>;

/// The purses of a worker, one for each budget.
pub(crate) struct Purses {
    store: Arc<dyn JobStore>,
    clock: Arc<dyn Clock>,
    purses: Mutex<HashMap<JobBudget, Arc<Shared>>>,
    /// The worker ends: what comes back is returned at once.
    is_closed: AtomicBool,
    draw_again: Duration,
}

/// A purse. It is never locked while the store is read or written, so that calls can end meanwhile.
#[derive(Default)]
struct Shared {
    purse: Mutex<Purse>,
    /// A draw has ended.
    drawn: Condvar,
}

/// An amount that was drawn from a budget.
#[derive(Debug, Default)]
struct Purse {
    /// Not reserved for a call.
    free: u64,
    /// Spent beyond what was drawn, and not yet booked.
    owed: u64,
    /// Calls in flight.
    calls: usize,
    /// A call draws from the store; the others wait for it.
    is_drawing: bool,
    /// A draw was refused: from then on, what comes back is returned soon, because the process may wait for it, also
    /// after later draws that were successful.
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
    /// What the part at this position of `parts` has cost. The reply of a call for one job shows what it cost without
    /// earlier ones. What a failed call for several jobs cost is divided between them.
    fn spent(&self, at: usize, parts: usize, reply: &Reply<Answers>) -> u64 {
        if self.budget.is_none() {
            return 0;
        }
        let part = reply.result.as_ref().map(|answers| answers.get(at));
        let (paid, error) = match part {
            Err(error) => {
                let all = reply.paid.cost_usd.map(Usd::picos);
                if let Some(all) = all.filter(|_| parts > 1) {
                    return all.div_ceil(parts as u64);
                }
                (reply.paid, Some(error))
            }
            Ok(Some(Err(error))) => (error.paid(), Some(error)),
            Ok(_) if parts == 1 => (reply.paid, None),
            Ok(Some(Ok(answer))) => (answer.paid(), None),
            Ok(None) => (Paid::default(), None),
        };
        spending::spent(paid, error, self.most)
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
            is_closed: AtomicBool::new(false),
            draw_again: DRAW_AGAIN,
        }
    }

    fn purse(&self, budget: JobBudget) -> Arc<Shared> {
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
            match self.most(budget, task, route, request, tries, ctx) {
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
            let spent = need.spent(at, needs.len(), &reply);
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
        task: &JobTask,
        route: &Route<'_>,
        request: &Request,
        tries: &Tries,
        ctx: &Context,
    ) -> Result<u64, Error> {
        match route.most(request, tries) {
            Ok(most) => Ok(most),
            Err(error) => {
                let why = format!("{} (job {})", error.message(), task.claimed.job_id);
                self.patiently(ctx, || self.store.stop_budget(budget, &why).map(Some))?;
                Err(error.marked(Mark::ProcessPaused))
            }
        }
    }

    /// Reserves what a call can cost. `None` if nothing limits it.
    fn hold(&self, budget: JobBudget, most: u64, ctx: &Context) -> Result<Option<Held<'_>>, Error> {
        let shared = self.purse(budget);
        let drawn = self.patiently(ctx, || self.take(&shared, budget, most))?;
        match drawn {
            BudgetDraw::Drawn(_) => Ok(Some(Held {
                purses: self,
                budget,
                most,
                is_settled: false,
            })),
            BudgetDraw::Unlimited => Ok(None),
            BudgetDraw::Paused => Err(refused("the budget of its process is used up")),
        }
    }

    /// Takes an amount from a purse, after a draw if it is too small. `None` if another call was drawing.
    fn take(
        &self,
        shared: &Shared,
        budget: JobBudget,
        most: u64,
    ) -> Result<Option<BudgetDraw>, Error> {
        let mut purse = shared.purse.lock();
        purse.is_used = true;
        if purse.free < most {
            if purse.is_drawing {
                shared.drawn.wait_for(&mut purse, self.draw_again);
                return Ok(None);
            }
            purse.is_drawing = true;
            let back = std::mem::take(&mut purse.free);
            drop(purse);
            let wall = self.clock.wall();
            let drawn = self.store.draw_budget(budget, back, most, wall);
            purse = shared.purse.lock();
            purse.is_drawing = false;
            shared.drawn.notify_all();
            match drawn {
                Ok(BudgetDraw::Drawn(drawn)) => {
                    purse.free = purse.free.saturating_add(drawn);
                }
                Ok(BudgetDraw::Paused) => {
                    if !std::mem::replace(&mut purse.is_short, true) {
                        log::info!("a process waits because its budget is used up");
                    }
                    // The last call in flight may have ended during the draw and left its rest here: a worker that ends
                    // when nothing is left to do would end before the process goes on with it.
                    let is_last = purse.calls == 0;
                    drop(purse);
                    if is_last {
                        self.book(budget, shared, true);
                    }
                    return Ok(Some(BudgetDraw::Paused));
                }
                Ok(other) => return Ok(Some(other)),
                Err(error) => {
                    // If it may have been returned, it must not be spent.
                    if error.sent() != Sent::Maybe {
                        purse.free = purse.free.saturating_add(back);
                    }
                    return Err(error);
                }
            }
        }
        purse.free -= most;
        purse.calls += 1;
        Ok(Some(BudgetDraw::Drawn(most)))
    }

    /// Repeats an access to the store until it is successful. Nothing is wrong with the job or its provider while the store
    /// fails, so the call waits, and then it is not made.
    fn patiently<T>(
        &self,
        ctx: &Context,
        mut attempt: impl FnMut() -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let mut trouble = WarnOnce::default();
        let mut failures = 0;
        while failures < MOST_DRAWS {
            match attempt() {
                Ok(Some(done)) => return Ok(done),
                Ok(None) => {}
                Err(error) => {
                    failures += 1;
                    trouble.warn(format!(
                        "calls wait for the budget of their process: {error}"
                    ));
                    ctx.cancel_signal().wait(self.draw_again);
                }
            }
            ctx.check()?;
            if ctx.is_run_cancelled() {
                return Err(Error::cancelled());
            }
        }
        Err(refused(
            "the budget of its process cannot be read or written",
        ))
    }

    /// Returns what no call has used since the last look, and everything for which a process waits.
    pub(crate) fn return_unused(&self) {
        self.return_free(|purse| {
            let is_used = std::mem::take(&mut purse.is_used);
            purse.is_short || !is_used && purse.calls == 0
        });
        let mut purses = self.purses.lock();
        purses.retain(|_, shared| {
            Arc::strong_count(shared) > 1 || {
                let purse = shared.purse.lock();
                purse.free > 0 || purse.owed > 0 || purse.calls > 0 || purse.is_used
            }
        });
    }

    /// Returns everything that is left, and later what comes back from calls that still run.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
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
        for (budget, shared) in purses {
            if goes(&mut shared.purse.lock()) {
                self.book(budget, &shared, true);
            }
        }
    }

    /// Books what is owed, and with `all` also returns what is free. What could not be written is tried again later.
    fn book(&self, budget: JobBudget, shared: &Shared, all: bool) {
        let (free, owed) = {
            let mut purse = shared.purse.lock();
            let free = if all { purse.free } else { 0 };
            purse.free -= free;
            (free, std::mem::take(&mut purse.owed))
        };
        let amount = i128::from(free) - i128::from(owed);
        if amount == 0 {
            return;
        }
        let bounded = i64::try_from(amount).unwrap_or(if amount < 0 { i64::MIN } else { i64::MAX });
        let wall = self.clock.wall();
        if let Err(error) = self.store.return_budget(budget, bounded, wall) {
            if error.sent() == Sent::Maybe {
                log::warn!("the budget of a process counts too much or too little: {error}");
                return;
            }
            log::warn!("cannot write what calls have cost to the budget of their process: {error}");
            let mut purse = shared.purse.lock();
            purse.free = purse.free.saturating_add(free);
            purse.owed = purse.owed.saturating_add(owed);
        }
    }
}

/// Returns everything that is left when it is dropped, also after an error.
pub(crate) struct ClosePurses<'p>(pub &'p Purses);

impl Drop for ClosePurses<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn refused(why: &str) -> Error {
    Error::new(ErrorKind::BudgetExceeded, why).marked(Mark::ProcessPaused)
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
        let shared = self.purses.purse(self.budget);
        let (is_owing, returns) = {
            let mut purse = shared.purse.lock();
            purse.calls = purse.calls.saturating_sub(1);
            let all = purse.free.saturating_add(self.most);
            purse.free = all.saturating_sub(spent);
            purse.owed = purse.owed.saturating_add(spent.saturating_sub(all));
            // Near the limit, each return may resume the whole process, so `return_unused` returns what other calls leave.
            let is_last = purse.is_short && purse.calls == 0;
            let is_closed = self.purses.is_closed.load(Ordering::SeqCst);
            (purse.owed > 0, is_closed || is_last)
        };
        if is_owing || returns {
            self.purses.book(self.budget, &shared, returns);
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.end(self.most);
    }
}

#[cfg(test)]
#[path = "purse_tests.rs"]
mod tests;
