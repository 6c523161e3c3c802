//! A quota of workers on several machines: each uses an equal part of the limits.

use std::time::Duration;

use crate::base::Time;

use super::Quota;

/// Workers count each other at least this often, so a new worker waits for this time before its first limited call.
const NOTICED_AFTER: Duration = Duration::from_secs(2);
/// A worker that could not count the others for this time starts no call, because they take over its jobs soon.
const UNCOUNTED: Duration = Duration::from_secs(10);

/// Interval of checks whether the division allows calls again.
const AGAIN: Duration = Duration::from_secs(1);

/// The live workers that divide a quota.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Division {
    workers: u32,
    /// Time of the last count.
    counted: Time,
    /// The others know from then on that this worker uses the quota.
    noticed: Time,
}

impl Division {
    /// The division before the others know that this worker uses the quota: all of them may use it.
    pub(in crate::engine) fn unlisted(live: usize, now: Time) -> Self {
        Self {
            workers: u32::try_from(live).unwrap_or(u32::MAX).max(1),
            counted: now,
            noticed: Time::FAR,
        }
    }

    /// The division after a count of the workers that use the quota; `is_listed`: whether this worker is one of them.
    pub(in crate::engine) fn counted(self, workers: usize, is_listed: bool, now: Time) -> Self {
        let since = now.after(NOTICED_AFTER).min(self.noticed);
        Self {
            noticed: if is_listed { since } else { Time::FAR },
            ..Self::unlisted(workers, now)
        }
    }
}

impl Quota {
    fn part(&self) -> f64 {
        let division = self.division;
        division.map_or(1.0, |division| 1.0 / f64::from(division.workers))
    }

    /// Gives the buckets their part of the limits.
    pub(super) fn apportion(&mut self, now: Time) {
        let part = self.part();
        let buckets = [&mut self.requests, &mut self.tokens];
        for bucket in buckets.into_iter().flatten() {
            bucket.apportion(part, now);
        }
    }

    /// Calls in flight until the first reply.
    pub(super) fn first_calls(&self) -> f64 {
        let burst = if self.starts_with_one {
            1
        } else {
            self.given.burst
        };
        (f64::from(burst) * self.part()).floor().max(1.0)
    }

    /// When to check again, if the other workers do not know of this one yet, or may consider it dead.
    pub(super) fn held_by_division(&self, now: Time) -> Option<Time> {
        let division = self.division?;
        let is_limited = self.requests.is_some() || self.tokens.is_some();
        if is_limited && division.noticed > now {
            return Some(division.noticed.min(now.after(AGAIN)));
        }
        (now.since(division.counted) >= UNCOUNTED).then(|| now.after(AGAIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::RateHints;
    use crate::engine::limiter::{CallEnd, Gate, Limiter, Limits, QuotaId, QuotaKey};

    const SECOND: Duration = Duration::from_secs(1);

    /// Divides the quotas among this many workers that use all of them.
    fn divide(limiter: &Limiter, workers: usize, now: Time) {
        let keys = limiter.keys();
        limiter.divide(&keys, &vec![&keys[..]; workers], now);
    }

    fn limiter(limits: Limits, workers: usize) -> (Limiter, QuotaId) {
        let limiter = Limiter::new();
        let quota = limiter.quota(QuotaKey::new(&["q"]), limits, 0, Time::ZERO);
        divide(&limiter, workers, Time::ZERO);
        (limiter, quota)
    }

    /// Calls that start in one minute, with a count of the workers each second.
    fn calls_of_a_minute(limits: Limits, workers: usize) -> usize {
        let (limiter, quota) = limiter(limits, workers);
        let (begin, mut now, mut calls) = (Time::ZERO.after(NOTICED_AFTER), Time::ZERO, 0);
        let mut next_count = Time::ZERO;
        while now < begin.after(60 * SECOND) {
            if now >= next_count {
                divide(&limiter, workers, now);
                next_count = now.after(SECOND);
            }
            match limiter.try_acquire(quota, 10, Some(0), now) {
                Gate::Go(permit) => {
                    assert!(now >= begin, "a call at {now:?}");
                    limiter.settle(permit, CallEnd::Replied(None), &RateHints::default(), now);
                    calls += 1;
                }
                Gate::NotUntil(at) => now = at.min(next_count),
            }
        }
        calls
    }

    #[test]
    fn workers_use_equal_parts_of_a_limit_and_of_the_burst() {
        let requests = Limits::default().requests_per_minute(600.0).burst(10);
        assert!((600..=611).contains(&calls_of_a_minute(requests, 1)));
        assert!((120..=123).contains(&calls_of_a_minute(requests, 5)));
        // The burst is at least 1.
        assert!((6..=7).contains(&calls_of_a_minute(requests, 100)));
        let tokens = Limits::default().tokens_per_minute(6_000.0);
        assert!((120..=141).contains(&calls_of_a_minute(tokens, 5)));
    }

    #[test]
    fn only_workers_that_use_a_quota_divide_it() {
        let (limiter, quota) = limiter(Limits::default().requests_per_minute(60.0).burst(1), 2);
        let own = limiter.keys();
        let now = Time::ZERO.after(NOTICED_AFTER);
        limiter.divide(&own, &[&own[..], &[1, 2], &[], &own[..]], now);
        let Gate::Go(permit) = limiter.try_acquire(quota, 1, None, now) else {
            panic!("no call starts")
        };
        limiter.settle(permit, CallEnd::Replied(None), &RateHints::default(), now);
        let start = |at| matches!(limiter.peek(quota, 1, None, now.after(at)), Gate::Go(_));
        assert!(!start(SECOND * 19 / 10) && start(2 * SECOND));
    }

    #[test]
    fn a_worker_starts_no_limited_call_before_the_others_know_that_it_uses_the_quota() {
        let limits = Limits::default().requests_per_minute(600.0);
        let (limiter, first) = limiter(limits, 2);
        let start = |quota, at| matches!(limiter.peek(quota, 1, None, at), Gate::Go(_));
        let at = |seconds: u32| Time::ZERO.after(seconds * SECOND);
        assert!(!start(first, at(1)) && start(first, at(2)));
        let later = limiter.quota(QuotaKey::new(&["later"]), limits, 0, at(5));
        assert!(!start(later, at(9)) && start(first, at(9)));
        divide(&limiter, 2, at(10));
        assert!(!start(later, at(11)) && start(later, at(12)));
        // The others took it for dead, and its new row lists nothing yet.
        limiter.divide(&[], &[], at(13));
        assert!(!start(first, at(14)));
    }

    #[test]
    fn a_worker_that_could_not_count_the_others_starts_no_call() {
        let (limiter, quota) = limiter(Limits::default(), 3);
        let start = |now| matches!(limiter.peek(quota, 1, None, now), Gate::Go(_));
        assert!(start(Time::ZERO.after(9 * SECOND)));
        assert!(!start(Time::ZERO.after(UNCOUNTED)));
        divide(&limiter, 3, Time::ZERO.after(11 * SECOND));
        assert!(start(Time::ZERO.after(11 * SECOND)));
        limiter.undivide();
        assert!(start(Time::ZERO.after(60 * SECOND)));
    }

    #[test]
    fn until_the_first_reply_workers_divide_the_calls_in_flight_too() {
        let (limiter, quota) = limiter(Limits::default().burst(10), 4);
        let start = || matches!(limiter.try_acquire(quota, 1, None, Time::ZERO), Gate::Go(_));
        assert!(start() && start() && !start());
    }
}
