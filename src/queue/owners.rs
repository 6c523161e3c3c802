//! What the owners of processes may spend in a day and in a month.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::base::clock::Clock;
use crate::base::day::Day;
use crate::base::error::{Error, ErrorKind};
use crate::base::id::ProcessId;
use crate::base::usd::Usd;
use crate::money::account::{Account, Period};
use crate::money::budget::{Amount, Budget, Reservation};
use crate::money::ledger::LedgerQuery;

use super::store::JobStore;

/// A job whose owner may spend nothing more is tried again after this time.
pub(crate) const OWNER_AGAIN: Duration = Duration::from_secs(5 * 60);

/// Picodollars that are reserved for a call without an upper bound: it needs a limit that is not used up, and counts when
/// it has ended.
pub(crate) const WITHOUT_BOUND: u64 = 1;

/// How often the ledger is read: other programs without these limits may work for the same owner.
const READ_AGAIN: Duration = Duration::from_secs(10);

/// Limits of what the calls for the processes of an [owner](crate::queue::ProcessInfo::owner) may cost. Default: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnerLimits {
    /// The limit for each day (UTC).
    pub usd_per_day: Option<Usd>,
    /// The limit for each month (UTC).
    pub usd_per_month: Option<Usd>,
}

/// Finds the limits of an owner.
pub(crate) type FindLimits = Arc<dyn Fn(&str) -> OwnerLimits + Send + Sync>;

/// The budgets of all owners.
pub(crate) struct Owners {
    folder: PathBuf,
    find: FindLimits,
    store: Arc<dyn JobStore>,
    clock: Arc<dyn Clock>,
    budgets: Mutex<HashMap<(String, Period), (Instant, Budget)>>,
}

impl Owners {
    pub(crate) fn new(
        folder: PathBuf,
        find: FindLimits,
        store: Arc<dyn JobStore>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            folder,
            find,
            store,
            clock,
            budgets: Mutex::default(),
        }
    }

    /// The budgets of an owner.
    ///
    /// # Errors
    /// If the ledger or a file of them cannot be read.
    pub(crate) fn of(&self, owner: &str) -> Result<Vec<Budget>, Error> {
        let limits = (self.find)(owner);
        let limits = [
            (Period::Day, limits.usd_per_day),
            (Period::Month, limits.usd_per_month),
        ];
        let set = limits
            .into_iter()
            .filter_map(|(period, limit)| Some((period, limit?)));
        set.map(|(period, limit)| self.budget(owner, period, limit))
            .collect()
    }

    fn budget(&self, owner: &str, period: Period, limit: Usd) -> Result<Budget, Error> {
        let key = (owner.to_owned(), period);
        let known = self.budgets.lock().get(&key).cloned();
        let known = known.filter(|(_, budget)| budget.limit() == Amount::Usd(limit));
        if let Some((read, budget)) = &known
            && read.elapsed() < READ_AGAIN
        {
            return Ok(budget.clone());
        }
        let budget = match known {
            Some((_, budget)) => budget,
            None => {
                let (name, word) = match period {
                    Period::Day => ("daily", "day"),
                    Period::Month => ("monthly", "month"),
                };
                let file = ProcessId::named(owner.as_bytes());
                let file = self.folder.join(format!("{file}-{word}.json"));
                let name = format!("the {name} limit of {owner}");
                let account = Account::new(&name, file, period, self.clock.clone());
                Budget::of_account(limit, account)
            }
        };
        if let Some(since) = budget.period() {
            budget.count_at_least(self.billed(owner, since)?)?;
        }
        let mut budgets = self.budgets.lock();
        budgets.insert(key, (Instant::now(), budget.clone()));
        Ok(budget)
    }

    fn billed(&self, owner: &str, since: Day) -> Result<Usd, Error> {
        let query = LedgerQuery::default().between(Some(since), None);
        let sums = self
            .store
            .charge_sums(&query.owner(Some(owner.to_owned())))?;
        Ok(sums.first().map_or(Usd::ZERO, |row| row.sum.cost_usd))
    }

    /// Reserves what a call for an owner can cost.
    ///
    /// # Errors
    /// [`ErrorKind::BudgetExceeded`] if a limit does not allow it, or cannot be checked; [`ErrorKind::Invalid`] if it is
    /// more than a whole limit.
    pub(crate) fn reserve(&self, owner: &str, most: u64) -> Result<Vec<Reservation>, Error> {
        let reserved = self
            .of(owner)
            .and_then(|budgets| reserve_all(&budgets, most));
        reserved.map_err(|error| {
            if error.is_unbounded() {
                return Error::new(ErrorKind::Invalid, error.message());
            }
            Error::new(ErrorKind::BudgetExceeded, error.message())
                .with_process_paused()
                .with_retry_after(Some(OWNER_AGAIN))
        })
    }

    /// Why calls for an owner are not made at the moment: the last one did not fit into a limit.
    pub(crate) fn used_up(&self, owner: &str) -> Option<String> {
        let budgets: Vec<Budget> = {
            let known = self.budgets.lock();
            let own = known.iter().filter(|((name, _), _)| name == owner);
            own.map(|(_, (_, budget))| budget.clone()).collect()
        };
        budgets.iter().find_map(Budget::used_up)
    }
}

/// Reserves an amount in all of these budgets, or in none.
///
/// # Errors
/// [`ErrorKind::BudgetExceeded`] if it does not fit; another kind if a record cannot be written.
pub(crate) fn reserve_all(budgets: &[Budget], most: u64) -> Result<Vec<Reservation>, Error> {
    let mut held = Vec::with_capacity(budgets.len());
    let release = |held: Vec<Reservation>| held.into_iter().for_each(|held| held.settle(0));
    for budget in budgets {
        match budget.reserve_now(most) {
            Ok(Some(reserved)) => held.push(reserved),
            Ok(None) => {
                release(held);
                return Err(budget.refuse(most));
            }
            Err(error) => {
                release(held);
                return Err(error);
            }
        }
    }
    Ok(held)
}
