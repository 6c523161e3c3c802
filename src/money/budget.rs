//! A limit of what calls may cost together.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use crate::base::atomic_file::AtomicFile;
use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind};
use crate::base::usd::Usd;

/// The record on the disk may be ahead of the spending by this part of the limit, so that most calls need no write.
const SLICES: u64 = 64;

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
    record: Option<PathBuf>,
    spending: Mutex<Spending>,
    changed: Condvar,
}

/// All amounts are in picodollars or in tokens, as the limit.
#[derive(Default)]
struct Spending {
    spent: u64,
    /// Reserved for calls in flight.
    held: u64,
    /// What the record says. It is at least `spent` and `held` together, so a crash forgets nothing.
    recorded: u64,
    /// The most that the last call could cost that did not fit.
    refused: Option<u64>,
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
        Self::new(Amount::Usd(limit), None, 0)
    }

    /// At most this number of input and output tokens together.
    pub fn tokens(limit: u64) -> Self {
        Self::new(Amount::Tokens(limit), None, 0)
    }

    fn new(limit: Amount, record: Option<PathBuf>, spent: u64) -> Self {
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
        let budget = Self::new(self.limit(), Some(file.to_owned()), spent);
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

    /// The most that the last call could cost that was not made because of the limit.
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
        let mut spending = self.0.spending.lock();
        let _wakes = if self.0.has_room(&spending, most) {
            None
        } else {
            drop(spending);
            let shared = self.0.clone();
            let hook = ctx.on_run_cancel(move || {
                // With the lock, so that a call that has looked at the context and is about to wait is woken.
                let _spending = shared.spending.lock();
                shared.changed.notify_all();
            });
            spending = self.0.spending.lock();
            Some(hook)
        };
        while !self.0.has_room(&spending, most) {
            if spending.held == 0 {
                spending.refused = Some(most);
                return Err(self.exceeded(spending.spent, most));
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
        spending.held = spending.held.saturating_add(most);
        if let Err(error) = self.0.record(&mut spending) {
            spending.held -= most;
            return Err(error);
        }
        Ok(Reservation {
            budget: self.0.clone(),
            most,
            settled: false,
        })
    }

    fn exceeded(&self, spent: u64, most: u64) -> Error {
        let limit = self.limit();
        let why = format!(
            "the budget of {limit} is used up: {} is spent, and the next call could cost {}",
            limit.of(spent),
            limit.of(most)
        );
        Error::new(ErrorKind::BudgetExceeded, why)
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
        let mut spending = self.0.spending.lock();
        let exact = spending.spent + spending.held;
        if spending.recorded == exact {
            return Ok(());
        }
        self.0.write(exact)?;
        spending.recorded = exact;
        Ok(())
    }
}

impl Shared {
    fn has_room(&self, spending: &Spending, most: u64) -> bool {
        let all = spending.spent.checked_add(spending.held);
        let all = all.and_then(|all| all.checked_add(most));
        all.is_some_and(|all| all <= self.limit.number())
    }

    /// Makes sure that the record covers what is spent and held.
    fn record(&self, spending: &mut Spending) -> Result<(), Error> {
        let needed = spending.spent.saturating_add(spending.held);
        if needed <= spending.recorded || self.record.is_none() {
            return Ok(());
        }
        let limit = self.limit.number();
        let ahead = needed.saturating_add(limit / SLICES).min(limit).max(needed);
        self.write(ahead)?;
        spending.recorded = ahead;
        Ok(())
    }

    fn write(&self, spent: u64) -> Result<(), Error> {
        let Some(file) = &self.record else {
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
            // Only if the call cost more than was reserved.
            if let Err(error) = self.budget.record(&mut spending) {
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
