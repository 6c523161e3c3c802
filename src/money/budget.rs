//! A limit of what calls may cost together.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use crate::base::atomic_file::AtomicFile;
use crate::base::cancel::Context;
use crate::base::day::Day;
use crate::base::error::{Error, ErrorKind};
use crate::base::usd::Usd;

use super::account::{Account, LOOK_AGAIN};

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

/// A limit of what calls may cost that allows no further call at the moment.
#[cfg(feature = "queue")]
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitReached {
    /// Its name without amounts, for example `the monthly budget (llm.monthly_budget)`.
    pub name: String,
    /// The day (UTC) on which it begins anew.
    pub renews: Day,
    /// Calls of the worker are in flight. They may cost less than was reserved for them.
    pub is_in_use: bool,
    /// The last call that did not fit was tried less than a second ago. Otherwise, another one may fit that needs less.
    pub is_recent: bool,
}

struct Shared {
    limit: Amount,
    record: Keeper,
    spending: Mutex<Spending>,
    changed: Condvar,
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

/// All amounts are in picodollars or in tokens, as the limit.
#[derive(Default)]
struct Spending {
    spent: u64,
    /// Reserved for calls in flight.
    held: u64,
    /// What the record says; in an account, the part of this budget. It is at least `spent` and `held` together, so a
    /// crash forgets nothing.
    recorded: u64,
    /// The least that a call could cost that did not fit. A call that needs as much and fits clears it.
    refused: Option<u64>,
    /// A call has fitted since the last one that did not.
    fits: bool,
    /// When the last call did not fit, or when others were allowed to try.
    tried: Option<Instant>,
    /// The period of `spent` and `recorded`, and what its account has counted for all, as of the last access to it.
    since: Day,
    counted: u64,
    /// When the account was read for a refused call.
    looked: Option<Instant>,
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
                return Err(Error::from(error).context(why));
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
        let mut spending = self.0.spending.lock();
        while !self.0.hold(&mut spending, most)? {
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
        Ok(self.reservation(most))
    }

    /// Reserves an amount if it fits now.
    ///
    /// # Errors
    /// If the record cannot be written; [`ErrorKind::BudgetExceeded`] if it is more than the limit of an account.
    pub(crate) fn reserve_now(&self, most: u64) -> Result<Option<Reservation>, Error> {
        if most > self.limit().number()
            && let Keeper::Account(account) = &self.0.record
        {
            let (limit, most) = (self.limit(), self.limit().of(most));
            let why = format!(
                "{} of {limit} allows no call that could cost {most}: set a lower max_tokens, or raise the limit",
                account.name
            );
            return Err(Error::new(ErrorKind::BudgetExceeded, why).with_unbounded());
        }
        let is_held = self.0.hold(&mut self.0.spending.lock(), most)?;
        Ok(is_held.then(|| self.reservation(most)))
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
        let most = limit.of(most);
        match &self.0.record {
            Keeper::Account(account) => format!(
                "{} of {limit} is used up: {} is spent or reserved since {} (UTC), and the next call could cost {most}",
                account.name,
                limit.of(spending.counted),
                spending.since,
            ),
            _ => format!(
                "the budget of {limit} is used up: {} is spent, and the next call could cost {most}",
                limit.of(spending.spent),
            ),
        }
    }

    /// Reserves an amount for one call, or for several, if it fits now.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve), with a wait of a second if only the calls in flight stand in the way.
    #[cfg(feature = "queue")]
    pub(crate) fn try_reserve(&self, most: u64, is_one: bool) -> Result<Reservation, Error> {
        let before = self.is_in_use();
        if let Some(reserved) = self.reserve_now(most)? {
            return Ok(reserved);
        }
        // Calls that have just ended may have returned enough.
        let wait = (before || self.is_in_use()).then_some(LOOK_AGAIN);
        let error = if is_one {
            self.refuse(most)
        } else {
            Error::new(
                ErrorKind::BudgetExceeded,
                self.why(&self.0.spending.lock(), most),
            )
        };
        Err(error.with_retry_after(wait))
    }

    /// Whether calls are in flight, which may return something.
    #[cfg(feature = "queue")]
    pub(crate) fn is_in_use(&self) -> bool {
        self.0.spending.lock().held > 0
    }

    /// Notes a call that did not fit, so that others are not tried. Returns its error.
    #[cfg(feature = "queue")]
    pub(crate) fn refuse(&self, most: u64) -> Error {
        self.exceeded(&mut self.0.spending.lock(), most)
    }

    /// Makes sure that its account counts what was billed in the present period.
    ///
    /// # Errors
    /// If the account cannot be written.
    #[cfg(feature = "queue")]
    pub(crate) fn count_at_least(&self, billed: Usd) -> Result<(), Error> {
        match &self.0.record {
            Keeper::Account(account) => account.at_least(billed),
            _ => Ok(()),
        }
    }

    /// Why no call is made for now, if the last one did not fit into what several OS processes share. It fits again when
    /// one of them returns something, or when the next period begins.
    #[cfg(feature = "queue")]
    pub(crate) fn used_up(&self) -> Option<String> {
        let Keeper::Account(account) = &self.0.record else {
            return None;
        };
        let mut spending = self.0.spending.lock();
        let most = spending.refused?;
        if spending.looked.is_none_or(|at| at.elapsed() >= LOOK_AGAIN) {
            spending.looked = Some(Instant::now());
            if let Ok((since, counted)) = account.look() {
                (spending.since, spending.counted) = (since, counted);
                let left = self.limit().number().saturating_sub(counted);
                if most <= left {
                    spending.refused = None;
                    return None;
                }
            }
        }
        Some(self.why(&spending, most))
    }

    /// The limit, if the last call did not fit.
    #[cfg(feature = "queue")]
    pub(crate) fn reached(&self) -> Option<LimitReached> {
        let Keeper::Account(account) = &self.0.record else {
            return None;
        };
        self.used_up()?;
        let spending = self.0.spending.lock();
        (!spending.fits).then(|| LimitReached {
            name: account.name.clone(),
            renews: account.renews(),
            is_in_use: spending.held > 0,
            is_recent: spending.tried.is_some_and(|at| at.elapsed() < LOOK_AGAIN),
        })
    }

    /// Whether further calls are tried: others may need less than the ones that did not fit. Once in a second, they are
    /// also tried after one that did not fit.
    #[cfg(feature = "queue")]
    pub(crate) fn is_open(&self) -> bool {
        if self.used_up().is_none() {
            return true;
        }
        let mut spending = self.0.spending.lock();
        if spending.tried.is_none_or(|at| at.elapsed() >= LOOK_AGAIN) {
            spending.tried = Some(Instant::now());
            return true;
        }
        spending.fits
    }

    /// Returns a part of what an earlier program has spent from a shared account, because it was not needed after all.
    /// Does nothing if the period of this day is over.
    #[cfg(feature = "queue")]
    pub(crate) fn refund(&self, day: Day, amount: u64) {
        if let Keeper::Account(account) = &self.0.record
            && amount > 0
            && let Err(error) = account.change(|counted| {
                if counted.since == account.period_of(day) {
                    counted.spent = counted.spent.saturating_sub(amount);
                }
            })
        {
            log::warn!("{} counts too much: {error}", account.name);
        }
    }

    /// The present period of a shared account.
    #[cfg(feature = "queue")]
    pub(crate) fn period(&self) -> Option<Day> {
        match &self.0.record {
            Keeper::Account(account) => Some(account.since()),
            _ => None,
        }
    }

    /// Takes over what a queue has counted for this budget, and what its next request can cost if that does not fit.
    ///
    /// # Errors
    /// If the record cannot be written.
    #[cfg(feature = "queue")]
    pub(crate) fn replace(&self, spent: Amount, refused: Option<Amount>) -> Result<(), Error> {
        let mut spending = self.0.spending.lock();
        if spending.recorded != spent.number() {
            self.0.write(spent.number())?;
        }
        (spending.spent, spending.recorded) = (spent.number(), spent.number());
        spending.refused = refused.map(Amount::number);
        Ok(())
    }

    /// Writes the exact amount to the record. Call it at the end of a run.
    ///
    /// # Errors
    /// If the record cannot be written. It says more than was spent then.
    pub fn close(&self) -> Result<(), Error> {
        self.0.close(&mut self.0.spending.lock())
    }
}

impl Spending {
    fn refuse(&mut self, most: u64) {
        self.refused = Some(self.refused.map_or(most, |refused| refused.min(most)));
        self.fits = false;
        (self.looked, self.tried) = (Some(Instant::now()), Some(Instant::now()));
    }
}

impl Drop for Shared {
    /// What others may spend is returned. The record of one budget is closed by its run.
    fn drop(&mut self) {
        let mut spending = std::mem::take(self.spending.get_mut());
        if let Keeper::Account(account) = &self.record
            && let Err(error) = self.close(&mut spending)
        {
            log::warn!("{} counts too much: {error}", account.name);
        }
    }
}

impl Shared {
    /// Holds an amount for a call if it fits, and makes sure that the record covers what is spent and held.
    fn hold(&self, spending: &mut Spending, most: u64) -> Result<bool, Error> {
        let all = spending.spent.checked_add(spending.held);
        let is_held = match (&self.record, all.and_then(|all| all.checked_add(most))) {
            (_, None) => false,
            (Keeper::Account(account), Some(_)) => {
                let drawn = self.draw(account, spending, most);
                drawn.inspect_err(|_| spending.refuse(most))?
            }
            (_, Some(all)) => all <= self.limit.number(),
        };
        if !is_held {
            return Ok(false);
        }
        if matches!(self.record, Keeper::Account(_)) {
            spending.fits = true;
            // Others may have returned what an earlier call lacked.
            spending.refused = spending.refused.filter(|refused| most < *refused);
        }
        spending.held += most;
        if let Err(error) = self.record(spending) {
            spending.held -= most;
            return Err(error);
        }
        Ok(true)
    }

    /// Begins a new period with the calls in flight. Nothing of the earlier one is returned.
    fn turn(account: &Account, spending: &mut Spending) {
        let since = account.since();
        if spending.since != since {
            (spending.since, spending.spent, spending.recorded) = (since, 0, 0);
        }
    }

    /// Draws what is missing for a call from an account. Returns false if that is not available.
    fn draw(&self, account: &Account, spending: &mut Spending, most: u64) -> Result<bool, Error> {
        Self::turn(account, spending);
        let needed = spending
            .spent
            .saturating_add(spending.held)
            .saturating_add(most);
        let missing = needed.saturating_sub(spending.recorded);
        if missing == 0 {
            return Ok(true);
        }
        let limit = self.limit.number();
        let drawn = account.change(|counted| {
            let left = limit.saturating_sub(counted.spent);
            let drawn = slice(limit, missing, left).filter(|_| counted.since == spending.since);
            counted.spent += drawn.unwrap_or(0);
            spending.counted = counted.spent;
            drawn
        })?;
        spending.recorded += drawn.unwrap_or(0);
        Ok(drawn.is_some())
    }

    /// Makes sure that the record covers what is spent and held.
    fn record(&self, spending: &mut Spending) -> Result<(), Error> {
        if let Keeper::Account(account) = &self.record {
            Self::turn(account, spending);
        }
        let needed = spending.spent.saturating_add(spending.held);
        if needed <= spending.recorded {
            return Ok(());
        }
        match &self.record {
            Keeper::Memory => return Ok(()),
            Keeper::File(_) => {
                let limit = self.limit.number();
                let ahead = needed.saturating_add(limit / SLICES).min(limit).max(needed);
                self.write(ahead)?;
                spending.recorded = ahead;
            }
            Keeper::Account(_) => self.close(spending)?,
        }
        Ok(())
    }

    /// Writes the exact amount of what is spent and held.
    fn close(&self, spending: &mut Spending) -> Result<(), Error> {
        let exact = spending.spent.saturating_add(spending.held);
        if spending.recorded == exact {
            return Ok(());
        }
        match &self.record {
            Keeper::Account(account) => account.change(|counted| {
                if counted.since == spending.since {
                    let others = counted.spent.saturating_sub(spending.recorded);
                    counted.spent = others.saturating_add(exact);
                }
            })?,
            _ => self.write(exact)?,
        }
        spending.recorded = exact;
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
            Error::from(error).context(why).with_storage()
        })
    }
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
        if !std::mem::replace(&mut self.settled, true) {
            let mut spending = self.budget.spending.lock();
            spending.held -= self.most;
            spending.spent = spending.spent.saturating_add(spent);
            let is_idle = spending.held == 0 && matches!(self.budget.record, Keeper::Account(_));
            let recorded = if is_idle {
                // Others may spend what is left.
                self.budget.close(&mut spending)
            } else {
                // Only if the call cost more than was reserved.
                self.budget.record(&mut spending)
            };
            if let Err(error) = recorded {
                log::warn!("{}", error.message());
            }
            self.budget.changed.notify_all();
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
