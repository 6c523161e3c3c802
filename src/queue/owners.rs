//! What the owners of processes may spend in a day and in a month.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::base::{Clock, Day, Error, ErrorKind, Mark, ProcessId, Usd};
use crate::money::account::{Account, Period};
use crate::money::budget::{Amount, Budget, LimitReached, Reservation};
use crate::money::ledger::LedgerQuery;

use super::store::JobStore;

/// A job whose owner may spend nothing more is tried again after this time; sooner, if calls in flight may return enough.
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
    /// Why the limits of an owner could not be checked the last time.
    troubles: Mutex<HashMap<String, String>>,
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
            troubles: Mutex::default(),
        }
    }

    /// The budgets of an owner.
    ///
    /// # Errors
    /// If the ledger or a file of them cannot be read.
    pub(crate) fn of(&self, owner: &str) -> Result<Vec<Budget>, Error> {
        let limits = self.limits(owner);
        limits
            .map(|(period, limit)| self.budget(owner, period, limit))
            .collect()
    }

    /// The limits that are set for an owner now.
    fn limits(&self, owner: &str) -> impl Iterator<Item = (Period, Usd)> {
        let limits = (self.find)(owner);
        let limits = [
            (Period::Day, limits.usd_per_day),
            (Period::Month, limits.usd_per_month),
        ];
        limits
            .into_iter()
            .filter_map(|(period, limit)| Some((period, limit?)))
    }

    fn budget(&self, owner: &str, period: Period, limit: Usd) -> Result<Budget, Error> {
        let key = (owner.to_owned(), period);
        let known = {
            let mut budgets = self.budgets.lock();
            let known = budgets.get_mut(&key);
            let known = known.filter(|(_, budget)| budget.limit() == Amount::Usd(limit));
            if let Some((read, budget)) = known {
                if read.elapsed() < READ_AGAIN {
                    return Ok(budget.clone());
                }
                // Other calls do not read the ledger meanwhile.
                *read = Instant::now();
                Some(budget.clone())
            } else {
                None
            }
        };
        let budget = match known {
            Some(budget) => budget,
            None => {
                let (name, word) = match period {
                    Period::Day => ("daily", "day"),
                    Period::Month => ("monthly", "month"),
                };
                // As the setting of a server's token is called.
                let file = ProcessId::named(owner.as_bytes());
                let file = self.folder.join(format!("{file}-{word}.json"));
                let name = format!("the {name} limit of {owner} (usd-per-{word})");
                let account = Account::new(&name, file, period, self.clock.clone());
                Budget::of_account(limit, account)
            }
        };
        if let Some(since) = budget.period() {
            budget.count_at_least(since, self.billed(owner, since)?)?;
        }
        let mut budgets = self.budgets.lock();
        let (read, kept) = budgets
            .entry(key)
            .or_insert_with(|| (Instant::now(), budget.clone()));
        *read = Instant::now();
        // Another call may have made it meanwhile. Each budget knows its own calls in flight only.
        if kept.limit() != budget.limit() {
            *kept = budget;
        }
        Ok(kept.clone())
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
        self.note(owner, reserved.as_ref().err());
        reserved.map_err(|error| {
            if error.is_marked(Mark::Unbounded) {
                return Error::new(ErrorKind::Invalid, error.message());
            }
            let is_checked = error.kind() == ErrorKind::BudgetExceeded;
            let long = if is_checked { OWNER_AGAIN } else { READ_AGAIN };
            Error::new(ErrorKind::BudgetExceeded, error.message())
                .marked(Mark::ProcessPaused)
                .with_retry_after(error.retry_after().or(Some(long)))
        })
    }

    /// Records why the limits of an owner could not be checked, and logs it once.
    fn note(&self, owner: &str, error: Option<&Error>) {
        let trouble = error.filter(|error| error.kind() != ErrorKind::BudgetExceeded);
        let mut troubles = self.troubles.lock();
        match trouble {
            None => drop(troubles.remove(owner)),
            Some(error) => {
                let why = format!("the limits of {owner} cannot be checked: {error}");
                if troubles.insert(owner.to_owned(), why.clone()).as_ref() != Some(&why) {
                    log::warn!("{why}");
                }
            }
        }
    }

    /// Why the limits of an owner could not be checked the last time.
    pub(crate) fn trouble(&self, owner: &str) -> Option<String> {
        let trouble = self.troubles.lock().get(owner).cloned();
        trouble.filter(|_| self.limits(owner).next().is_some())
    }

    /// The limit of an owner that allows no further call.
    pub(crate) fn limit_reached(&self, owner: &str) -> Option<LimitReached> {
        self.known(owner).iter().find_map(Budget::reached)
    }

    /// The budgets of the limits that are set now, if a call was made within them.
    fn known(&self, owner: &str) -> Vec<Budget> {
        let limits = self.limits(owner);
        let known = self.budgets.lock();
        let budgets = limits.filter_map(|(period, limit)| {
            let (_, budget) = known.get(&(owner.to_owned(), period))?;
            (budget.limit() == Amount::Usd(limit)).then(|| budget.clone())
        });
        budgets.collect()
    }
}

/// Reserves an amount in all of these budgets, or in none.
///
/// # Errors
/// [`ErrorKind::BudgetExceeded`] if it does not fit; another kind if a record cannot be written.
fn reserve_all(budgets: &[Budget], most: u64) -> Result<Vec<Reservation>, Error> {
    let mut held = Vec::with_capacity(budgets.len());
    let release = |held: Vec<Reservation>| held.into_iter().for_each(|held| held.settle(0));
    for budget in budgets {
        match budget.try_reserve(most) {
            Ok(reserved) => held.push(reserved),
            Err(error) => {
                release(held);
                return Err(error);
            }
        }
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::{fs, thread};

    use super::*;
    use crate::base::{SystemClock, Time, Timestamp};
    use crate::money::account::LOOK_AGAIN;
    use crate::queue::store::sqlite::{SqliteOptions, SqliteStore};

    /// Owners with one daily limit, which can change.
    fn owners(folder: &tempfile::TempDir, limit: &Arc<Mutex<Option<u64>>>) -> Owners {
        let limit = limit.clone();
        let find = move |_: &str| OwnerLimits {
            usd_per_day: limit.lock().map(Usd::from_picos),
            ..OwnerLimits::default()
        };
        let store = SqliteStore::in_memory(SqliteOptions::default()).unwrap();
        let folder = folder.path().to_owned();
        Owners::new(
            folder,
            Arc::new(find),
            Arc::new(store),
            Arc::new(SystemClock),
        )
    }

    fn settle(held: Vec<Reservation>, spent: u64) {
        held.into_iter().for_each(|held| held.settle(spent));
    }

    fn refused(owners: &Owners, most: u64) -> Error {
        owners.reserve("shop", most).map(drop).unwrap_err()
    }

    #[test]
    fn a_changed_limit_applies_at_once() {
        let (folder, limit) = (
            tempfile::tempdir().unwrap(),
            Arc::new(Mutex::new(Some(100))),
        );
        let owners = owners(&folder, &limit);
        settle(owners.reserve("shop", 90).unwrap(), 90);
        refused(&owners, 20);
        assert!(owners.limit_reached("shop").is_some());
        *limit.lock() = Some(200);
        assert_eq!(owners.limit_reached("shop"), None);
        settle(owners.reserve("shop", 90).unwrap(), 90);
        refused(&owners, 30);
        assert!(owners.limit_reached("shop").is_some());
        *limit.lock() = None;
        assert_eq!(owners.limit_reached("shop"), None);
        settle(owners.reserve("shop", 300).unwrap(), 0);
    }

    #[test]
    fn a_call_near_the_limit_waits_for_those_in_flight_before_it_sleeps() {
        let (folder, limit) = (
            tempfile::tempdir().unwrap(),
            Arc::new(Mutex::new(Some(100))),
        );
        let owners = owners(&folder, &limit);
        let in_flight = owners.reserve("shop", 90).unwrap();
        assert_eq!(refused(&owners, 20).retry_after(), Some(LOOK_AGAIN));
        assert!(owners.limit_reached("shop").is_some());
        settle(in_flight, 1);
        settle(owners.reserve("shop", 20).unwrap(), 1);
        assert_eq!(owners.limit_reached("shop"), None);
        settle(owners.reserve("shop", 90).unwrap(), 90);
        assert_eq!(refused(&owners, 20).retry_after(), Some(OWNER_AGAIN));
    }

    /// Its first two readings wait for each other.
    struct Meeting(SystemClock, AtomicUsize, Barrier);

    impl Clock for Meeting {
        fn now(&self) -> Time {
            self.0.now()
        }

        fn wall(&self) -> Timestamp {
            if self.1.fetch_add(1, Ordering::SeqCst) < 2 {
                self.2.wait();
            }
            self.0.wall()
        }
    }

    #[test]
    fn the_first_calls_of_an_owner_know_of_each_other() {
        let (folder, limit) = (
            tempfile::tempdir().unwrap(),
            Arc::new(Mutex::new(Some(100))),
        );
        let clock = Meeting(SystemClock, AtomicUsize::new(0), Barrier::new(2));
        let owners = Owners {
            clock: Arc::new(clock),
            ..owners(&folder, &limit)
        };
        let both = thread::scope(|scope| {
            let calls = [(); 2].map(|()| scope.spawn(|| owners.reserve("shop", 90)));
            calls.map(|call| call.join().unwrap())
        });
        let errors: Vec<_> = both.iter().filter_map(|call| call.as_ref().err()).collect();
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].retry_after(), Some(LOOK_AGAIN));
    }

    #[test]
    fn limits_that_cannot_be_checked_are_the_reason_until_they_can() {
        let (folder, limit) = (
            tempfile::tempdir().unwrap(),
            Arc::new(Mutex::new(Some(100))),
        );
        let owners = owners(&folder, &limit);
        settle(owners.reserve("shop", 1).unwrap(), 1);
        let mut files = fs::read_dir(folder.path()).unwrap();
        let file = files.find_map(|file| {
            let file = file.unwrap().path();
            (file.extension() == Some("json".as_ref())).then_some(file)
        });
        let file = file.unwrap();
        let text = fs::read(&file).unwrap();
        fs::write(&file, "[").unwrap();
        let error = refused(&owners, 50);
        assert_eq!(error.retry_after(), Some(READ_AGAIN));
        let why = owners.trouble("shop").unwrap();
        assert!(
            why.contains("the limits of shop cannot be checked"),
            "{why}"
        );
        fs::write(&file, text).unwrap();
        let held = loop {
            match owners.reserve("shop", 50) {
                Ok(held) => break held,
                Err(_) => std::thread::sleep(LOOK_AGAIN / 10),
            }
        };
        settle(held, 1);
        assert_eq!(owners.trouble("shop"), None);
    }
}
