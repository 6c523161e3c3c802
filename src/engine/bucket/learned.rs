//! Learned limits, and when they are doubted.
//!
//! Most providers report a limit with each reply. A limit that was reported only once, for example by a proxy, would
//! slow the run until its end. So a limit is doubted if calls are answered for a minute without a report of it: calls
//! then start at twice the rate. If one of them is rate-limited, the limit holds again and is doubted later than
//! before. After three minutes without a report, the limit is dropped.

use std::time::Duration;

use crate::base::Time;

use super::Bucket;

/// Time without a report after which a limit is doubted.
const TRUSTED: Duration = Duration::from_secs(60);
/// The same at most, for limits that rate-limited calls confirmed.
const LONGEST_TRUSTED: Duration = Duration::from_secs(3600);
/// A limit is dropped after this multiple of that time.
const DROPPED: u32 = 3;
/// A report of another process that is newer by less than this is the known one, because clocks differ.
const SAME: Duration = Duration::from_secs(1);
/// Lowest limit that is adopted: one per minute.
const LEAST: f64 = 0.999 / 60.0;
/// Factor of the rate while a limit is doubted.
const FASTER: f64 = 2.0;

/// When and how a limit was learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::engine) struct Learned {
    at: Time,
    /// Age of the report at `at`: other processes may have learned the limit before this run began.
    before: Duration,
    pub header: Option<&'static str>,
    /// Only another process saw the report.
    pub is_elsewhere: bool,
    is_doubted: bool,
    trusted: Duration,
}

impl Learned {
    /// A limit that was reported to another process `age` ago.
    pub(in crate::engine) fn elsewhere(age: Duration, now: Time) -> Self {
        Self {
            at: now,
            before: age,
            header: None,
            is_elsewhere: true,
            is_doubted: false,
            trusted: TRUSTED,
        }
    }

    /// A limit that a reply reports now, which may confirm what was learned before.
    pub(in crate::engine) fn reported(
        before: Option<Self>,
        header: Option<&'static str>,
        now: Time,
    ) -> Self {
        let mut learned = before.unwrap_or(Self::elsewhere(Duration::ZERO, now));
        learned.confirm(Duration::ZERO, now);
        Self {
            header,
            is_elsewhere: false,
            ..learned
        }
    }

    /// Time since the last report.
    pub(in crate::engine) fn age(&self, now: Time) -> Duration {
        self.before.saturating_add(now.since(self.at))
    }

    fn confirm(&mut self, age: Duration, now: Time) {
        if std::mem::take(&mut self.is_doubted) {
            self.trusted = (2 * self.trusted).min(LONGEST_TRUSTED);
        }
        (self.at, self.before) = (now, age);
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
        Some(bucket) => bucket.reported_elsewhere(age, now),
        None if age < TRUSTED && dropped.is_none_or(|at| age < now.since(at)) => {
            *bucket = Some(Bucket::adopted(per_second, age, now));
        }
        None => {}
    }
}

impl Bucket {
    pub(in crate::engine) fn is_doubted(&self) -> bool {
        self.learned.is_some_and(|learned| learned.is_doubted)
    }

    /// Another process saw a report `age` ago.
    fn reported_elsewhere(&mut self, age: Duration, now: Time) {
        let known = self.learned.map(|learned| learned.age(now));
        if known.is_some_and(|known| age.saturating_add(SAME) < known) {
            self.confirm(age, now);
        }
    }

    /// Confirms the limit as of `age` ago (zero if a call was rate-limited now), and ends the doubt.
    pub(in crate::engine) fn confirm(&mut self, age: Duration, now: Time) {
        let is_doubted = self.is_doubted();
        if let Some(learned) = &mut self.learned {
            learned.confirm(age, now);
            if is_doubted {
                self.refill(now);
                self.per_second /= FASTER;
            }
        }
    }

    /// A call was answered, and its reply does not report the limit. Returns true if the limit is dropped.
    pub(in crate::engine) fn note_unreported(&mut self, now: Time) -> bool {
        let Some(mut learned) = self.learned else {
            return false;
        };
        let age = learned.age(now);
        if age >= learned.trusted && !learned.is_doubted {
            self.refill(now);
            self.per_second *= FASTER;
            learned.is_doubted = true;
            self.learned = Some(learned);
        }
        // A limit that only others saw is a guess until the first reply here confirms or refutes it.
        learned.is_elsewhere || age >= DROPPED * learned.trusted
    }
}

#[cfg(test)]
#[path = "learned_tests.rs"]
mod tests;
