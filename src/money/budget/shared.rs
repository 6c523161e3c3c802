//! A budget in an account that several OS processes share.

#[cfg(feature = "queue")]
use std::time::{Duration, Instant};

#[cfg(feature = "queue")]
use super::super::account::{Counted, LOOK_AGAIN};
use super::*;
use crate::base::Day;

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

#[cfg(feature = "queue")]
impl Budget {
    /// Reserves an amount for a call if it fits now.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve), with a wait of a second if only the calls in flight stand in the way.
    pub(crate) fn try_reserve(&self, most: u64) -> Result<Reservation, Error> {
        let ended = self.0.spending.lock().ended;
        if let Some(reserved) = self.reserve_now(most)? {
            return Ok(reserved);
        }
        let mut spending = self.0.spending.lock();
        // Calls that ended meanwhile may have returned enough.
        let may_fit = spending.held > 0 || spending.ended != ended;
        let error = self.exceeded(&mut spending, most);
        Err(error.with_retry_after(may_fit.then_some(LOOK_AGAIN)))
    }

    /// Notes a call that did not fit, so that others are not tried.
    pub(crate) fn refuse(&self, most: u64) {
        self.0.spending.lock().refuse(most);
    }

    /// Makes sure that its account counts what was billed in the period that begins on this day, if it is the present one.
    ///
    /// # Errors
    /// If the account cannot be written.
    pub(crate) fn count_at_least(&self, since: Day, billed: Usd) -> Result<(), Error> {
        match &self.0.record {
            Keeper::Account(account) => account.at_least(since, billed),
            _ => Ok(()),
        }
    }

    /// Why no call is made for now: [`ErrorKind::BudgetExceeded`] if the last one did not fit into what several OS processes
    /// share; another kind if the account cannot be used.
    pub(crate) fn used_up(&self) -> Option<Error> {
        self.look_again();
        self.was_used_up()
    }

    /// The limit, if the last call did not fit.
    pub(crate) fn reached(&self) -> Option<LimitReached> {
        let Keeper::Account(account) = &self.0.record else {
            return None;
        };
        self.used_up()?;
        let spending = self.0.spending.lock();
        spending.refused_since.map(|_| LimitReached {
            name: account.name.clone(),
            renews: account.renews(),
            is_in_use: spending.held > 0,
            is_recent: spending.tried.is_some_and(|at| at.elapsed() < LOOK_AGAIN),
        })
    }

    /// Whether further calls are tried: others may need less than the ones that did not fit. If no call fits for
    /// [`LOOK_AGAIN`], the next try is 1 s after the last one, then 2 s, and so on up to 60 s, until the account changes.
    pub(crate) fn is_open(&self) -> bool {
        !self.is_closed() || self.0.spending.lock().is_due()
    }

    /// Whether a call did not fit, and no other one has fitted for [`LOOK_AGAIN`]; or the account cannot be used. A worker that ends
    /// when no job is left does not wait for this budget.
    pub(crate) fn is_closed(&self) -> bool {
        self.was_used_up().is_some() && !self.0.spending.lock().tries_others()
    }

    /// The same as of the last look at the account: it reads no file.
    pub(crate) fn was_used_up(&self) -> Option<Error> {
        if !self.is_shared() {
            return None;
        }
        let spending = self.0.spending.lock();
        let most = spending.refused?;
        let used_up = || Error::new(ErrorKind::BudgetExceeded, self.why(&spending, most));
        Some(spending.trouble.clone().unwrap_or_else(used_up))
    }

    /// Looks whether the call fits now that did not fit, at most once in [`LOOK_AGAIN`]. It fits again when another OS
    /// process returns something, or when the next period begins.
    pub(crate) fn look_again(&self) {
        let Keeper::Account(account) = &self.0.record else {
            return;
        };
        // A call that does not fit after the account was read must not be forgotten.
        let Some(_drawing) = self.0.drawing.try_lock() else {
            return;
        };
        {
            let mut spending = self.0.spending.lock();
            let is_recent = |at: Instant| at.elapsed() < LOOK_AGAIN;
            if spending.refused.is_none() || spending.looked.is_some_and(is_recent) {
                return;
            }
            spending.looked = Some(Instant::now());
        }
        let counted = account.look();
        let mut spending = self.0.spending.lock();
        match counted {
            Ok(counted) => {
                if spending.trouble.take().is_some() {
                    spending.end_pause();
                }
                spending.count(counted.since, counted.total());
                let left = self.limit().number().saturating_sub(spending.counted);
                spending.refused = spending.refused.filter(|most| *most > left);
                if spending.refused.is_none() {
                    (spending.refused_since, spending.fitted) = (None, None);
                    spending.pause = Duration::ZERO;
                }
            }
            Err(error) => spending.trouble = Some(error),
        }
    }

    /// Reserves this amount for a batch in a shared account, in place of what is reserved for it. Returns the most that
    /// could be reserved if that is less; then nothing changes.
    ///
    /// # Errors
    /// If the account cannot be written.
    pub(crate) fn reserve_batch(&self, label: &str, amount: u64) -> Result<Option<u64>, Error> {
        let Keeper::Account(account) = &self.0.record else {
            return Ok(None);
        };
        let limit = self.limit().number();
        let (less, since, counted) = account.change(|counted| {
            let less = counted.reserve_batch(label, amount, limit);
            (less, counted.since, counted.total())
        })?;
        let mut spending = self.0.spending.lock();
        spending.count(since, counted);
        if less.is_none() {
            spending.fits();
        }
        Ok(less)
    }

    /// Counts what requests of a batch have cost. `None` if there is nothing that could be undone.
    pub(crate) fn spend_batch(&self, label: &str, cost: u64) -> Option<SpentOnBatch> {
        let Keeper::Account(account) = &self.0.record else {
            return None;
        };
        let spend = |counted: &mut Counted| {
            let reserved = counted.spend_batch(label, cost);
            (counted.since, reserved)
        };
        match account.change(spend) {
            Ok((since, reserved)) => Some(SpentOnBatch {
                budget: self.clone(),
                label: label.to_owned(),
                since,
                cost,
                reserved,
            }),
            Err(error) => {
                log::warn!("{}", error.message());
                // It is written with the next call.
                let mut spending = self.0.spending.lock();
                spending.spent = spending.spent.saturating_add(cost);
                None
            }
        }
    }

    /// Ends the reservation of a batch that has ended or was not sent. If it may have been billed and its cost is unknown,
    /// what is left of the reservation counts as spent.
    pub(crate) fn end_batch(&self, label: &str, is_spent: bool) {
        let Keeper::Account(account) = &self.0.record else {
            return;
        };
        let counted = account.look();
        let has_none = counted.is_ok_and(|counted| !counted.batches.contains_key(label));
        if !has_none
            && let Err(error) = account.change(|counted| {
                let left = counted.batches.remove(label).filter(|_| is_spent);
                counted.spent = counted.spent.saturating_add(left.unwrap_or(0));
            })
        {
            log::warn!("{} counts too much: {error}", account.name);
        }
        // A worker that is about to end must see what has been returned.
        self.0.spending.lock().looked = None;
    }

    /// The present period of a shared account.
    pub(crate) fn period(&self) -> Option<Day> {
        match &self.0.record {
            Keeper::Account(account) => Some(account.since()),
            _ => None,
        }
    }
}

/// What was counted for ends of a batch that are not recorded yet.
#[cfg(feature = "queue")]
pub(crate) struct SpentOnBatch {
    budget: Budget,
    label: String,
    /// The period in which it was counted.
    since: Day,
    cost: u64,
    /// The part that had been reserved for the batch.
    reserved: u64,
}

#[cfg(feature = "queue")]
impl SpentOnBatch {
    /// Reserves it for the batch again, because its ends could not be recorded.
    pub(crate) fn undo(self) {
        let Keeper::Account(account) = &self.budget.0.record else {
            return;
        };
        let undone = account.change(|counted| {
            if counted.since == self.since {
                counted.spent = counted.spent.saturating_sub(self.cost);
                if let Some(reserved) = counted.batches.get_mut(&self.label) {
                    *reserved = reserved.saturating_add(self.reserved);
                }
            }
        });
        if let Err(error) = undone {
            log::warn!("{} counts too much: {error}", account.name);
        }
    }
}

impl Shared {
    /// Holds an amount for a call, and draws what is missing from an account.
    pub(super) fn hold_shared(&self, account: &Account, most: u64) -> Result<bool, Error> {
        let hold = || {
            let mut spending = self.spending.lock();
            spending.turn(account.since());
            let missing = spending.needed(most).saturating_sub(spending.recorded);
            let is_held = spending.hold_recorded(most);
            (!is_held).then_some((missing, spending.since))
        };
        if hold().is_none() {
            return Ok(true);
        }
        let _drawing = self.drawing.lock();
        // Another call may have drawn meanwhile.
        while let Some((missing, since)) = hold() {
            if let Some(error) = self.spending.lock().recent_trouble() {
                return Err(error);
            }
            let limit = self.limit.number();
            let drawn = account.change(|counted| {
                let left = limit.saturating_sub(counted.total());
                let drawn = slice(limit, missing, left).filter(|_| counted.since == since);
                counted.spent += drawn.unwrap_or(0);
                (drawn, counted.since, counted.total())
            });
            let mut spending = self.spending.lock();
            let (drawn, since_counted, counted) = drawn.inspect_err(|error| {
                spending.refuse(most);
                spending.trouble = Some(error.clone());
            })?;
            spending.trouble = None;
            spending.count(since_counted, counted);
            spending.recorded += drawn.filter(|_| spending.since == since).unwrap_or(0);
            let has_turned = since != since_counted && since_counted == account.since();
            if drawn.is_none() && !has_turned {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes to an account what was spent beyond the part of this budget, and with `all` returns the rest of this part.
    pub(super) fn balance(&self, account: &Account, all: bool) -> Result<(), Error> {
        let _drawing = self.drawing.lock();
        let (since, change) = {
            let mut spending = self.spending.lock();
            spending.turn(account.since());
            let exact = spending.needed(0);
            if exact == spending.recorded || !all && exact < spending.recorded {
                return Ok(());
            }
            let change = i128::from(exact) - i128::from(spending.recorded);
            // Before others may spend it.
            spending.recorded = exact;
            (spending.since, change)
        };
        let written = account.change(|counted| {
            if counted.since == since {
                counted.spent = plus(counted.spent, change);
            }
        });
        if written.is_err() {
            let mut spending = self.spending.lock();
            if spending.since == since {
                spending.recorded = plus(spending.recorded, -change);
            }
        }
        written
    }
}
