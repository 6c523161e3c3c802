//! The limiter with a tuned window against providers that change their limits, with or without a report. The bounds are
//! what the project promises: outside of transitions, 95 % of the limit is used and at most one call in 200 is
//! rejected; with the transitions, one in 100. A transition ends within a stated time.

use std::time::Duration;

use crate::base::seeds::{random_cases, seeds};

use super::limiter::Limits;
use super::pace_model::{Asks, MOST, PROVIDER, Provider, run};

/// Seconds until a changed limit is detected if calls take 200 ms; proportionally more if calls take longer. For the
/// number of calls in flight, and for a rate that replies report.
const FOUND: f64 = 15.0;
/// The same for an unreported rate.
const GUESSED: f64 = 30.0;

fn changing(one: impl Fn(f64) -> Provider) -> [Provider; 3] {
    [one(1.0), one(0.4), one(1.5)]
}

fn tuned() -> Limits {
    Limits::default().self_tuned(5, MOST)
}

type Case = (&'static str, [Provider; 3]);

fn calls_at_once(provider: Provider) -> [Provider; 3] {
    changing(|x| provider.parallel((40.0 * x) as u32))
}

fn by_load(provider: Provider) -> [Provider; 3] {
    changing(|x| provider.knee(40.0 * x))
}

fn requests(provider: Provider) -> [Provider; 3] {
    changing(|x| provider.requests(100.0 * x))
}

fn tokens(provider: Provider) -> [Provider; 3] {
    changing(|x| provider.tokens(15_000.0 * x))
}

const A_SECOND: Asks = Asks::For(Duration::from_secs(1));

/// Providers that report their limits, or limit something that no reply can report.
fn found() -> Vec<Case> {
    let (told, varied) = (PROVIDER.tells(), PROVIDER.varied());
    let slow = PROVIDER.latency(2.0).seconds(300.0);
    let in_turn = [
        told.parallel(30),
        told.requests(60.0),
        told.requests(1000.0).knee(50.0),
    ];
    let together = [
        told.parallel(40),
        told.parallel(40).requests(100.0),
        told.parallel(1000).requests(1000.0).knee(60.0),
    ];
    vec![
        ("calls at once", calls_at_once(PROVIDER)),
        ("calls at once, slow", calls_at_once(slow)),
        ("calls at once, varied", calls_at_once(varied)),
        (
            "calls at once, Retry-After",
            calls_at_once(PROVIDER.asks(A_SECOND)),
        ),
        ("load", by_load(PROVIDER)),
        ("load, varied", by_load(varied)),
        ("requests", requests(told)),
        ("tokens", tokens(told)),
        ("tokens, varied", tokens(told.varied())),
        ("one after the other", in_turn),
        ("calls at once, requests, load", together),
    ]
}

/// Providers that reject calls because of an unreported rate.
fn guessed() -> Vec<Case> {
    let untold = PROVIDER.seconds(90.0);
    let late = Provider {
        notice: 0.1,
        ..untold
    };
    let mixed = |requests, parallel, knee| {
        [
            untold.requests(requests),
            untold.parallel(parallel),
            untold.knee(knee),
        ]
    };
    let [rate, slots, load] = mixed(60.0, 30, 40.0);
    vec![
        ("requests", requests(untold)),
        ("requests, short burst", requests(untold.burst(0.2))),
        ("requests, long burst", requests(untold.burst(10.0))),
        ("requests, heard of late", requests(late)),
        ("requests, varied", requests(untold.varied())),
        ("requests, Retry-After", requests(untold.asks(A_SECOND))),
        ("tokens", tokens(untold)),
        ("tokens, varied", tokens(untold.varied())),
        ("requests, calls at once, load", mixed(100.0, 30, 50.0)),
        ("one after the other", [slots, rate, load]),
    ]
}

fn check(cases: &[Case], transition: f64) {
    let seeds = seeds().unwrap_or(2);
    for (name, stretches) in cases {
        let mut late = 0;
        for seed in 0..seeds.min(40) {
            let outcome = run(seed, tuned(), stretches, transition);
            let shown = format!("{name}, seed {seed}: {outcome:.3?}");
            assert!(outcome.used.iter().all(|used| *used >= 0.95), "{shown}");
            assert!(outcome.refused.iter().all(|part| *part <= 0.005), "{shown}");
            assert!(outcome.refused() <= 0.01, "{shown}");
            assert!(outcome.recovery.iter().all(|s| *s <= GUESSED), "{shown}");
            let in_time = outcome.recovery.iter().all(|s| *s <= transition);
            late += u32::from(!in_time);
        }
        // The first rejection of a few calls in flight may start the search for a rate.
        assert!(
            u64::from(late) * 5 <= seeds.clamp(5, 40),
            "{name}: {late} late"
        );
    }
}

#[test]
fn unset_limits_are_found_used_and_followed() {
    check(&found(), FOUND);
}

#[test]
fn an_unreported_rate_is_found_with_few_rejections() {
    check(&guessed(), GUESSED);
}

#[test]
fn a_concurrency_limit_is_not_taken_for_a_rate() {
    for parallel in [16, 40] {
        for varied in [false, true] {
            let provider = Provider { varied, ..PROVIDER }.parallel(parallel);
            for seed in 0..4 {
                let limits = Limits::default().in_flight(2 * parallel);
                let outcome = run(seed, limits, &[provider], FOUND);
                let shown = format!("{parallel}, varied {varied}, seed {seed}: {outcome:.3?}");
                assert!(outcome.used[0] >= 0.95, "{shown}");
                assert!(outcome.refused[0] <= 0.01, "{shown}");
            }
        }
    }
}

#[test]
fn a_limit_that_was_lowered_by_half_does_not_make_the_pace_give_up() {
    let untold = PROVIDER.seconds(90.0).burst(0.2);
    for seed in (40..80).step_by(random_cases(5, 1)) {
        let outcome = run(seed, tuned(), &requests(untold), GUESSED);
        let shown = format!("seed {seed}: {outcome:.3?}");
        assert!(outcome.refused.iter().all(|part| *part <= 0.01), "{shown}");
    }
}

#[test]
fn a_provider_without_limits_gets_the_maximum_concurrency() {
    let outcome = run(1, tuned(), &[PROVIDER], FOUND);
    assert_eq!(outcome.most_in_flight, [MOST]);
    assert!(outcome.used[0] > 0.95, "{outcome:?}");
    let outcome = run(1, tuned().in_flight(7), &[PROVIDER], FOUND);
    assert_eq!(outcome.most_in_flight, [7]);
}

#[test]
fn a_queue_in_the_server_is_detected() {
    for works_on in [8.0, 16.0, 64.0] {
        for seed in 0..4 {
            let outcome = run(seed, tuned(), &[PROVIDER.knee(works_on)], FOUND);
            let shown = format!("{works_on}, seed {seed}: {outcome:.3?}");
            let most = f64::from(outcome.most_in_flight[0]);
            assert!(most <= 2.0 * works_on, "{shown}");
            assert!(outcome.used[0] >= 0.95, "{shown}");
        }
    }
}

/// Answers per second of five calls at once that take 1.1 seconds each.
const FIVE_AT_ONCE: f64 = 5.0 / 1.1;

#[test]
fn unavoidable_rejections_keep_at_least_the_rate_of_five_calls_at_once() {
    for stray in [0.005, 0.01, 0.02, 0.05, 0.1, 0.2] {
        for seed in 0..4 {
            let provider = Provider { stray, ..PROVIDER };
            let provider = provider.latency(1.0).seconds(600.0);
            let outcome = run(seed, tuned(), &[provider], 12.0);
            let shown = format!("{stray}, seed {seed}: {outcome:.3?}");
            assert!(
                outcome.answers[0] >= FIVE_AT_ONCE * (1.0 - stray),
                "{shown}"
            );
        }
    }
}

#[test]
fn an_outage_after_unavoidable_rejections_is_noticed() {
    let strays = Provider {
        stray: 0.3,
        ..PROVIDER
    };
    let refuses_all = PROVIDER.refuses_all().seconds(30.0);
    for seed in 0..4 {
        let outcome = run(seed, tuned(), &[strays, refuses_all], 20.0);
        assert!(outcome.calls[1] <= 600, "{seed}: {outcome:.3?}");
        // Each rejection of a single call in flight pauses the quota.
        let one = Limits::default().in_flight(1);
        let outcome = run(seed, one, &[strays, refuses_all], 20.0);
        assert!(outcome.calls[1] <= 50, "{seed}: {outcome:.3?}");
    }
}

#[test]
fn occasional_rejections_teach_no_rate() {
    let limit = PROVIDER.requests(10.0);
    let trickle = Provider {
        demand: Some(1.0 / 60.0),
        ..limit.seconds(7200.0)
    };
    let stretches = [limit.seconds(10.0), trickle, limit.seconds(120.0)];
    for seed in 0..4 {
        let outcome = run(seed, tuned(), &stretches, 5.0);
        assert!(outcome.recovery[2] <= GUESSED, "{seed}: {outcome:.3?}");
    }
}

#[test]
fn an_outage_does_not_raise_the_concurrency() {
    let (works, down) = (PROVIDER.knee(20.0), true);
    let down = Provider { down, ..PROVIDER }.latency(0.05);
    let outcome = run(1, tuned(), &[works, down, works], FOUND);
    let most = &outcome.most_in_flight;
    assert!(most[1] <= most[0], "{outcome:.3?}");
    assert!(outcome.used[2] >= 0.95, "{outcome:.3?}");
}

const BURSTS: [f64; 6] = [1.0, 2.0, 3.0, 5.0, 10.0, 20.0];
/// Seconds until a rate is found.
const FIRST: f64 = 20.0;

/// Used and rejected, in percent, in the first seconds and in the following hundred, on average.
fn measured(provider: Provider, limits: Limits) -> [f64; 4] {
    const SEEDS: u64 = 8;
    let mut sum = [0.0; 4];
    for seed in 0..SEEDS {
        let stretches = [FIRST, 100.0].map(|seconds| provider.seconds(seconds));
        let outcome = run(seed, limits, &stretches, 0.0);
        let refused = |stretch| outcome.refused_in(stretch);
        let all = [outcome.used[0], refused(0), outcome.used[1], refused(1)];
        for (sum, part) in sum.iter_mut().zip(all) {
            *sum += 100.0 * part / SEEDS as f64;
        }
    }
    sum
}

#[test]
fn small_bursts_are_used_to_nine_tenths_with_one_call_of_a_hundred_refused() {
    let mut cells = Vec::new();
    for latency in [0.02, 0.2, 2.0] {
        cells.extend(BURSTS.map(|burst| (8.0, burst, latency, 32)));
        cells.extend([5.0, 20.0].map(|burst| (20.0, burst, latency, 64)));
    }
    // A plain test run checks one cell in three.
    for (rate, burst, latency, calls) in cells.into_iter().step_by(random_cases(3, 1)) {
        let reports_nothing = Provider {
            way: 0.005,
            ..PROVIDER
        };
        let limit = reports_nothing.requests(rate).burst(burst / rate);
        for asks in [Asks::Nothing, Asks::Until(1.0)] {
            let provider = limit.latency(latency).asks(asks);
            let named = measured(provider, Limits::default().in_flight(calls));
            let found = measured(provider, tuned());
            let shown = format!(
                "{rate}/s, burst {burst}, {latency} s, {asks:?}: -j {calls} {named:.1?}, auto {found:.1?}"
            );
            println!("{shown}");
            assert!(named[2] >= 90.0 && named[3] <= 1.0, "{shown}");
            // The run begins with five calls at once: 44 calls of 2 s are not in flight after 20 s.
            let least = if rate * latency < 40.0 { 90.0 } else { 85.0 };
            assert!(found[2] >= least && found[3] <= 1.2, "{shown}");
        }
    }
}

#[test]
fn rejections_without_a_requested_wait_cause_growing_waits() {
    for asked in [0, 6, 400] {
        for limits in [Limits::default().in_flight(64), tuned()] {
            let refuses_all = Provider {
                notice: 0.001,
                ..PROVIDER.refuses_all().seconds(12.0)
            };
            let asks = Asks::For(Duration::from_millis(asked));
            let outcome = run(1, limits, &[refuses_all.asks(asks)], 0.0);
            assert!(outcome.calls[0] <= 30, "{asked} ms: {outcome:?}");
        }
    }
}
