//! A limit of what calls may cost together.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use crate::base::{AtomicFile, Context, Error, ErrorKind, Mark, Usd};

use super::account::{Account, cannot_count};

mod shared;
mod spending;

#[cfg(feature = "queue")]
pub use shared::LimitReached;
#[cfg(feature = "queue")]
pub(crate) use shared::SpentOnBatch;
use spending::Spending;

/// The record on the disk may be ahead of the spending by this part of the limit, so that most calls need no write.
pub(crate) const SLICES: u64 = 64;

/// A slice is for at most this many calls.
const CALLS_AT_ONCE: u64 = 32;

/// The most that calls may cost together, in money or in tokens. Clones share what is spent.
///
/// Before a call it reserves the most that this call can cost, and afterwards it counts what the reply cost. A call that
/// could exceed the limit waits for the calls in flight, which usually cost less than was reserved for them. If that is
/// not enough, the call is not made, and ends with [`ErrorKind::BudgetExceeded`]. A call whose cost is unknown, for
/// example after a time-out, counts as the most that it can cost.
///
/// ```
/// use batchwright::{Budget, Bulk, Extract, Request, Usd};
/// let budget = Budget::usd(Usd::from_dollars(2.5).expect("an amount"));
/// let route = batchwright::Route::new(Extract).budget(&budget);
/// // The stand-in `extract` costs nothing.
/// Bulk::new(route).collect(&[Request::new("a text")])?;
/// assert_eq!(budget.spent().to_string(), "$0");
/// # Ok::<(), batchwright::BulkError>(())
/// ```
#[derive(Clone)]
pub struct Budget(Arc<Shared>);

/// An amount of what a [`Budget`] limits. Its `Display` is `$1.2500` or `1200 tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Amount {
    /// Money.
    #[serde(rename = "picodollars", with = "picos")]
    Usd(Usd),
    /// Input and output tokens.
    Tokens(u64),
}

struct Shared {
    limit: Amount,
    record: Keeper,
    spending: Mutex<Spending>,
    changed: Condvar,
    /// Held while an account is changed. `spending` is not locked then, so that calls within what was drawn go on.
    drawing: Mutex<()>,
}

/// Where a budget is recorded.
enum Keeper {
    /// Nowhere: it ends with the program.
    Memory,
    /// In a file of this budget only.
    File(PathBuf),
    /// In a file that several OS processes share. The limit is one for each of its periods.
    Account(Account),
}

/// The file beside an output.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// What was spent, and what was reserved when it was written.
    spent: Amount,
}

mod picos {
    use super::Usd;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(amount: &Usd, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(amount.picos())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Usd, D::Error> {
        u64::deserialize(deserializer).map(Usd::from_picos)
    }
}

/// What an [`Amount`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AmountUnit {
    /// Picodollars.
    Usd,
    /// Input and output tokens.
    Tokens,
}

impl Amount {
    /// An amount of picodollars or tokens.
    pub(crate) fn new(unit: AmountUnit, number: u64) -> Self {
        match unit {
            AmountUnit::Usd => Self::Usd(Usd::from_picos(number)),
            AmountUnit::Tokens => Self::Tokens(number),
        }
    }

    /// What it counts.
    pub(crate) fn unit(self) -> AmountUnit {
        match self {
            Self::Usd(_) => AmountUnit::Usd,
            Self::Tokens(_) => AmountUnit::Tokens,
        }
    }

    fn of(self, number: u64) -> Self {
        Self::new(self.unit(), number)
    }

    /// The number of picodollars or tokens.
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Usd(amount) => amount.picos(),
            Self::Tokens(tokens) => tokens,
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usd(amount) => write!(f, "{amount}"),
            Self::Tokens(1) => f.write_str("1 token"),
            Self::Tokens(tokens) => write!(f, "{tokens} tokens"),
        }
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Budget({} of {})", self.spent(), self.limit())
    }
}

impl Budget {
    /// At most this much money.
    pub fn usd(limit: Usd) -> Self {
        Self::new(Amount::Usd(limit), Keeper::Memory, 0)
    }

    /// At most this number of input and output tokens together.
    pub fn tokens(limit: u64) -> Self {
        Self::new(Amount::Tokens(limit), Keeper::Memory, 0)
    }

    /// At most this much money in each period of an account, together with all other budgets of the account.
    pub(crate) fn of_account(limit: Usd, account: Account) -> Self {
        Self::new(Amount::Usd(limit), Keeper::Account(account), 0)
    }

    fn new(limit: Amount, record: Keeper, spent: u64) -> Self {
        Self(Arc::new(Shared {
            limit,
            record,
            spending: Mutex::new(Spending {
                spent,
                recorded: spent,
                ..Spending::default()
            }),
            changed: Condvar::new(),
            drawing: Mutex::default(),
        }))
    }

    /// The same limit, with a file that records what is spent, so that it counts after a crash or in a later run. If a
    /// program is killed, up to a 64th of the limit, and the most that its calls in flight could cost, count as spent.
    /// One program at a time may use the file. Without such a file, `before` was spent.
    ///
    /// # Errors
    /// If the file exists and is something else or has another unit, or if it cannot be read or written.
    pub fn recorded_in(&self, file: impl AsRef<Path>, before: Amount) -> Result<Self, Error> {
        let file = file.as_ref();
        let spent = self.read(file)?.unwrap_or(before).number();
        let budget = Self::new(self.limit(), Keeper::File(file.to_owned()), spent);
        budget.0.write(spent)?;
        Ok(budget)
    }

    /// What a record says.
    fn read(&self, file: &Path) -> Result<Option<Amount>, Error> {
        let limit = self.limit();
        let invalid = |why| Error::new(ErrorKind::Invalid, why);
        let json = match fs::read(file) {
            Ok(json) => json,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let why = format!("cannot read {}", file.display());
                return Err(cannot_count(error).context(why));
            }
        };
        let record: Record = serde_json::from_slice(&json).map_err(|error| {
            invalid(format!(
                "{} is not a record of a budget ({error}): delete it to start from zero",
                file.display()
            ))
        })?;
        if limit.of(0) == record.spent.of(0) {
            return Ok(Some(record.spent));
        }
        if record.spent.number() == 0 {
            return Ok(None);
        }
        Err(invalid(format!(
            "{} counts {}, and the budget is {limit}: use one of them, or delete the file to start from zero",
            file.display(),
            record.spent
        )))
    }

    /// The limit.
    pub fn limit(&self) -> Amount {
        self.0.limit
    }

    /// What was spent up to now. Calls in flight are not included.
    pub fn spent(&self) -> Amount {
        self.limit().of(self.0.spending.lock().spent)
    }

    /// Whether other OS processes spend from it too.
    #[cfg(feature = "queue")]
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.0.record, Keeper::Account(_))
    }

    /// The least that a call could cost that was not made because of the limit.
    pub fn refused(&self) -> Option<Amount> {
        let refused = self.0.spending.lock().refused;
        refused.map(|most| self.limit().of(most))
    }

    /// Reserves an amount for a call, in picodollars or tokens. It waits while only the calls in flight stand in the way,
    /// and no longer than the run goes on.
    ///
    /// # Errors
    /// [`ErrorKind::BudgetExceeded`] if the amount does not fit; that of the context if it ends the wait; another kind if
    /// the record cannot be written.
    pub(crate) fn reserve(&self, most: u64, ctx: &Context) -> Result<Reservation, Error> {
        if let Some(reserved) = self.reserve_now(most)? {
            return Ok(reserved);
        }
        let shared = self.0.clone();
        let _wakes = ctx.on_run_cancel(move || {
            // With the lock, so that a call that has looked at the context and is about to wait is woken.
            let _spending = shared.spending.lock();
            shared.changed.notify_all();
        });
        loop {
            let ended = self.0.spending.lock().ended;
            if let Some(reserved) = self.reserve_now(most)? {
                return Ok(reserved);
            }
            let mut spending = self.0.spending.lock();
            if spending.ended != ended {
                continue;
            }
            if spending.held == 0 {
                return Err(self.exceeded(&mut spending, most));
            }
            ctx.check()?;
            if ctx.is_run_cancelled() {
                return Err(Error::cancelled());
            }
            match ctx.deadline() {
                Some(at) => {
                    let _ = self.0.changed.wait_until(&mut spending, at);
                }
                None => self.0.changed.wait(&mut spending),
            }
        }
    }

    /// Reserves an amount if it fits now.
    ///
    /// # Errors
    /// If the record cannot be written; [`ErrorKind::BudgetExceeded`] if it is more than the limit of an account.
    pub(crate) fn reserve_now(&self, most: u64) -> Result<Option<Reservation>, Error> {
        if let Some(error) = self.above_limit(most) {
            return Err(error);
        }
        let is_held = self.0.hold(most)?;
        Ok(is_held.then(|| self.reservation(most)))
    }

    /// The error of a call that could cost more than an account may spend in its whole period.
    pub(crate) fn above_limit(&self, most: u64) -> Option<Error> {
        let Keeper::Account(account) = &self.0.record else {
            return None;
        };
        if most <= self.limit().number() {
            return None;
        }
        let (limit, most) = (self.limit(), self.limit().of(most));
        let why = format!(
            "{} of {limit} allows no call that could cost {most}: set a lower max_tokens, or raise the limit",
            account.name
        );
        Some(Error::new(ErrorKind::BudgetExceeded, why).marked(Mark::Unbounded))
    }

    fn reservation(&self, most: u64) -> Reservation {
        Reservation {
            budget: self.0.clone(),
            most,
            settled: false,
        }
    }

    fn exceeded(&self, spending: &mut Spending, most: u64) -> Error {
        spending.refuse(most);
        Error::new(ErrorKind::BudgetExceeded, self.why(spending, most))
    }

    fn why(&self, spending: &Spending, most: u64) -> String {
        let limit = self.limit();
        let is_too_small = most > limit.number();
        let most = limit.of(most);
        match &self.0.record {
            Keeper::Account(account) => format!(
                "{} of {limit} is used up: {} is spent or reserved since {} (UTC), and the next call could cost {most}",
                account.name,
                limit.of(spending.counted),
                spending.since_counted,
            ),
            _ if is_too_small => format!(
                "the budget of {limit} allows no call that could cost {most}: set a lower max_tokens, or a higher budget"
            ),
            _ => format!(
                "the budget of {limit} is used up: {} is spent, and the next call could cost {most}",
                limit.of(spending.spent),
            ),
        }
    }

    /// Takes over what a queue has counted for this budget, and what its next request can cost if that does not fit. With
    /// an amount `before`, other calls spend from the budget too, and it adds what the queue has counted since then.
    ///
    /// # Errors
    /// If the record cannot be written.
    #[cfg(feature = "queue")]
    pub(crate) fn replace(
        &self,
        used: Amount,
        before: Option<Amount>,
        refused: Option<Amount>,
    ) -> Result<(), Error> {
        let mut spending = self.0.spending.lock();
        let mut spent = used.number();
        if let Some(before) = before {
            let more = spent.saturating_sub(before.number());
            spent = spent.max(spending.spent.saturating_add(more));
        }
        if spending.recorded != spent {
            self.0.write(spent)?;
        }
        (spending.spent, spending.recorded) = (spent, spent);
        spending.refused = refused.map(Amount::number);
        Ok(())
    }

    /// Writes the exact amount to the record. Call it at the end of a run.
    ///
    /// # Errors
    /// If the record cannot be written. It says more than was spent then.
    pub fn close(&self) -> Result<(), Error> {
        match &self.0.record {
            Keeper::Account(account) => self.0.balance(account, true),
            _ => self.0.close(&mut self.0.spending.lock()),
        }
    }
}

impl Drop for Shared {
    /// What others may spend is returned. The record of one budget is closed by its run.
    fn drop(&mut self) {
        if let Keeper::Account(account) = &self.record
            && let Err(error) = self.balance(account, true)
        {
            log::warn!("{} counts too much: {error}", account.name);
        }
    }
}

impl Shared {
    /// Holds an amount for a call if it fits, and makes sure that the record covers what is spent and held.
    fn hold(&self, most: u64) -> Result<bool, Error> {
        if let Keeper::Account(account) = &self.record {
            return self.hold_shared(account, most);
        }
        let mut spending = self.spending.lock();
        let all = spending.spent.checked_add(spending.held);
        let all = all.and_then(|all| all.checked_add(most));
        if all.is_none_or(|all| all > self.limit.number()) {
            return Ok(false);
        }
        spending.held += most;
        if let Err(error) = self.record(&mut spending) {
            spending.held -= most;
            return Err(error);
        }
        Ok(true)
    }

    /// Makes sure that the record covers what is spent and held.
    fn record(&self, spending: &mut Spending) -> Result<(), Error> {
        let needed = spending.needed(0);
        if needed > spending.recorded {
            let limit = self.limit.number();
            let ahead = needed.saturating_add(limit / SLICES).min(limit).max(needed);
            self.write(ahead)?;
            spending.recorded = ahead;
        }
        Ok(())
    }

    /// Writes the exact amount of what is spent and held.
    fn close(&self, spending: &mut Spending) -> Result<(), Error> {
        let exact = spending.needed(0);
        if spending.recorded != exact {
            self.write(exact)?;
            spending.recorded = exact;
        }
        Ok(())
    }

    fn write(&self, spent: u64) -> Result<(), Error> {
        let Keeper::File(file) = &self.record else {
            return Ok(());
        };
        let record = Record {
            spent: self.limit.of(spent),
        };
        let replace = || -> io::Result<()> {
            let new = AtomicFile::create(file, OpenOptions::new().write(true))?;
            serde_json::to_writer(new.file(), &record)?;
            new.file().write_all(b"\n")?;
            new.replace().map(drop)
        };
        replace().map_err(|error| {
            let why = format!("cannot record what is spent in {}", file.display());
            cannot_count(error).context(why)
        })
    }
}

/// An amount after a change, but not below 0.
fn plus(amount: u64, change: i128) -> u64 {
    let sum = (i128::from(amount) + change).max(0);
    u64::try_from(sum).unwrap_or(u64::MAX)
}

/// How much to draw for a call that can cost `least`: more, so that most calls need no write, but no more than some calls
/// need, because what a crashed program drew stays spent. `None` if less is left.
pub(crate) fn slice(limit: u64, least: u64, left: u64) -> Option<u64> {
    let slice = (limit / SLICES).min(least.saturating_mul(CALLS_AT_ONCE));
    (least <= left).then(|| least.max(slice.min(left)))
}

/// What is reserved for a call. If it is dropped unsettled, the call counts as the most that it could cost.
pub(crate) struct Reservation {
    budget: Arc<Shared>,
    most: u64,
    settled: bool,
}

impl Reservation {
    /// The most that the call can cost.
    pub(crate) fn most(&self) -> u64 {
        self.most
    }

    /// Counts what the call cost.
    pub(crate) fn settle(mut self, spent: u64) {
        self.end(spent);
    }

    fn end(&mut self, spent: u64) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let mut spending = self.budget.spending.lock();
        let account = match &self.budget.record {
            Keeper::Account(account) => Some(account),
            _ => None,
        };
        if let Some(account) = account {
            // It counts in the period in which it ends.
            spending.turn(account.since());
        }
        spending.held -= self.most;
        spending.spent = spending.spent.saturating_add(spent);
        spending.ended += 1;
        spending.end_pause();
        self.budget.changed.notify_all();
        let is_idle = spending.held == 0;
        let recorded = match account {
            // Others may spend what is left.
            Some(account) if is_idle || spending.needed(0) > spending.recorded => {
                drop(spending);
                self.budget.balance(account, is_idle)
            }
            Some(_) => Ok(()),
            // Only if the call cost more than was reserved.
            None => self.budget.record(&mut spending),
        };
        if let Err(error) = recorded {
            log::warn!("{}", error.message());
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.end(self.most);
    }
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
