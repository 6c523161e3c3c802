//! What a learned limit rests on, and when it is doubted.
//!
//! Most providers report a limit with each reply. One that was reported once, such as by a proxy on the way, would
//! hold calls back for as long as the run lasts. So a limit that was not reported for a minute, while calls are
//! answered without it, is doubted: calls go out faster. If one of them is refused, the limit holds again, and is
//! doubted later than before. After three minutes it is dropped.

use std::time::Duration;

use crate::base::clock::Time;

use super::Bucket;

/// A limit is doubted when it was not reported for so long, at first.
const TRUSTED: Duration = Duration::from_secs(60);
/// The same at most, for limits that refusals confirmed.
const LONGEST_TRUSTED: Duration = Duration::from_secs(3600);
/// It is dropped after this multiple of that time.
const DROPPED: u32 = 3;
/// A report of another process that is later by less is the one that is known: clocks do not run alike.
const SAME: Duration = Duration::from_secs(1);
/// No reply reports a lower limit than one per minute.
const LEAST: f64 = 0.999 / 60.0;
/// How much faster calls go out meanwhile.
const FASTER: f64 = 2.0;

/// When and how a limit was learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::engine) struct Learned {
    at: Time,
    /// How long ago that was then: other processes learn earlier than one begins.
    before: Duration,
    pub header: Option<&'static str>,
    /// It was reported to another process only.
    pub is_elsewhere: bool,
    is_doubted: bool,
    trusted: Duration,
}

impl Learned {
    /// Reported to another process so long ago.
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

    /// Reported by a reply now; what was known of it before has been right or wrong.
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

    /// How long ago it was last reported.
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

/// Takes over a limit that was reported to another process so long ago: what somebody has just learned is worth
/// knowing from the start. A limit that was dropped since is not taken over.
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
        Some(bucket) => bucket.hear(age, now),
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

    /// It was reported to another process so long ago.
    fn hear(&mut self, age: Duration, now: Time) {
        let known = self.learned.map(|learned| learned.age(now));
        if known.is_some_and(|known| age.saturating_add(SAME) < known) {
            self.confirm(age, now);
        }
    }

    /// What was doubted is a limit, so long ago or, if a call was refused, now.
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

    /// A call was answered, and the reply does not report the limit. Returns whether it is dropped.
    pub(in crate::engine) fn is_unreported(&mut self, now: Time) -> bool {
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
        // What was reported to others only is a guess, which the first reply tells right or wrong.
        learned.is_elsewhere || age >= DROPPED * learned.trusted
    }
}

#[cfg(test)]
#[path = "learned_tests.rs"]
mod tests;
