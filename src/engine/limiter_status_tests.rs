//! The status that a limiter reports for its quotas.

use super::*;
use crate::engine::quota_status::RateStatus;

/// The rest of the requests per minute, and the time until all of it is available again.
fn left(limiter: &Limiter, quota: QuotaId, now: Time) -> (u64, u64, u128) {
    let status = limiter.status(quota, now).requests.unwrap();
    let RateStatus {
        limit,
        remaining,
        reset_after,
        ..
    } = status;
    (limit, remaining, reset_after.as_millis())
}

#[test]
fn the_status_of_a_configured_rate_is_the_number_of_possible_calls() {
    let limits = Limits::default().requests_per_minute(600.0).burst(10);
    let (limiter, quota) = open(limits.known());
    assert_eq!(left(&limiter, quota, at(0)), (600, 600, 0));
    for call in 1..10 {
        go(&limiter, quota, at(0)).unwrap();
        let told = left(&limiter, quota, at(0));
        assert_eq!(told, (600, 600 - call, u128::from(call) * 100));
    }
    go(&limiter, quota, at(0)).unwrap();
    // The next call has to wait.
    assert_eq!(left(&limiter, quota, at(0)), (600, 0, 1_000));
    assert_eq!(left(&limiter, quota, at(99)), (600, 0, 901));
    assert_eq!(left(&limiter, quota, at(100)), (600, 591, 900));
    assert!(go(&limiter, quota, at(100)).is_some());
    assert_eq!(left(&limiter, quota, at(5_000)), (600, 600, 0));
    let status = limiter.status(quota, at(5_000));
    assert_eq!((status.tokens, status.in_flight), (None, 11));
    assert_eq!(limiter.status(QuotaId::NONE, at(0)), QuotaStatus::default());
}

#[test]
fn the_status_of_a_large_burst_is_limited_to_a_minute() {
    let (limiter, quota) = open(Limits::default().requests_per_minute(6.0).burst(10));
    for expected in [5, 4, 3, 2, 1, 0, 0, 0, 0, 0] {
        go(&limiter, quota, at(0)).unwrap();
        assert_eq!(left(&limiter, quota, at(0)).1, expected);
    }
    assert!(go(&limiter, quota, at(0)).is_none());
}

#[test]
fn the_status_follows_the_report_of_the_provider() {
    let (limiter, quota) = open(Limits::default());
    assert_eq!(limiter.status(quota, at(0)).requests, None);
    let first = go(&limiter, quota, at(0)).unwrap();
    // Other programs have used the rest.
    reply(&limiter, first, &hints(600, 120, MINUTE), at(0));
    assert_eq!(left(&limiter, quota, at(0)), (600, 120, 48_000));
    let second = go(&limiter, quota, at(0)).unwrap();
    assert_eq!(left(&limiter, quota, at(0)), (600, 119, 48_100));
    assert_eq!(left(&limiter, quota, at(10_000)), (600, 219, 38_100));
    reply(&limiter, second, &hints(600, 500, MINUTE), at(10_000));
    assert_eq!(left(&limiter, quota, at(10_000)), (600, 500, 10_000));
    assert_eq!(left(&limiter, quota, at(20_000)), (600, 600, 0));
    // A daily limit is not shown as a limit per minute.
    let (limiter, quota) = open(Limits::default());
    let call = go(&limiter, quota, at(0)).unwrap();
    let day = hints(1000, 900, Duration::from_secs(86_400));
    reply(&limiter, call, &day, at(1));
    assert_eq!(limiter.status(quota, at(1)).requests, None);
}

#[test]
fn the_status_is_zero_during_a_pause_and_shows_used_tokens() {
    let limits = Limits::default().tokens_per_minute(6_000.0);
    let (limiter, quota) = open(limits.requests_per_minute(60.0));
    let call = go(&limiter, quota, at(0)).unwrap();
    let tokens = |now| {
        let status = limiter.status(quota, now).tokens.unwrap();
        let RateStatus {
            limit,
            remaining,
            reset_after,
            ..
        } = status;
        (limit, remaining, reset_after.as_millis())
    };
    assert_eq!(tokens(at(0)), (6_000, 5_990, 100));
    limiter.settle(
        call,
        CallEnd::Replied(Some((10, 490))),
        &RateHints::default(),
        at(0),
    );
    assert_eq!(tokens(at(0)), (6_000, 5_500, 5_000));
    let call = go(&limiter, quota, at(0)).unwrap();
    let refused = CallEnd::RateLimited(Some(Duration::from_secs(30)));
    limiter.settle(call, refused, &RateHints::default(), at(0));
    assert_eq!(left(&limiter, quota, at(0)), (60, 0, 30_000));
    assert_eq!(tokens(at(10_000)), (6_000, 0, 20_000));
    assert_eq!(
        limiter.status(quota, at(10_000)).paused_for,
        Duration::from_secs(20)
    );
    assert_eq!(tokens(at(30_000)), (6_000, 6_000, 0));
}
