//! The arithmetic of one allowance: a bucket that refills all the time, and what replies teach
//! about its rate and about the size of answers.

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::hints::RateWindow;

use super::quota_status::RateStatus;

mod learned;

pub(super) use learned::{Learned, adopt_limit};

/// A continuously refilled allowance. It may go into debt: a call larger than the whole
/// allowance is let through alone and paid off afterwards.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    pub per_second: f64,
    pub capacity: f64,
    pub level: f64,
    /// What it was learned from, if nobody set it.
    pub learned: Option<Learned>,
    /// The part of the rate with which it fills: less than all where others are given some of it.
    pub supply: f64,
    /// What the provider counts as used beyond what is missing here: others use the same allowance, and it keeps more
    /// at hand than may start at once.
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
            supply: 1.0,
            elsewhere: 0.0,
            at: now,
        }
    }

    /// The same bucket with no more in it than that.
    pub(super) fn at_most(self, level: f64) -> Self {
        Self {
            level: self.level.min(level),
            ..self
        }
    }

    /// A bucket whose rate was reported to another process so long ago: one at a time until a reply says more.
    pub(super) fn adopted(per_second: f64, age: Duration, now: Time) -> Self {
        Self {
            learned: Some(Learned::elsewhere(age, now)),
            ..Self::per_minute(per_second * 60.0, 1.0, now)
        }
    }

    pub(super) fn refill(&mut self, now: Time) {
        self.fill(self.level + now.since(self.at).as_secs_f64() * self.per_second * self.supply);
        self.at = self.at.max(now);
    }

    /// What does not fit in here comes back over there.
    fn fill(&mut self, level: f64) {
        self.level = level.min(self.capacity);
        self.elsewhere = (self.elsewhere - (level - self.level)).max(0.0);
    }

    /// What is left of a minute's allowance.
    pub(super) fn status(&mut self, now: Time) -> RateStatus {
        self.refill(now);
        let limit = self.minute().round().max(1.0);
        let used = (self.capacity - self.level).max(0.0) + self.elsewhere;
        // The same hair of tolerance as for those who wait.
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

    /// What comes in within a minute.
    pub(super) fn minute(&self) -> f64 {
        self.per_second * 60.0
    }

    /// Adds what was reserved in excess, or takes what was used beyond it. Replies may state any
    /// number: what is owed for one is a minute's worth at most, beside what was reserved.
    pub(super) fn put_right(&mut self, by: f64) {
        let floor = self.level.min(-self.minute());
        self.fill((self.level + by).max(floor));
    }

    /// Time until `need` (or, if that is more than fits, a full bucket) is there.
    pub(super) fn wait_for(&self, need: f64) -> Duration {
        // A hair of tolerance: rounding must not send a caller into a second, empty wait.
        let missing = need.min(self.capacity) - self.level - 1e-6;
        if missing <= 0.0 {
            Duration::ZERO
        } else {
            Duration::from_secs_f64((missing / (self.per_second * self.supply)).min(1e9))
        }
    }
}

/// Output tokens of recent replies; their 95th percentile is what the next call reserves.
#[derive(Debug, Default)]
pub(super) struct OutputSizes {
    recent: VecDeque<u64>,
    seen: usize,
    pub reserve: Option<f64>,
}

impl OutputSizes {
    const KEEP: usize = 256;
    const ENOUGH: usize = 16;

    pub(super) fn learn(&mut self, tokens: u64) {
        if self.recent.len() == Self::KEEP {
            self.recent.pop_front();
        }
        self.recent.push_back(tokens);
        self.seen += 1;
        // Sorting on every reply would be waste: the percentile moves slowly.
        if self.seen.is_multiple_of(Self::ENOUGH) {
            let mut sorted: Vec<u64> = self.recent.iter().copied().collect();
            sorted.sort_unstable();
            self.reserve = Some(sorted[sorted.len() * 95 / 100] as f64);
        }
    }
}

pub(super) fn is_minute(window: &RateWindow) -> bool {
    window.period <= Duration::from_secs(60)
}

/// Ten seconds' worth: enough not to trip over one long prompt, little enough to stay smooth.
pub(super) fn token_capacity(per_minute: f64) -> f64 {
    (per_minute / 6.0).max(1.0)
}

/// Takes over a limit per minute. A daily limit is no pace: dividing it by minutes would crawl.
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
    let learned = bucket.learned.take();
    bucket.learned = Some(Learned::reported(learned, window.header, now));
    bucket.capacity = capacity(per_minute);
    if let Some(remaining) = window.remaining {
        let left = remaining as f64 - unseen;
        bucket.level = if fresh {
            left.min(bucket.capacity)
        } else {
            bucket.level.min(left)
        };
        let used = window.limit as f64 - left;
        bucket.elsewhere = (used - (bucket.capacity - bucket.level)).max(0.0);
    }
}
