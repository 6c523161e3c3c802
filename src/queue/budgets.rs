//! What the calls of a worker may cost: the budgets of processes as its claims have read them, and its own calls that the
//! store does not know yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::base::{Context, Error, ErrorKind, Mark, Paid, ProcessId, Usd};
use crate::engine::route::Tries;
use crate::engine::run::Reply;
use crate::llm::pricing;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::route::Route;

use super::account::{Account, Cost, Part};
use super::job::ProcessState;
use super::kind::JobTask;
use super::store::{JobBudget, Store};

type Answers = Vec<Result<Response, Error>>;

/// A budget, and its jobs in a call with what each can cost.
type Need<'t> = (JobBudget, Vec<(&'t JobTask, u64)>);

/// From this number of processes on, those without calls are forgotten.
const MANY: usize = 1_000;

/// Interval of checks whether the worker goes on while a call waits for others.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The budgets of the processes whose jobs a worker has.
pub(crate) struct Budgets {
    store: Arc<Store>,
    accounts: Mutex<HashMap<ProcessId, Arc<Account>>>,
}

impl Budgets {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            accounts: Mutex::default(),
        }
    }

    fn account(&self, budget: JobBudget) -> Arc<Account> {
        let mut accounts = self.accounts.lock();
        if accounts.len() >= MANY {
            accounts.retain(|_, account| Arc::strong_count(account) > 1);
        }
        let new = || {
            Arc::new(Account {
                numbers: Mutex::new(budget),
                own: Mutex::default(),
                changed: Condvar::new(),
            })
        };
        let account = accounts.entry(budget.process).or_insert_with(new).clone();
        drop(accounts);
        account.note(budget);
        account
    }

    /// Takes over what the store has counted, before the tasks of recorded ends are dropped.
    pub(crate) fn note<'s>(&self, changed: impl Iterator<Item = &'s ProcessState>) {
        for state in changed {
            let Some(budget) = &state.budget else {
                continue;
            };
            let account = self.accounts.lock().get(&state.process_id).cloned();
            if let Some(account) = account {
                account.note(JobBudget {
                    process: state.process_id,
                    limit: budget.limit.picos(),
                    used: budget.used.saturating_sub(budget.held).picos(),
                    held: budget.held.picos(),
                    most: 0,
                });
            }
        }
    }

    /// Makes a call for these jobs within the budgets of their processes.
    ///
    /// # Errors
    /// [`ErrorKind::BudgetExceeded`] if a budget does not allow it; its process is closed then. [`ErrorKind::Invalid`] if the
    /// call has no upper bound.
    pub(crate) fn call(
        &self,
        route: &Route<'_>,
        pack: &[JobTask],
        requests: &[&Request],
        tries: &Tries,
        ctx: &Context,
        call: impl FnOnce() -> Reply<Answers>,
    ) -> Reply<Answers> {
        if pack.iter().all(|task| task.claimed.budget.is_none()) {
            return call();
        }
        if let Err(error) = self.hold_all(route, pack, requests, tries, ctx) {
            // A call that is partly affordable is not made.
            pack.iter().for_each(|task| *task.part.lock() = None);
            return error.into();
        }
        let reply = call();
        for (at, task) in pack.iter().enumerate() {
            if let Some(part) = &mut *task.part.lock() {
                let cost = cost(at, pack.len(), &reply, part.most);
                part.end(cost);
            }
        }
        reply
    }

    /// Reserves what a call for these jobs can cost. The jobs of a process are one amount, and the processes have an order, so
    /// that no two calls wait for each other.
    fn hold_all(
        &self,
        route: &Route<'_>,
        pack: &[JobTask],
        requests: &[&Request],
        tries: &Tries,
        ctx: &Context,
    ) -> Result<(), Error> {
        let mut needs: BTreeMap<ProcessId, Need<'_>> = BTreeMap::new();
        for (task, request) in pack.iter().zip(requests) {
            if let Some(budget) = task.claimed.budget {
                // It is not sent, which is no reason for other jobs to wait.
                let most = route.most(request, tries);
                let most = most.map_err(|error| Error::new(ErrorKind::Invalid, error.message()))?;
                let need = needs.entry(budget.process);
                let (_, parts) = need.or_insert_with(|| (budget, Vec::new()));
                parts.push((task, most));
            }
        }
        for (budget, parts) in needs.into_values() {
            let most = parts.iter().map(|(_, most)| *most);
            let all = most.fold(0, u64::saturating_add);
            let account = self.hold(budget, all, ctx)?;
            for (task, most) in parts {
                *task.part.lock() = Some(Part {
                    account: account.clone(),
                    most,
                    ended: None,
                });
            }
        }
        Ok(())
    }

    /// Reserves what a call can cost. While only other calls of this worker stand in the way, it waits for them.
    fn hold(&self, budget: JobBudget, most: u64, ctx: &Context) -> Result<Arc<Account>, Error> {
        let account = self.account(budget);
        self.note_most(&account, most)?;
        let mut own = account.own.lock();
        loop {
            let all = own.in_flight.checked_add(own.unrecorded);
            let all = all.and_then(|all| all.checked_add(most));
            if all.is_some_and(|all| all <= account.left()) {
                own.in_flight += most;
                break;
            }
            if own.in_flight == 0 {
                drop(own);
                let noted = self.store.note_refused(budget.process, most);
                noted.map_err(|error| unwritten(&error))?;
                return Err(refused("the budget of its process is used up"));
            }
            ctx.check_run()?;
            // The context cannot wake this wait.
            let _ = account.changed.wait_for(&mut own, LOOK_AGAIN);
        }
        drop(own);
        Ok(account)
    }

    /// Has the store know before the call what it can cost, so that a crash of this worker counts with that. The next power of
    /// two, so that there are few writes.
    fn note_most(&self, account: &Account, most: u64) -> Result<(), Error> {
        let known = *account.numbers.lock();
        if most > known.most {
            let most = most.checked_next_power_of_two().unwrap_or(most);
            let noted = self.store.note_most(known.process, most);
            noted.map_err(|error| unwritten(&error))?;
            account.numbers.lock().most = most;
        }
        Ok(())
    }
}

/// The job goes back to the queue.
fn refused(why: &str) -> Error {
    Error::new(ErrorKind::BudgetExceeded, why).marked(Mark::ProcessPaused)
}

/// Nothing is wrong with the job or its provider while the store fails, so the call is not made.
fn unwritten(error: &Error) -> Error {
    refused(&format!(
        "the budget of its process cannot be written: {}",
        error.message()
    ))
}

/// What the part at this position of `parts` has cost. The reply of a call for one job shows what it cost without earlier ones.
/// What a failed call for several jobs cost is divided between them.
fn cost(at: usize, parts: usize, reply: &Reply<Answers>, most: u64) -> Cost {
    let known = |picos| Cost {
        picos,
        is_known: true,
    };
    let part = reply.result.as_ref().map(|answers| answers.get(at));
    let (paid, error) = match part {
        Err(error) => {
            let all = reply.paid.cost_usd.map(Usd::picos);
            if let Some(all) = all.filter(|_| parts > 1) {
                return known(all.div_ceil(parts as u64));
            }
            (reply.paid, Some(error))
        }
        Ok(Some(Err(error))) => (error.paid(), Some(error)),
        Ok(_) if parts == 1 => (reply.paid, None),
        Ok(Some(Ok(answer))) => (answer.paid(), None),
        Ok(None) => (Paid::default(), None),
    };
    let is_known = paid.cost_usd.is_some();
    let picos = pricing::spent(paid, error).unwrap_or(most);
    Cost { picos, is_known }
}

#[cfg(test)]
#[path = "budgets_tests.rs"]
mod tests;
