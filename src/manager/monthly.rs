//! The budget of a data folder for each month.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{Day, Error, ErrorKind, SystemClock, Usd};
use crate::config::settings::Settings;
use crate::money::account::{Account, Period};
use crate::money::books::RunBook;
use crate::money::budget::Budget;
#[cfg(feature = "queue")]
use crate::queue::host::JobQueue;

/// What all work of a data folder may cost in a calendar month (UTC): the setting `llm.monthly_budget`. It counts the
/// ledger of the folder, and what is reserved for calls and batches. All OS processes with this folder share it.
///
/// A call counts in the month in which it ends. What a batch can cost is reserved in the month in which it is sent, until it
/// has ended; what it has cost counts in the month in which its results arrive.
#[derive(Debug, Clone, PartialEq)]
pub struct MonthlyBudget {
    limit: Usd,
    folder: PathBuf,
}

impl MonthlyBudget {
    /// The budget that these settings set for a folder, if they set one.
    ///
    /// # Errors
    /// If the setting is not an amount, or if there is no data folder.
    pub fn of(settings: &Settings, folder: Option<&Path>) -> Result<Option<Self>, Error> {
        let Some(limit) = settings.monthly_budget()?.and_then(Usd::from_dollars) else {
            return Ok(None);
        };
        let Some(folder) = folder else {
            let why = "llm.monthly_budget needs a data folder, which counts what was spent";
            return Err(Error::new(ErrorKind::Invalid, why));
        };
        let folder = folder.to_owned();
        Ok(Some(Self { limit, folder }))
    }

    /// The limit for each month.
    pub fn limit(&self) -> Usd {
        self.limit
    }

    /// What is spent or reserved in this month.
    ///
    /// # Errors
    /// If its file or the ledger cannot be read.
    pub fn used(&self) -> Result<Usd, Error> {
        Ok(Usd::from_picos(self.account()?.look()?.total()))
    }

    /// A share of the budget, for the calls of one route.
    pub(super) fn budget(&self) -> Result<Budget, Error> {
        Ok(Budget::of_account(self.limit, self.account()?))
    }

    /// It counts at least what the ledger has: without the setting, nothing is counted here.
    fn account(&self) -> Result<Account, Error> {
        let file = self.folder.join("monthly_budget.json");
        let clock = Arc::new(SystemClock);
        let account = Account::new("the monthly budget", file, Period::Month, clock);
        let since = account.since();
        account.at_least(since, self.billed(since)?)?;
        Ok(account)
    }

    fn billed(&self, since: Day) -> Result<Usd, Error> {
        let none = Default::default();
        let (ledger, _) = RunBook::read_all(&self.folder.join("ledger"), &none)?;
        let runs = ledger.between(Some(since), None).total().cost_usd;
        Ok([runs, self.billed_by_queue(since)?].into_iter().sum())
    }

    #[cfg(feature = "queue")]
    fn billed_by_queue(&self, since: Day) -> Result<Usd, Error> {
        let file = self.folder.join("llm_jobs.db");
        if !file.exists() {
            return Ok(Usd::ZERO);
        }
        let ledger = JobQueue::open(&file)?.ledger(Some(since), None)?;
        Ok(ledger.total().cost_usd)
    }

    #[cfg(not(feature = "queue"))]
    fn billed_by_queue(&self, _: Day) -> Result<Usd, Error> {
        Ok(Usd::ZERO)
    }
}
