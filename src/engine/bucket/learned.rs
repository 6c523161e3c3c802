//! Learned limits, and when they are dropped.
//!
//! Most providers report a limit with each reply. A limit that was reported only once, for example by a proxy, would
//! slow the run until its end. So a limit is dropped if calls are answered after ten minutes without a report of it.

use std::time::Duration;

use crate::base::Time;

use super::Bucket;

/// A limit without a report for this long is dropped when a call is answered.
const TRUSTED: Duration = Duration::from_secs(600);
/// A limit that was reported to another process less than this ago is adopted.
const RECENT: Duration = Duration::from_secs(60);
/// A report of another process that is newer by less than this is the known one, because clocks differ.
const SAME: Duration = Duration::from_secs(1);
/// Lowest limit that is adopted: one per minute.
const LEAST: f64 = 0.999 / 60.0;

/// When and how a limit was learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::engine) struct Learned {
    at: Time,
    /// Age of the report at `at`: other processes may have learned the limit before this run began.
    before: Duration,
    pub header: Option<&'static str>,
    /// Only another process saw the report.
    pub is_elsewhere: bool,
}

impl Learned {
    /// A limit that was reported to another process `age` ago.
    pub(in crate::engine) fn elsewhere(age: Duration, now: Time) -> Self {
        Self {
            at: now,
            before: age,
            header: None,
            is_elsewhere: true,
        }
    }

    /// A limit that a reply reports now.
    pub(in crate::engine) fn reported(header: Option<&'static str>, now: Time) -> Self {
        Self {
            header,
            is_elsewhere: false,
            ..Self::elsewhere(Duration::ZERO, now)
        }
    }

    /// Time since the last report.
    pub(in crate::engine) fn age(&self, now: Time) -> Duration {
        self.before.saturating_add(now.since(self.at))
    }

    /// Whether a call that is answered without a report of the limit drops it. A limit that only others saw is a guess
    /// until the first reply here.
    pub(in crate::engine) fn is_over(&self, now: Time) -> bool {
        self.is_elsewhere || self.age(now) >= TRUSTED
    }
}

/// Adopts a limit that was reported to another process `age` ago, so that a new run starts with it. A limit that was
/// dropped after that report is not adopted.
pub(in crate::engine) fn adopt_limit(
    bucket: &mut Option<Bucket>,
    per_second: f64,
    age: Duration,
    dropped: Option<Time>,
    now: Time,
) {
    if per_second < LEAST || !per_second.is_finite() {
        return;
    }
    match bucket {
        Some(bucket) => {
            if let Some(learned) = &mut bucket.learned
                && age.saturating_add(SAME) < learned.age(now)
            {
                (learned.at, learned.before) = (now, age);
            }
        }
        None if age < RECENT && dropped.is_none_or(|at| age < now.since(at)) => {
            *bucket = Some(Bucket::adopted(per_second, age, now));
        }
        None => {}
    }
}

#[cfg(test)]
#[path = "learned_tests.rs"]
mod tests;
