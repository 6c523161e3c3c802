//! What a budget has spent and reserved, and when a call that did not fit is tried again.

use std::time::{Duration, Instant};

use crate::base::{Day, Error};
use crate::money::account::LOOK_AGAIN;

/// The longest time between two tries while nothing fits and nothing changes.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// All amounts are in picodollars or in tokens, as the limit.
#[derive(Default)]
pub(super) struct Spending {
    pub(super) spent: u64,
    /// Reserved for calls in flight.
    pub(super) held: u64,
    /// What the record says; in an account, the part of this budget. It is at least `spent` and `held` together, so a
    /// crash forgets nothing.
    pub(super) recorded: u64,
    /// The least that a call could cost that did not fit. A call that needs as much and fits clears it.
    pub(super) refused: Option<u64>,
    /// When the first call did not fit since one did.
    pub(super) refused_since: Option<Instant>,
    /// When a call fitted, although another one had not.
    pub(super) fitted: Option<Instant>,
    /// When the last call did not fit.
    pub(super) tried: Option<Instant>,
    /// How long no call is tried after the last one that did not fit. It doubles with each try, until something changes.
    pub(super) pause: Duration,
    /// The period of `spent` and `recorded`.
    pub(super) since: Day,
    /// What its account has counted for all, and in which period, as of the last access to it.
    pub(super) counted: u64,
    pub(super) since_counted: Day,
    /// When the account was read for a refused call.
    pub(super) looked: Option<Instant>,
    /// Why the account could not be changed the last time.
    pub(super) trouble: Option<Error>,
    /// The number of calls that have ended.
    pub(super) ended: u64,
}

impl Spending {
    pub(super) fn refuse(&mut self, most: u64) {
        self.refused = Some(self.refused.map_or(most, |refused| refused.min(most)));
        let now = Instant::now();
        // Calls that were tried together count as one try.
        if self.is_due() {
            self.pause = (self.pause * 2).clamp(LOOK_AGAIN, LONGEST_PAUSE);
        }
        self.refused_since.get_or_insert(now);
        (self.looked, self.tried) = (Some(now), Some(now));
    }

    /// Whether a call may be tried although the last one did not fit.
    pub(super) fn is_due(&self) -> bool {
        self.tried.is_none_or(|at| at.elapsed() >= self.pause)
    }

    /// The next try is due [`LOOK_AGAIN`] after the last one, because more may be left.
    pub(super) fn end_pause(&mut self) {
        self.pause = self.pause.min(LOOK_AGAIN);
    }

    /// What an account has counted.
    pub(super) fn count(&mut self, since: Day, counted: u64) {
        if (self.since_counted, self.counted) != (since, counted) {
            (self.since_counted, self.counted) = (since, counted);
            self.end_pause();
        }
    }

    /// A call fitted.
    pub(super) fn fits(&mut self) {
        self.pause = Duration::ZERO;
        self.refused_since = None;
        if self.refused.is_some() {
            self.fitted = Some(Instant::now());
        }
    }

    /// Whether others are tried although a call did not fit: they may need less.
    #[cfg(feature = "queue")]
    pub(super) fn tries_others(&self) -> bool {
        let is_recent = |at: Instant| at.elapsed() < LOOK_AGAIN;
        self.trouble.is_none() && self.refused_since.or(self.fitted).is_some_and(is_recent)
    }

    /// Begins a new period with the calls in flight. Nothing of the earlier one is returned.
    pub(super) fn turn(&mut self, since: Day) {
        if self.since != since {
            (self.since, self.spent, self.recorded) = (since, 0, 0);
        }
    }

    /// Everything that it needs, with a further amount.
    pub(super) fn needed(&self, more: u64) -> u64 {
        self.spent.saturating_add(self.held).saturating_add(more)
    }

    /// Others do not wait for an account that could not be changed a moment ago.
    pub(super) fn recent_trouble(&self) -> Option<Error> {
        let is_recent = self.looked.is_some_and(|at| at.elapsed() < LOOK_AGAIN);
        self.trouble.clone().filter(|_| is_recent)
    }

    /// Holds an amount if the record covers it.
    pub(super) fn hold_recorded(&mut self, most: u64) -> bool {
        let is_held = self.needed(most) <= self.recorded;
        if is_held {
            self.held += most;
            // Others may have returned what an earlier call lacked.
            self.refused = self.refused.filter(|refused| most < *refused);
            self.fits();
        }
        is_held
    }
}
