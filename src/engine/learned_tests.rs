//! Limits that are reported once, always, or with refusals only.

use super::*;

const TAKES: Duration = Duration::from_millis(100);

fn report(limit: u64) -> RateHints {
    hints(limit, 0, MINUTE)
}

fn one() -> Open {
    open(Limits::default().burst(1))
}

/// Makes a call as soon as one may start; `reply` decides how it ends. Returns its end.
fn call(q: &Open, mut now: Time, reply: impl FnOnce(Time) -> (CallEnd, RateHints)) -> Time {
    loop {
        match q.asks(now) {
            Gate::Go(permit) => {
                let (ended, hints) = reply(now);
                now = now.after(TAKES);
                q.limiter.settle(permit, ended, &hints, now);
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
fn a_limit_that_was_reported_once_is_dropped_after_two_minutes() {
    let q = one();
    call(&q, at(0), answer(report(1)));
    let (mut now, mut calls) = (at(0), Vec::new());
    for _ in 0..100 {
        now = call(&q, now, answer(NO_HINTS));
        calls.push(now.as_nanos() / 1_000_000_000);
    }
    assert_eq!(calls[..2], [60, 120]);
    assert!(calls[99] <= 130, "the limit no longer delays calls");
    // A further report teaches the limit again.
    call(&q, now, answer(report(1)));
    assert!(call(&q, now, answer(NO_HINTS)) > now.after(Duration::from_secs(30)));
}

#[test]
fn a_limit_that_every_reply_reports_is_kept() {
    let q = one();
    let mut now = at(0);
    for _ in 0..600 {
        now = call(&q, now, answer(report(60)));
    }
    assert!(now >= at(599_000 - 1), "{now:?}");
}

#[test]
fn an_hour_without_calls_does_not_drop_a_limit() {
    let q = one();
    call(&q, at(0), answer(report(60)));
    let failed = |_| (CallEnd::Failed, NO_HINTS);
    let now = call(&q, at(3_600_000), failed);
    let next = call(&q, now, answer(report(60)));
    assert!(next > now.after(Duration::from_millis(900)), "{next:?}");
}

/// A provider that reports its limit only with rejections: what is learned again causes few of them.
#[test]
fn a_limit_that_rejections_report_holds_for_two_minutes() {
    let q = one();
    let (mut allowance, mut last, mut now) = (1.0_f64, at(0), at(0));
    let (mut calls, mut refused, mut late) = (0, 0, 0);
    while now < at(4 * 3_600_000) {
        now = call(&q, now, |now| {
            allowance = (allowance + now.since(last).as_secs_f64()).min(1.0);
            last = now;
            calls += 1;
            if allowance < 0.999 {
                refused += 1;
                late += u32::from(now > at(2 * 3_600_000));
                return (CallEnd::RateLimited(None), report(60));
            }
            allowance -= 1.0;
            (CallEnd::Replied(None), NO_HINTS)
        });
    }
    assert!(calls > 4 * 3_500, "{calls} calls");
    assert!(refused * 100 < calls, "{refused} of {calls} refused");
    assert!(late <= 61, "{late} refused late");
}
