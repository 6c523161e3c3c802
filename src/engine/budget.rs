//! A limit of what calls may cost together.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use crate::base::{AtomicFile, Context, Error, ErrorKind, Usd, named_file};

/// The most that calls may cost together. Clones share what is spent.
///
/// Before a call it reserves the most that this call can cost, and afterwards it counts what the reply cost. A call that
/// could exceed the limit waits for the calls in flight, which usually cost less than was reserved for them. If that is
/// not enough, the call is not made, and ends with [`ErrorKind::BudgetExceeded`]. A call whose cost is unknown, for
/// example after a time-out, is [lost](Self::lost), and counts as the most that it can cost.
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
#[derive(Clone, derive_more::Debug)]
#[debug("Budget({} of {})", self.spent(), self.limit())]
pub struct Budget(Arc<Shared>);

struct Shared {
    limit: Usd,
    /// The file that records it. Without one, it ends with the program.
    record: Option<PathBuf>,
    spending: Mutex<Spending>,
    changed: Condvar,
}

/// Interval of checks whether the run goes on while a call waits for others.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What is spent, lost and reserved, in picodollars. The file beside an output has the fields that a crash must not forget.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spending {
    /// In the file: what was spent when it was written. Since then, results say what was spent.
    #[serde(rename = "picodollars")]
    spent: u64,
    /// What calls without a known end can have cost.
    #[serde(default)]
    lost: u64,
    /// The number of calls that may be in flight by the file, up to the next power of two.
    #[serde(rename = "in_flight", default)]
    recorded: u64,
    /// The most that one call could cost so far.
    #[serde(default)]
    most: u64,
    /// Reserved for calls in flight.
    #[serde(skip)]
    held: u64,
    /// Calls in flight.
    #[serde(skip)]
    calls: u64,
}

impl Budget {
    /// At most this much money.
    pub fn usd(limit: Usd) -> Self {
        Self::new(limit, None, Spending::default())
    }

    fn new(limit: Usd, record: Option<PathBuf>, spending: Spending) -> Self {
        Self(Arc::new(Shared {
            limit,
            record,
            spending: Mutex::new(spending),
            changed: Condvar::new(),
        }))
    }

    /// The same limit, with a file that records what is spent and lost, so that it counts after a crash or in a later run.
    /// The saved results of earlier runs cost `before` in all, for this many `calls`. If a program is killed, each call that
    /// may have been in flight is lost, and counts as much as the mean of `calls`; without any, as the most that it could
    /// cost. One program at a time may use the file.
    ///
    /// # Errors
    /// If the file exists and is something else, or if it cannot be read or written.
    pub fn recorded_in(
        &self,
        file: impl AsRef<Path>,
        before: Usd,
        calls: u64,
    ) -> Result<Self, Error> {
        let file = file.as_ref();
        let known = read(file)?;
        let mean = before.picos().checked_div(calls).unwrap_or(known.most);
        let in_flight = known.recorded.saturating_mul(mean);
        let spending = Spending {
            spent: known.spent.max(before.picos()),
            lost: known.lost.saturating_add(in_flight),
            ..Spending::default()
        };
        let budget = Self::new(self.limit(), Some(file.to_owned()), spending);
        budget.0.write(&spending)?;
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

    /// What calls without a known end can have cost: those in flight when a program was killed, and those whose reply did
    /// not come. It counts towards the limit.
    pub fn lost(&self) -> Usd {
        Usd::from_picos(self.0.spending.lock().lost)
    }

    /// What counts towards the limit without calls in flight.
    #[cfg(feature = "queue")]
    pub(crate) fn used(&self) -> Usd {
        Usd::from_picos(self.0.spending.lock().used())
    }

    /// Reserves an amount for a call, in picodollars. It waits while only the calls in flight stand in the way,
    /// and no longer than the run goes on.
    ///
    /// # Errors
    /// [`ErrorKind::BudgetExceeded`] if the amount does not fit; that of the context if it ends the wait; another kind if
    /// the record cannot be written.
    pub(crate) fn reserve(&self, most: u64, ctx: &Context) -> Result<Reservation, Error> {
        let mut spending = self.0.spending.lock();
        while !self.0.hold(&mut spending, most)? {
            if spending.held == 0 {
                return Err(self.exceeded(&spending, most));
            }
            ctx.check_run()?;
            // The context cannot wake this wait.
            let _ = self.0.changed.wait_for(&mut spending, LOOK_AGAIN);
        }
        Ok(Reservation {
            budget: self.0.clone(),
            most,
            spent: None,
        })
    }

    fn exceeded(&self, spending: &Spending, most: u64) -> Error {
        let [most, spent, lost] = [most, spending.spent, spending.lost].map(Usd::from_picos);
        let limit = self.limit();
        let lost = match lost {
            Usd::ZERO => String::new(),
            lost => format!(", {lost} is lost with calls whose reply did not come"),
        };
        let why = if most > limit {
            format!(
                "the budget of {limit} allows no call that could cost {most}: set a lower max_tokens, or a higher budget"
            )
        } else {
            format!(
                "the budget of {limit} is used up: {spent} is spent{lost}, and the next call could cost {most}"
            )
        };
        Error::new(ErrorKind::BudgetExceeded, why)
    }

    /// Takes over what a queue has counted for this budget. With an amount `before`, other calls spend from the budget too, and it adds what the queue has counted since then.
    ///
    /// # Errors
    /// If the record cannot be written.
    #[cfg(feature = "queue")]
    pub(crate) fn replace(&self, used: Usd, before: Option<Usd>) -> Result<(), Error> {
        let mut spending = self.0.spending.lock();
        let (known, mut all) = (spending.used(), used.picos());
        if let Some(before) = before {
            let more = all.saturating_sub(before.picos());
            all = all.max(known.saturating_add(more));
        }
        spending.lost = spending.lost.min(all);
        spending.spent = all - spending.lost;
        if known == all {
            return Ok(());
        }
        self.0.write(&spending)
    }

    /// Writes the exact amount to the record. Call it at the end of a run.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn close(&self) -> Result<(), Error> {
        let mut spending = self.0.spending.lock();
        spending.recorded = spending.calls;
        self.0.write(&spending)
    }
}

impl Spending {
    fn used(&self) -> u64 {
        self.spent.saturating_add(self.lost)
    }
}

impl Shared {
    /// Holds an amount for a call if it fits. Before the calls in flight first reach 1, 2, 4, 8 …, their number is written,
    /// so that a crash forgets none.
    fn hold(&self, spending: &mut Spending, most: u64) -> Result<bool, Error> {
        let all = spending.used().checked_add(spending.held);
        let all = all.and_then(|all| all.checked_add(most));
        if all.is_none_or(|all| all > self.limit.picos()) {
            return Ok(false);
        }
        let mut next = *spending;
        (next.calls, next.held, next.most) =
            (next.calls + 1, next.held + most, next.most.max(most));
        if next.calls > next.recorded {
            next.recorded = next.calls.next_power_of_two();
            self.write(&next)?;
        }
        *spending = next;
        Ok(true)
    }

    fn write(&self, spending: &Spending) -> Result<(), Error> {
        let Some(file) = &self.record else {
            return Ok(());
        };
        let replace = || -> io::Result<()> {
            let new = AtomicFile::create(file, OpenOptions::new().write(true))?;
            serde_json::to_writer(new.file(), spending)?;
            new.file().write_all(b"\n")?;
            new.replace().map(drop)
        };
        replace().map_err(|error| cannot("record what is spent in", file, error))
    }
}

/// What a record says, if there is one.
fn read(file: &Path) -> Result<Spending, Error> {
    let json = match named_file::read(file, 1 << 20) {
        Ok(json) => json,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Spending::default()),
        Err(error) => return Err(cannot("read", file, error)),
    };
    serde_json::from_slice(&json).map_err(|error| {
        let why = format!(
            "{} is not a record of a budget ({}): delete it to start from zero",
            file.display(),
            named_file::no_such_json(&error)
        );
        Error::new(ErrorKind::Invalid, why)
    })
}

/// The error of a file that counts what is spent, with what to do.
fn cannot(what: &str, file: &Path, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free disk space, and give the command again"
        }
        _ => {
            "; make the file and its folder readable and writable for this user, and give the command again"
        }
    };
    let error = Error::from(error);
    let (file, why) = (file.display(), error.message());
    let message = format!("cannot {what} {file}: {why}{hint}");
    Error::new(error.kind(), message).with_storage()
}

/// What is reserved for a call. If it is dropped unsettled, the call is lost, and counts as the most that it could cost.
pub(crate) struct Reservation {
    budget: Arc<Shared>,
    most: u64,
    spent: Option<u64>,
}

impl Reservation {
    /// Counts what the call cost.
    pub(crate) fn settle(mut self, spent: u64) {
        self.spent = Some(spent);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut spending = self.budget.spending.lock();
        let Spending { spent, lost, .. } = &mut *spending;
        match self.spent {
            Some(cost) => *spent = spent.saturating_add(cost),
            None => *lost = lost.saturating_add(self.most),
        }
        spending.held -= self.most;
        spending.calls -= 1;
        self.budget.changed.notify_all();
        // No result says what a lost call cost.
        if self.spent.is_none()
            && let Err(error) = self.budget.write(&spending)
        {
            log::warn!("{}", error.message());
        }
    }
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
