//! Rejections that do not depend on the rate of calls, for example because the provider is short of capacity.
//!
//! A [`Level`] counts the calls at a rate that is below what had been accepted at the rates before. If the same part of them
//! is rejected on level after level, no rate avoids the rejections. They are [`Outliers`], which are tolerated.

/// The rate is not the cause of rejections if it was lowered this often to less than this part of what had been
/// accepted, this number of calls was rejected before and after each time, and their share of the calls did not fall to
/// this part. A limit that was lowered explains one time.
const IN_VAIN: u32 = 2;
const LESS: f64 = 0.9;
const REFUSED: u64 = 3;
const HELPED: f64 = 0.5;
/// A rate this much higher makes the calls at lower rates irrelevant.
const GREW: f64 = 1.1;
/// Outliers are tolerated up to this multiple of the part of the calls that was rejected at lower and lower rates. That part
/// is bounded on both sides, and the first few are always tolerated.
const TOLERATED: f64 = 1.5;
const LEAST: f64 = 0.075;
const MOST: f64 = 0.75;
const FIRST: f64 = 5.0;
/// Number of recent calls that count, so that an outage is noticed, and of answers after which a rate may help again.
const RECENT: f64 = 100.0;
const LOOK_AGAIN: u64 = 2_000;

/// Numbers of calls that were answered and rejected.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    answered: u64,
    refused: u64,
}

impl Tally {
    fn all(self) -> f64 {
        (self.answered + self.refused).max(1) as f64
    }

    fn age(&mut self) {
        if self.all() >= RECENT {
            (self.answered, self.refused) = (self.answered / 2, self.refused / 2);
        }
    }

    /// The part that was rejected.
    fn share(self) -> f64 {
        self.refused as f64 / self.all()
    }

    /// The same plus its standard error.
    fn share_at_most(self) -> f64 {
        let share = self.share();
        share + (share * (1.0 - share) / self.all()).sqrt()
    }
}

/// Calls since the rate was last lowered below what the provider had accepted, or since it grew. Calls are numbered in the
/// order of their start.
#[derive(Debug)]
pub(super) struct Level {
    /// The highest rate of these calls.
    rate: f64,
    /// The last call that does not count.
    before: u64,
    calls: Tally,
    /// How often the rate was lowered below what had been accepted, and the part of the calls that was rejected before
    /// the last time.
    depth: u32,
    above: f64,
}

impl Level {
    pub(super) fn new(rate: f64, before: u64) -> Self {
        Self {
            rate,
            before,
            calls: Tally::default(),
            depth: 0,
            above: 0.0,
        }
    }

    /// Calls accepted after a pause, until the next rejection, may use what the provider's allowance grew meanwhile. They
    /// do not count.
    pub(super) fn paused(&mut self) {
        self.before = u64::MAX;
    }

    pub(super) fn answered(&mut self, call: u64) {
        self.calls.answered += u64::from(call > self.before);
    }

    pub(super) fn refused(&mut self, call: u64) {
        if self.before == u64::MAX {
            self.before = call - 1;
        }
        self.refused_late(call);
    }

    /// A rejection of a call that had started before the last rejection was known.
    pub(super) fn refused_late(&mut self, call: u64) {
        self.calls.refused += u64::from(call > self.before);
    }

    /// The rate has changed; `last` is the last call before.
    pub(super) fn grown_to(&mut self, rate: f64, last: u64) {
        if rate > GREW * self.rate {
            *self = Self::new(rate, last);
        }
    }

    /// Whether rejections do not depend on the rate; if so, the part of the calls that is rejected, at most. `lower` is the
    /// rate now, and `last` the last call before.
    pub(super) fn in_vain(&mut self, lower: f64, last: u64) -> Option<f64> {
        let share = self.calls.share_at_most();
        if self.calls.refused < REFUSED {
            return None;
        }
        if share < HELPED * self.above {
            *self = Self::new(lower, last);
        } else if self.depth == IN_VAIN {
            return Some(share);
        } else if lower < LESS * (1.0 - share) * self.rate {
            *self = Self {
                depth: self.depth + 1,
                above: self.calls.share(),
                ..Self::new(lower, last)
            };
        }
        None
    }
}

/// Rejections that no rate avoids.
#[derive(Debug)]
pub(super) struct Outliers {
    /// The part of the calls that may be rejected.
    tolerated: f64,
    /// The recent calls; older ones count half.
    calls: Tally,
    /// Since this is known.
    answers: u64,
}

impl Outliers {
    /// `share` is the part of the calls that was rejected.
    pub(super) fn new(share: f64) -> Self {
        Self {
            tolerated: (TOLERATED * share).clamp(LEAST, MOST),
            calls: Tally::default(),
            answers: 0,
        }
    }

    /// Records an answer. Returns false if a rate may help again.
    pub(super) fn answered(&mut self) -> bool {
        self.calls.answered += 1;
        self.calls.age();
        self.answers += 1;
        self.answers < LOOK_AGAIN
    }

    /// Records a rejection. Returns false if there are too many.
    pub(super) fn refused(&mut self) -> bool {
        self.calls.refused += 1;
        self.calls.age();
        self.calls.refused as f64 <= FIRST + self.tolerated * self.calls.all()
    }
}
