//! A token bucket for one limit, with what replies teach about the limit and about the size of answers.

use std::time::Duration;

use crate::base::{RateWindow, Time};

use super::quota::RateStatus;

/// A learned limit without a report for this long is dropped when a call is answered. Most providers report a limit with
/// each reply; one that was reported only once, for example by a proxy, would slow the run until its end.
const TRUSTED: Duration = Duration::from_secs(120);

/// The calls that a limit per time allows: now, and further ones per second.
#[derive(Clone, Copy)]
pub(super) struct Flow {
    pub level: f64,
    pub per_second: f64,
}

impl Flow {
    /// Time until this many calls can have started, or until it is to be asked again: the limit may change.
    pub(super) fn wait_for(self, calls: f64) -> Duration {
        let seconds = (calls - self.level) / self.per_second;
        Duration::from_secs_f64(seconds.clamp(0.0, 60.0))
    }
}

/// A continuously refilled token bucket. Its level can be negative: a call larger than the capacity starts alone and
/// is paid off afterwards.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    pub per_second: f64,
    pub capacity: f64,
    pub level: f64,
    /// When a reply last reported the limit; `None` if the user set it.
    pub learned: Option<Time>,
    /// The part of the rate and of the capacity that this bucket has: less than 1 if other workers have the rest.
    part: f64,
    /// What the provider counts as used in addition to what is missing here: use by others, and what it keeps beyond
    /// the capacity.
    elsewhere: f64,
    at: Time,
}

impl Bucket {
    pub(super) fn per_minute(limit: f64, capacity: f64, now: Time) -> Self {
        Self {
            per_second: limit / 60.0,
            capacity,
            level: capacity,
            learned: None,
            part: 1.0,
            elsewhere: 0.0,
            at: now,
        }
    }

    /// Changes the part of the limit that this bucket has.
    pub(super) fn apportion(&mut self, part: f64, now: Time) {
        if part != self.part {
            self.refill(now);
            self.part = part;
            self.level = self.level.min(self.most());
        }
    }

    /// The highest level.
    fn most(&self) -> f64 {
        self.capacity.min((self.capacity * self.part).max(1.0))
    }

    pub(super) fn refill(&mut self, now: Time) {
        self.fill(self.level + now.since(self.at).as_secs_f64() * self.per_second * self.part);
        self.at = self.at.max(now);
    }

    /// Sets the level. An excess over the capacity is subtracted from `elsewhere`.
    fn fill(&mut self, level: f64) {
        self.level = level.min(self.most());
        self.elsewhere = (self.elsewhere - (level - self.level)).max(0.0);
    }

    /// Whether a call that is answered without a report of the limit drops it.
    pub(super) fn is_outdated(&self, now: Time) -> bool {
        self.learned.is_some_and(|at| now.since(at) >= TRUSTED)
    }

    /// What is left of the limit per minute.
    pub(super) fn status(&mut self, now: Time) -> RateStatus {
        self.refill(now);
        let limit = self.minute().round().max(1.0);
        let used = (self.most() - self.level).max(0.0) + self.elsewhere;
        // The same tolerance as in `wait_for`.
        let left = if self.level + 1e-6 < 1.0 {
            0.0
        } else {
            (limit - used + 1e-6).max(0.0)
        };
        RateStatus {
            limit: limit as u64,
            remaining: left as u64,
            reset_after: Duration::from_secs_f64((used / self.per_second).min(1e9)),
        }
    }

    /// What the bucket gains in a minute.
    pub(super) fn minute(&self) -> f64 {
        self.per_second * 60.0
    }

    /// The calls that it allows, if each needs this much.
    pub(super) fn flow(&mut self, need: f64, now: Time) -> Flow {
        self.refill(now);
        let need = self.at_most_full(need);
        Flow {
            level: self.level / need,
            per_second: self.per_second * self.part / need,
        }
    }

    /// A need, or the level at which a larger one is served.
    fn at_most_full(&self, need: f64) -> f64 {
        need.min(self.most())
    }

    /// Adds what was reserved in excess, or takes what was used in addition. Replies can report any number, so one
    /// reply creates a debt of at most a minute's refill.
    pub(super) fn correct(&mut self, by: f64) {
        let floor = self.level.min(-self.minute());
        self.fill((self.level + by).max(floor));
    }

    /// Time until `need` is available, or until the bucket is full if `need` exceeds the capacity.
    pub(super) fn wait_for(&self, need: f64) -> Duration {
        let (level, per_second) = (self.level, self.per_second * self.part);
        // A small tolerance, so that rounding does not cause a second, empty wait.
        Flow { level, per_second }.wait_for(self.at_most_full(need) - 1e-6)
    }
}

/// Moves the output tokens that a call reserves towards the 95th percentile of recent replies: up by a step in a
/// twentieth of all cases, down by a nineteenth of it in the others.
pub(super) fn learn_output(reserve: &mut Option<f64>, tokens: u64) {
    let tokens = tokens as f64;
    let reserve = reserve.get_or_insert(tokens);
    let step = (*reserve / 8.0).max(1.0);
    *reserve = if tokens > *reserve {
        (*reserve + step).min(tokens)
    } else {
        (*reserve - step / 19.0).max(tokens)
    };
}

pub(super) fn is_minute(window: &RateWindow) -> bool {
    window.period <= Duration::from_secs(60)
}

/// Ten seconds' worth of tokens: enough for one long prompt, and small enough for an even rate.
pub(super) fn token_capacity(per_minute: f64) -> f64 {
    (per_minute / 6.0).max(1.0)
}

/// Applies a reported limit per minute or shorter. Daily limits are ignored: divided by minutes they would be far too
/// slow.
pub(super) fn learn_window(
    bucket: &mut Option<Bucket>,
    window: RateWindow,
    unseen: f64,
    now: Time,
    capacity: impl Fn(f64) -> f64,
) {
    if !is_minute(&window) || window.limit == 0 {
        return;
    }
    let per_minute = window.limit as f64 * 60.0 / window.period.as_secs_f64();
    let fresh = bucket.is_none();
    let bucket =
        bucket.get_or_insert_with(|| Bucket::per_minute(per_minute, capacity(per_minute), now));
    bucket.refill(now);
    bucket.per_second = per_minute / 60.0;
    bucket.learned = Some(now);
    bucket.capacity = capacity(per_minute);
    if let Some(remaining) = window.remaining {
        let left = remaining as f64 - unseen;
        bucket.level = if fresh {
            left.min(bucket.most())
        } else {
            bucket.level.min(left)
        };
        let used = window.limit as f64 - left;
        bucket.elsewhere = (used - (bucket.most() - bucket.level)).max(0.0);
    }
}
