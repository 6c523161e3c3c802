//! Limits that are reported once, always, or with refusals only.

use std::time::Duration;

use crate::base::{RateHints, RateWindow, Time};

use crate::engine::limiter::{CallEnd, Gate, Limiter, Limits, QuotaId, QuotaKey};
use crate::engine::quota_status::LimitSource;

const HEADER: &str = "x-ratelimit-limit-requests";

fn at(ms: u64) -> Time {
    Time::from_nanos(ms * 1_000_000)
}

fn report(limit: u64) -> RateHints {
    RateHints {
        requests: Some(RateWindow {
            limit,
            period: Duration::from_secs(60),
            remaining: Some(0),
            reset: None,
            header: Some(HEADER),
        }),
        tokens: None,
    }
}

fn open() -> (Limiter, QuotaId) {
    let limiter = Limiter::new();
    let limits = Limits::default().burst(1);
    let quota = limiter.quota(QuotaKey::new(&["p"]), limits, 0, at(0));
    (limiter, quota)
}

const TAKES: Duration = Duration::from_millis(100);

/// Makes a call as soon as one may start; `reply` decides how it ends. Returns its start time.
fn call(
    (limiter, quota): &(Limiter, QuotaId),
    mut now: Time,
    reply: impl FnOnce(Time) -> (CallEnd, RateHints),
) -> Time {
    loop {
        match limiter.try_acquire(*quota, 1, Some(0), now) {
            Gate::Go(permit) => {
                let (ended, hints) = reply(now);
                now = now.after(TAKES);
                limiter.settle(permit, ended, &hints, now);
                return now;
            }
            Gate::NotUntil(later) => now = later,
        }
    }
}

fn answer(hints: RateHints) -> impl Fn(Time) -> (CallEnd, RateHints) {
    move |_| (CallEnd::Replied(None), hints)
}

#[test]
fn a_limit_that_was_reported_once_is_dropped_after_ten_minutes() {
    let quota = open();
    call(&quota, at(0), answer(report(1)));
    let limit = quota.0.learned_limit(quota.1, at(30_100)).unwrap();
    assert_eq!((limit.unit, limit.per_minute), ("requests", 1));
    assert_eq!(limit.source, LimitSource::Header(HEADER));
    assert_eq!(limit.age, Duration::from_secs(30));
    let (mut now, mut calls) = (at(0), Vec::new());
    for _ in 0..100 {
        now = call(&quota, now, answer(RateHints::default()));
        calls.push(now.as_nanos() / 1_000_000_000);
    }
    assert_eq!(
        calls[..10],
        [60, 120, 180, 240, 300, 360, 420, 480, 540, 600]
    );
    assert!(calls[99] <= 610, "the limit no longer delays calls");
    assert_eq!(quota.0.learned_limit(quota.1, now), None);
    // A further report teaches the limit again.
    call(&quota, now, answer(report(1)));
    assert!(call(&quota, now, answer(RateHints::default())) > now.after(Duration::from_secs(30)));
}

#[test]
fn a_limit_that_every_reply_reports_is_kept() {
    let quota = open();
    let mut now = at(0);
    for _ in 0..600 {
        now = call(&quota, now, answer(report(60)));
    }
    assert!(now >= at(599_000 - 1), "{now:?}");
}

#[test]
fn an_hour_without_calls_does_not_drop_a_limit() {
    let quota = open();
    call(&quota, at(0), answer(report(60)));
    let failed = |_| (CallEnd::Failed, RateHints::default());
    let now = call(&quota, at(3_600_000), failed);
    let next = call(&quota, now, answer(report(60)));
    assert!(next > now.after(Duration::from_millis(900)), "{next:?}");
}

/// A provider that reports its limit only with rejections: what is learned again causes few of them.
#[test]
fn a_limit_that_rejections_report_holds_for_ten_minutes() {
    let quota = open();
    let (mut allowance, mut last, mut now) = (1.0_f64, at(0), at(0));
    let (mut calls, mut refused, mut late) = (0, 0, 0);
    while now < at(4 * 3_600_000) {
        now = call(&quota, now, |now| {
            allowance = (allowance + now.since(last).as_secs_f64()).min(1.0);
            last = now;
            calls += 1;
            if allowance < 0.999 {
                refused += 1;
                late += u32::from(now > at(2 * 3_600_000));
                return (CallEnd::RateLimited(None), report(60));
            }
            allowance -= 1.0;
            (CallEnd::Replied(None), RateHints::default())
        });
    }
    assert!(calls > 4 * 3_500, "{calls} calls");
    assert!(refused * 200 < calls, "{refused} of {calls} refused");
    assert!(late <= 24, "{late} refused late");
}
