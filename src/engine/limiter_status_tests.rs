//! The status that a limiter reports for its quotas.

use super::*;
use crate::engine::quota::RateStatus;

/// The limit, the rest of it, and the milliseconds until all of it is available again.
fn shown(status: Option<RateStatus>) -> (u64, u64, u128) {
    let status = status.expect("a limit");
    let reset_after = status.reset_after.as_millis();
    (status.limit, status.remaining, reset_after)
}

impl Open {
    fn left(&self, now: Time) -> (u64, u64, u128) {
        shown(self.limiter.status(self.quota, now).requests)
    }

    fn left_tokens(&self, now: Time) -> (u64, u64, u128) {
        shown(self.limiter.status(self.quota, now).tokens)
    }
}

#[test]
fn the_status_of_a_configured_rate_is_the_number_of_possible_calls() {
    let limits = Limits::default().requests_per_minute(600.0).burst(10);
    let q = open(limits.known());
    assert_eq!(q.left(at(0)), (600, 600, 0));
    for call in 1..10 {
        q.go(at(0)).unwrap();
        assert_eq!(q.left(at(0)), (600, 600 - call, u128::from(call) * 100));
    }
    q.go(at(0)).unwrap();
    // The next call has to wait.
    assert_eq!(q.left(at(0)), (600, 0, 1_000));
    assert_eq!(q.left(at(99)), (600, 0, 901));
    assert_eq!(q.left(at(100)), (600, 591, 900));
    assert!(q.go(at(100)).is_some());
    assert_eq!(q.left(at(5_000)), (600, 600, 0));
    let status = q.limiter.status(q.quota, at(5_000));
    assert_eq!((status.tokens, status.in_flight), (None, 11));
    let none = q.limiter.status(QuotaId::NONE, at(0));
    assert_eq!(none, QuotaStatus::default());
}

#[test]
fn the_status_of_a_large_burst_is_limited_to_a_minute() {
    let q = open(Limits::default().requests_per_minute(6.0).burst(10));
    for expected in [5, 4, 3, 2, 1, 0, 0, 0, 0, 0] {
        q.go(at(0)).unwrap();
        assert_eq!(q.left(at(0)).1, expected);
    }
    assert!(q.go(at(0)).is_none());
}

#[test]
fn the_status_follows_the_report_of_the_provider() {
    let q = open(Limits::default());
    assert_eq!(q.limiter.status(q.quota, at(0)).requests, None);
    // Other programs have used the rest.
    q.reply(q.go(at(0)).unwrap(), &hints(600, 120, MINUTE), at(0));
    assert_eq!(q.left(at(0)), (600, 120, 48_000));
    let second = q.go(at(0)).unwrap();
    assert_eq!(q.left(at(0)), (600, 119, 48_100));
    assert_eq!(q.left(at(10_000)), (600, 219, 38_100));
    q.reply(second, &hints(600, 500, MINUTE), at(10_000));
    assert_eq!(q.left(at(10_000)), (600, 500, 10_000));
    assert_eq!(q.left(at(20_000)), (600, 600, 0));
    // A daily limit is not shown as a limit per minute.
    let q = open(Limits::default());
    let day = hints(1000, 900, Duration::from_secs(86_400));
    q.reply(q.go(at(0)).unwrap(), &day, at(1));
    assert_eq!(q.limiter.status(q.quota, at(1)).requests, None);
}

#[test]
fn the_status_is_zero_during_a_pause_and_shows_used_tokens() {
    let limits = Limits::default().tokens_per_minute(6_000.0);
    let q = open(limits.requests_per_minute(60.0));
    let call = q.go(at(0)).unwrap();
    assert_eq!(q.left_tokens(at(0)), (6_000, 5_990, 100));
    q.uses(call, 10, 490, at(0));
    assert_eq!(q.left_tokens(at(0)), (6_000, 5_500, 5_000));
    q.ends(q.go(at(0)).unwrap(), refused(30), at(0));
    assert_eq!(q.left(at(0)), (60, 0, 30_000));
    assert_eq!(q.left_tokens(at(10_000)), (6_000, 0, 20_000));
    let paused = q.limiter.status(q.quota, at(10_000)).paused_for;
    assert_eq!(paused, Duration::from_secs(20));
    assert_eq!(q.left_tokens(at(30_000)), (6_000, 6_000, 0));
}
