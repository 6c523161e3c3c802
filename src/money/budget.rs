//! A limit of what calls may cost together.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use crate::base::{AtomicFile, Context, Error, ErrorKind, Usd};

/// The record on the disk may be ahead of the spending by this part of the limit, so that most calls need no write.
const SLICES: u64 = 64;

/// The most that calls may cost together. Clones share what is spent.
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

struct Shared {
    limit: Usd,
    /// The file that records it. Without one, it ends with the program.
    record: Option<PathBuf>,
    spending: Mutex<Spending>,
    changed: Condvar,
}

/// What is spent and reserved, in picodollars.
#[derive(Default)]
struct Spending {
    spent: u64,
    /// Reserved for calls in flight.
    held: u64,
    /// What the record says. It is at least `spent` and `held` together, so a crash forgets nothing.
    recorded: u64,
    /// The least that a call could cost that was not made.
    refused: Option<u64>,
}

/// The file beside an output.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// What was spent, and what was reserved when it was written.
    picodollars: u64,
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Budget({} of {})", self.spent(), self.limit())
    }
}

impl Budget {
    /// At most this much money.
    pub fn usd(limit: Usd) -> Self {
        Self::new(limit, None, 0)
    }

    fn new(limit: Usd, record: Option<PathBuf>, spent: u64) -> Self {
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
    /// If the file exists and is something else, or if it cannot be read or written.
    pub fn recorded_in(&self, file: impl AsRef<Path>, before: Usd) -> Result<Self, Error> {
        let file = file.as_ref();
        let spent = read(file)?.unwrap_or(before.picos());
        let budget = Self::new(self.limit(), Some(file.to_owned()), spent);
        budget.0.write(spent)?;
        Ok(budget)
    }

    /// The limit.
    pub fn limit(&self) -> Usd {
        self.0.limit
    }

    /// What was spent up to now. Calls in flight are not included.
    pub fn spent(&self) -> Usd {
        Usd::from_picos(self.0.spending.lock().spent)
    }

    /// The least that a call could cost that was not made because of the limit.
    pub fn refused(&self) -> Option<Usd> {
        self.0.spending.lock().refused.map(Usd::from_picos)
    }

    /// Reserves an amount for a call, in picodollars. It waits while only the calls in flight stand in the way,
    /// and no longer than the run goes on.
    ///
    /// # Errors
    /// [`ErrorKind::BudgetExceeded`] if the amount does not fit; that of the context if it ends the wait; another kind if
    /// the record cannot be written.
    pub(crate) fn reserve(&self, most: u64, ctx: &Context) -> Result<Reservation, Error> {
        if self.0.hold(&mut self.0.spending.lock(), most)? {
            return Ok(self.reservation(most));
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
        drop(spending);
        Ok(self.reservation(most))
    }

    fn reservation(&self, most: u64) -> Reservation {
        Reservation {
            budget: self.0.clone(),
            most,
            settled: false,
        }
    }

    fn exceeded(&self, spending: &mut Spending, most: u64) -> Error {
        spending.refused = Some(spending.refused.map_or(most, |refused| refused.min(most)));
        let limit = self.limit();
        let is_too_small = most > limit.picos();
        let most = Usd::from_picos(most);
        let why = if is_too_small {
            format!(
                "the budget of {limit} allows no call that could cost {most}: set a lower max_tokens, or a higher budget"
            )
        } else {
            format!(
                "the budget of {limit} is used up: {} is spent, and the next call could cost {most}",
                Usd::from_picos(spending.spent),
            )
        };
        Error::new(ErrorKind::BudgetExceeded, why)
    }

    /// Takes over what a queue has counted for this budget, and what its next request can cost if that does not fit. With
    /// an amount `before`, other calls spend from the budget too, and it adds what the queue has counted since then.
    ///
    /// # Errors
    /// If the record cannot be written.
    #[cfg(feature = "queue")]
    pub(crate) fn replace(
        &self,
        used: Usd,
        before: Option<Usd>,
        refused: Option<Usd>,
    ) -> Result<(), Error> {
        let mut spending = self.0.spending.lock();
        let mut spent = used.picos();
        if let Some(before) = before {
            let more = spent.saturating_sub(before.picos());
            spent = spent.max(spending.spent.saturating_add(more));
        }
        if spending.recorded != spent {
            self.0.write(spent)?;
        }
        (spending.spent, spending.recorded) = (spent, spent);
        spending.refused = refused.map(Usd::picos);
        Ok(())
    }

    /// Writes the exact amount to the record. Call it at the end of a run.
    ///
    /// # Errors
    /// If the record cannot be written. It says more than was spent then.
    pub fn close(&self) -> Result<(), Error> {
        let mut spending = self.0.spending.lock();
        let exact = spending.needed();
        if spending.recorded != exact {
            self.0.write(exact)?;
            spending.recorded = exact;
        }
        Ok(())
    }
}

impl Spending {
    /// Everything that it needs.
    fn needed(&self) -> u64 {
        self.spent.saturating_add(self.held)
    }
}

impl Shared {
    /// Holds an amount for a call if it fits, and makes sure that the record covers what is spent and held.
    fn hold(&self, spending: &mut Spending, most: u64) -> Result<bool, Error> {
        let all = spending.spent.checked_add(spending.held);
        let all = all.and_then(|all| all.checked_add(most));
        if all.is_none_or(|all| all > self.limit.picos()) {
            return Ok(false);
        }
        spending.held += most;
        if let Err(error) = self.record(spending) {
            spending.held -= most;
            return Err(error);
        }
        Ok(true)
    }

    /// Makes sure that the record covers what is spent and held.
    fn record(&self, spending: &mut Spending) -> Result<(), Error> {
        let needed = spending.needed();
        if needed > spending.recorded {
            let limit = self.limit.picos();
            let ahead = needed.saturating_add(limit / SLICES).min(limit).max(needed);
            self.write(ahead)?;
            spending.recorded = ahead;
        }
        Ok(())
    }

    fn write(&self, spent: u64) -> Result<(), Error> {
        let Some(file) = &self.record else {
            return Ok(());
        };
        let record = Record { picodollars: spent };
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

/// What a record says.
fn read(file: &Path) -> Result<Option<u64>, Error> {
    let json = match fs::read(file) {
        Ok(json) => json,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let why = format!("cannot read {}", file.display());
            return Err(cannot_count(error).context(why));
        }
    };
    let record: Record = serde_json::from_slice(&json).map_err(|error| {
        let why = format!(
            "{} is not a record of a budget ({error}): delete it to start from zero",
            file.display()
        );
        Error::new(ErrorKind::Invalid, why)
    })?;
    Ok(Some(record.picodollars))
}

/// The error of a file that counts what is spent, with what to do.
fn cannot_count(error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free disk space, and give the command again"
        }
        _ => {
            "; make the file and its folder readable and writable for this user, and give the command again"
        }
    };
    let error = Error::from(error);
    let message = format!("{}{hint}", error.message());
    Error::new(error.kind(), message).with_storage()
}

/// What is reserved for a call. If it is dropped unsettled, the call counts as the most that it could cost.
pub(crate) struct Reservation {
    budget: Arc<Shared>,
    most: u64,
    settled: bool,
}

impl Reservation {
    /// Counts what the call cost.
    pub(crate) fn settle(mut self, spent: u64) {
        self.end(spent);
    }

    fn end(&mut self, spent: u64) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let mut spending = self.budget.spending.lock();
        spending.held -= self.most;
        spending.spent = spending.spent.saturating_add(spent);
        self.budget.changed.notify_all();
        // Only if the call cost more than was reserved.
        if let Err(error) = self.budget.record(&mut spending) {
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
