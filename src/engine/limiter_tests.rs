//! The limiter's arithmetic on a simulated clock, compared with the bucket of a server.

use std::time::Duration;

use super::*;
use crate::base::RateWindow;

#[path = "limiter_status_tests.rs"]
mod status;

fn at(ms: u64) -> Time {
    Time::from_nanos(ms * 1_000_000)
}

fn hints(limit: u64, remaining: u64, period: Duration) -> RateHints {
    RateHints {
        requests: Some(RateWindow {
            header: None,
            limit,
            period,
            remaining: Some(remaining),
            reset: None,
        }),
        tokens: None,
    }
}

const MINUTE: Duration = Duration::from_secs(60);

fn open(limits: Limits) -> (Limiter, QuotaId) {
    let limiter = Limiter::new();
    let quota = limiter.quota(QuotaKey::new(&["p"]), limits, 0, at(0));
    (limiter, quota)
}

fn go(limiter: &Limiter, quota: QuotaId, now: Time) -> Option<Permit> {
    match limiter.try_acquire(quota, 10, Some(0), now) {
        Gate::Go(permit) => Some(permit),
        _ => None,
    }
}

fn reply(limiter: &Limiter, permit: Permit, hints: &RateHints, now: Time) {
    limiter.settle(permit, CallEnd::Replied(Some((10, 0))), hints, now);
}

#[test]
fn a_given_rate_is_used_whole_and_never_exceeded() {
    let (limiter, quota) = open(Limits::default().requests_per_minute(600.0).burst(10));
    let mut started = Vec::new();
    let mut now = at(0);
    while now < at(60_000) {
        match limiter.try_acquire(quota, 10, Some(0), now) {
            Gate::Go(permit) => {
                started.push(now);
                reply(&limiter, permit, &RateHints::default(), now);
            }
            Gate::NotUntil(t) => now = t,
        }
    }
    // A server with the same rate and burst accepts all of them: at most burst + rate x time.
    for (i, t) in started.iter().enumerate() {
        let allowed = 10.0 + t.since(at(0)).as_secs_f64() * 10.0 + 0.001;
        assert!((i + 1) as f64 <= allowed, "call {i} at {t:?}");
    }
    assert!(started.len() >= 608, "only {} of 610 used", started.len());
}

#[test]
fn until_the_first_reply_only_the_burst_is_in_flight() {
    let (limiter, quota) = open(Limits::default().burst(3));
    let permits: Vec<Permit> = (0..3).filter_map(|_| go(&limiter, quota, at(0))).collect();
    assert_eq!(permits.len(), 3);
    assert!(matches!(
        limiter.try_acquire(quota, 1, None, at(0)),
        Gate::NotUntil(_)
    ));
    reply(&limiter, permits[0], &RateHints::default(), at(5));
    // The reply reported no limit, so none is assumed.
    assert!((0..100).all(|_| go(&limiter, quota, at(5)).is_some()));
}

#[test]
fn the_first_reply_teaches_rate_and_allowance() {
    let (limiter, quota) = open(Limits::default().burst(10));
    let permits: Vec<Permit> = (0..10).filter_map(|_| go(&limiter, quota, at(0))).collect();
    // The server's bucket holds 20, and ten are used by now; 600 per minute.
    for permit in permits {
        reply(&limiter, permit, &hints(600, 10, MINUTE), at(50));
    }
    let mut used = 0;
    while go(&limiter, quota, at(50)).is_some() {
        used += 1;
        assert!(used <= 10, "the server's bucket is overdrawn");
    }
    assert!(go(&limiter, quota, at(60)).is_none());
    assert!(go(&limiter, quota, at(200)).is_some());
}

#[test]
fn a_daily_limit_sets_no_rate() {
    let (limiter, quota) = open(Limits::default());
    let permit = go(&limiter, quota, at(0)).unwrap();
    reply(
        &limiter,
        permit,
        &hints(1000, 900, Duration::from_secs(86_400)),
        at(1),
    );
    assert!((0..50).all(|_| go(&limiter, quota, at(1)).is_some()));
}

#[test]
fn one_rejection_pauses_the_quota_and_late_ones_do_not_extend_it() {
    let (limiter, quota) = open(Limits::default());
    let first = go(&limiter, quota, at(0)).unwrap();
    reply(&limiter, first, &RateHints::default(), at(1));
    let wave: Vec<Permit> = (0..8).filter_map(|_| go(&limiter, quota, at(10))).collect();
    for permit in wave {
        limiter.settle(
            permit,
            CallEnd::RateLimited(None),
            &RateHints::default(),
            at(20),
        );
    }
    assert_eq!(
        limiter.try_acquire(quota, 1, None, at(21)),
        Gate::NotUntil(at(1020)),
        "eight rejections of one wave cause one pause of one second"
    );
    let permit = go(&limiter, quota, at(1020)).unwrap();
    limiter.settle(
        permit,
        CallEnd::RateLimited(None),
        &RateHints::default(),
        at(1030),
    );
    assert_eq!(
        limiter.try_acquire(quota, 1, None, at(1031)),
        Gate::NotUntil(at(3030)),
        "the next wave waits twice as long"
    );
}

#[test]
fn the_longest_requested_wait_applies() {
    let (limiter, quota) = open(Limits::default());
    let a = go(&limiter, quota, at(0)).unwrap();
    let b = go(&limiter, quota, at(0)).unwrap();
    let secs = |s| CallEnd::RateLimited(Some(Duration::from_secs(s)));
    limiter.settle(a, secs(9), &RateHints::default(), at(0));
    limiter.settle(b, secs(2), &RateHints::default(), at(0));
    assert_eq!(
        limiter.try_acquire(quota, 1, None, at(1)),
        Gate::NotUntil(at(9000))
    );
}

#[test]
fn a_quota_without_a_known_rate_resumes_with_a_smaller_window() {
    let (limiter, quota) = open(Limits::default());
    let first = go(&limiter, quota, at(0)).unwrap();
    reply(&limiter, first, &RateHints::default(), at(0));
    let wave: Vec<Permit> = (0..32).filter_map(|_| go(&limiter, quota, at(1))).collect();
    for permit in wave {
        limiter.settle(
            permit,
            CallEnd::RateLimited(Some(Duration::from_secs(1))),
            &RateHints::default(),
            at(2),
        );
    }
    let back: Vec<Permit> = (0..64)
        .map_while(|_| go(&limiter, quota, at(1002)))
        .collect();
    assert_eq!(back.len(), 16, "half of the calls in flight");
    for permit in back {
        reply(&limiter, permit, &RateHints::default(), at(1010));
    }
    let next = (0..64).map_while(|_| go(&limiter, quota, at(1010))).count();
    assert_eq!(next, 32);
}

#[test]
fn reserved_tokens_are_corrected_by_the_reply() {
    // 6,000 per minute: 100 per second, 1,000 at once.
    let (limiter, quota) = open(Limits::default().tokens_per_minute(6000.0).burst(100));
    let permit = match limiter.try_acquire(quota, 744, Some(800), at(0)) {
        Gate::Go(permit) => permit,
        other => panic!("{other:?}"),
    };
    assert!(matches!(
        limiter.try_acquire(quota, 100, Some(0), at(0)),
        Gate::NotUntil(_)
    ));
    let used = CallEnd::Replied(Some((200, 100)));
    limiter.settle(permit, used, &RateHints::default(), at(0));
    assert!(matches!(
        limiter.try_acquire(quota, 600, Some(0), at(0)),
        Gate::Go(_)
    ));
}

#[test]
fn a_call_larger_than_the_allowance_starts_alone_and_is_paid_off() {
    let (limiter, quota) = open(Limits::default().tokens_per_minute(600.0));
    assert!(matches!(
        limiter.try_acquire(quota, 5000, Some(0), at(0)),
        Gate::Go(_)
    ));
    match limiter.try_acquire(quota, 1, Some(0), at(0)) {
        Gate::NotUntil(t) => assert!(t > at(400_000), "{t:?}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_may_state_any_number_of_tokens() {
    let (limiter, quota) = open(Limits::default().tokens_per_minute(600.0));
    let permit = go(&limiter, quota, at(0)).unwrap();
    let used = CallEnd::Replied(Some((1_000_000, 1_000_000)));
    limiter.settle(permit, used, &RateHints::default(), at(0));
    let Gate::NotUntil(next) = limiter.try_acquire(quota, 10, Some(0), at(0)) else {
        panic!("the debt of the bucket was dropped");
    };
    assert!(next > at(60_000));
}

#[test]
fn a_number_of_tokens_that_no_model_reads_is_not_believed() {
    for used in [(u64::MAX, u64::MAX), (0, 5_000_000)] {
        let limits = Limits::default().tokens_per_minute(60_000.0);
        let (limiter, quota) = open(limits);
        let permit = go(&limiter, quota, at(0)).unwrap();
        let ended = CallEnd::Replied(Some(used));
        limiter.settle(permit, ended, &RateHints::default(), at(0));
        let next = limiter.try_acquire(quota, 10, None, at(0));
        assert!(matches!(next, Gate::Go(_)), "{used:?}: {next:?}");
    }
}

#[test]
fn the_output_reservation_learns_from_replies() {
    let (limiter, quota) = open(Limits::default().tokens_per_minute(60_000.0).burst(1000));
    for i in 0..32 {
        let Gate::Go(permit) = limiter.try_acquire(quota, 0, None, at(i * 1000)) else {
            panic!("call {i} refused");
        };
        let used = CallEnd::Replied(Some((0, 20)));
        limiter.settle(permit, used, &RateHints::default(), at(i * 1000));
    }
    // 10,000 tokens at once: 39 calls fit with 256 tokens each, and 500 with the learned 20.
    let fits = (0..1000)
        .map_while(|_| match limiter.try_acquire(quota, 0, None, at(60_000)) {
            Gate::Go(permit) => Some(permit),
            _ => None,
        })
        .count();
    assert!((490..=510).contains(&fits), "{fits}");
}

/// The tokens that a call can reserve now, to within one.
fn level(limiter: &Limiter, quota: QuotaId, now: Time) -> u64 {
    let fits = |n: u64| matches!(limiter.peek(quota, n, Some(0), now), Gate::Go(_));
    (1..1000).take_while(|n| fits(*n)).last().unwrap_or(0)
}

/// A call that used exactly its reservation, with the remainder that the server reported when it accepted the call.
fn tokens_reply(limiter: &Limiter, permit: Permit, remaining: u64, now: Time) {
    let hints = RateHints {
        requests: None,
        tokens: Some(RateWindow {
            header: None,
            limit: 6000,
            period: MINUTE,
            remaining: Some(remaining),
            reset: None,
        }),
    };
    let used = CallEnd::Replied(Some((permit.tokens as u64, 0)));
    limiter.settle(permit, used, &hints, now);
}

#[test]
fn calls_in_flight_are_not_taken_off_a_stated_allowance_twice() {
    for first_back in [0, 1, 2] {
        // 6,000 per minute, learned from the first reply: 1,000 at once.
        let (limiter, quota) = open(Limits::default());
        let start = |tokens| match limiter.try_acquire(quota, tokens, Some(0), at(0)) {
            Gate::Go(permit) => permit,
            other => panic!("{other:?}"),
        };
        tokens_reply(&limiter, start(100), 1000, at(0));
        assert_eq!(level(&limiter, quota, at(0)), 999);
        // Three long calls; the server counts each call when it accepts it.
        let mut flying = vec![(start(300), 700), (start(200), 500), (start(100), 400)];
        let (permit, remaining) = flying.remove(first_back);
        tokens_reply(&limiter, permit, remaining, at(0));
        assert_eq!(level(&limiter, quota, at(0)), 400, "call {first_back}");
        for (permit, remaining) in flying {
            tokens_reply(&limiter, permit, remaining, at(0));
            assert_eq!(level(&limiter, quota, at(0)), 400);
        }
    }
}

#[test]
fn requests_in_flight_are_not_taken_off_a_stated_allowance_twice() {
    let (limiter, quota) = open(Limits::default().burst(10));
    let first = go(&limiter, quota, at(0)).unwrap();
    reply(&limiter, first, &hints(600, 10, MINUTE), at(0));
    let flying: Vec<Permit> = (0..6).filter_map(|_| go(&limiter, quota, at(0))).collect();
    assert_eq!(flying.len(), 6);
    // The last call ends first. The server had counted all six by then.
    reply(&limiter, flying[5], &hints(600, 4, MINUTE), at(0));
    let more = (0..20).map_while(|_| go(&limiter, quota, at(0))).count();
    assert_eq!(more, 4, "ten were left, and six of them are in use");
}

#[test]
fn no_quota_is_never_limited() {
    let limiter = Limiter::new();
    let quota = limiter.quota(QuotaKey::none(), Limits::default().burst(1), 0, at(0));
    assert!((0..1000).all(|_| go(&limiter, quota, at(0)).is_some()));
}

#[test]
fn random_traffic_never_overdraws_a_given_rate() {
    let mut seed = 7_u64;
    let mut random = move |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % n
    };
    for _ in 0..200 {
        let (rpm, burst) = (60 + random(6000), 1 + random(30) as u32);
        let limits = Limits::default()
            .requests_per_minute(rpm as f64)
            .burst(burst);
        let (limiter, quota) = open(limits);
        let (mut now, mut started) = (at(0), 0_u64);
        let mut flying = Vec::new();
        for _ in 0..300 {
            now = now.after(Duration::from_millis(random(40)));
            if let Some(permit) = go(&limiter, quota, now) {
                started += 1;
                flying.push(permit);
            }
            if !flying.is_empty() && random(3) > 0 {
                let permit = flying.swap_remove(random(flying.len() as u64) as usize);
                reply(&limiter, permit, &RateHints::default(), now);
            }
            let allowed = f64::from(burst) + now.since(at(0)).as_secs_f64() * rpm as f64 / 60.0;
            assert!(started as f64 <= allowed + 1e-3, "{started} > {allowed}");
        }
    }
}

#[test]
fn while_a_model_loads_one_call_per_second_checks_it() {
    let (limiter, quota) = open(Limits::default().burst(4));
    let wave: Vec<Permit> = (0..4).filter_map(|_| go(&limiter, quota, at(0))).collect();
    let unready = |permit, wait, ms| {
        limiter.settle(
            permit,
            CallEnd::NotReady(wait),
            &RateHints::default(),
            at(ms),
        )
    };
    for (i, permit) in wave.into_iter().enumerate() {
        assert_eq!(unready(permit, None, 10 * i as u64), Some(at(1000)));
    }
    assert_eq!(go(&limiter, quota, at(999)), None);
    let asks = go(&limiter, quota, at(1000)).unwrap();
    assert_eq!(
        go(&limiter, quota, at(1000)),
        None,
        "one rejection causes a pause"
    );
    // The pause is exactly as long as the server requests.
    assert_eq!(unready(asks, None, 1005), Some(at(2005)));
    let asks = go(&limiter, quota, at(2005)).unwrap();
    let wait = Some(Duration::from_secs(7));
    assert_eq!(unready(asks, wait, 2010), Some(at(9010)));
    let answered = go(&limiter, quota, at(9010)).unwrap();
    reply(&limiter, answered, &RateHints::default(), at(9020));
    let more = (0..9).filter_map(|_| go(&limiter, quota, at(9020))).count();
    assert_eq!(more, 2, "the rate grows back gradually");
}

#[test]
fn a_configured_limit_replaces_a_learned_one() {
    let limiter = Limiter::new();
    let unset = Limits::default().burst(1);
    let key = QuotaKey::new(&["learned"]);
    let quota = limiter.quota(key, unset, 0, Time::ZERO);
    let now = Time::from_nanos(1);
    let Gate::Go(permit) = limiter.try_acquire(quota, 1, Some(0), now) else {
        panic!("the first call may start");
    };
    assert!(matches!(
        limiter.try_acquire(quota, 1, Some(0), now),
        Gate::NotUntil(_)
    ));
    let hints = RateHints {
        requests: Some(RateWindow {
            header: None,
            limit: 6000,
            period: Duration::from_secs(60),
            remaining: Some(6000),
            reset: None,
        }),
        tokens: None,
    };
    limiter.settle(permit, CallEnd::Replied(None), &hints, now);
    let later = now.after(Duration::from_millis(11));
    let go = |at| matches!(limiter.peek(quota, 1, Some(0), at), Gate::Go(_));
    assert!(go(later), "6,000 a minute are 100 a second");
    limiter.quota(key, unset.burst(2), 1, later);
    assert!(go(later), "a reported limit outlives a new setting");
    limiter.quota(key, unset.burst(2).requests_per_minute(1.0), 2, later);
    for _ in 0..2 {
        let _ = limiter.try_acquire(quota, 1, Some(0), later);
    }
    let second = later.after(Duration::from_secs(1));
    assert!(!go(second), "a configured limit replaces a learned one");
}

#[test]
fn one_absurd_usage_delays_by_at_most_a_minute() {
    let limits = Limits::default().tokens_per_minute(60_000.0).burst(100);
    let (limiter, quota) = open(limits);
    let absurd = u64::from(u32::MAX);
    for i in 0..32 {
        let now = at(i * 120_000);
        let Gate::Go(permit) = limiter.try_acquire(quota, 100, None, now) else {
            panic!("call {i} waits for more than two minutes");
        };
        let used = if i % 8 == 0 {
            (absurd, absurd)
        } else {
            (100, 20)
        };
        limiter.settle(
            permit,
            CallEnd::Replied(Some(used)),
            &RateHints::default(),
            now,
        );
    }
}
