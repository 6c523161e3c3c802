//! The limiter with a tuned window against providers that change their limits, told or not. What it has to
//! reach is what the project promises of it: 95 % of the limit used outside of transitions, at most one
//! call of 200 refused, and the end of a transition within a stated time.

use std::time::Duration;

use super::limiter::Limits;
use super::pace_model::{MOST, PROVIDER, Provider, run};

/// Seconds of calls of 200 ms, longer in proportion where calls take longer, after which a limit is found
/// that has changed: how many calls at once help, and a rate that replies tell.
const FOUND: f64 = 15.0;
/// The same of a rate that is told nowhere.
const GUESSED: f64 = 30.0;

fn changing(one: impl Fn(f64) -> Provider) -> [Provider; 3] {
    [one(1.0), one(0.4), one(1.5)]
}

fn tuned() -> Limits {
    Limits::default().self_tuned(5, MOST)
}

type Case = (&'static str, [Provider; 3]);

fn calls_at_once(provider: Provider) -> [Provider; 3] {
    changing(|x| Provider {
        parallel: Some((40.0 * x) as u32),
        ..provider
    })
}

fn by_load(provider: Provider) -> [Provider; 3] {
    changing(|x| Provider {
        knee: Some(40.0 * x),
        ..provider
    })
}

fn requests(provider: Provider) -> [Provider; 3] {
    changing(|x| Provider {
        requests: Some(100.0 * x),
        ..provider
    })
}

fn tokens(provider: Provider) -> [Provider; 3] {
    changing(|x| Provider {
        tokens: Some(15_000.0 * x),
        ..provider
    })
}

/// Providers that tell what they count in, or count in what nobody could tell.
fn found() -> Vec<Case> {
    let told = Provider {
        tells: true,
        ..PROVIDER
    };
    let slow = Provider {
        latency: 2.0,
        seconds: 300.0,
        ..PROVIDER
    };
    let varied = Provider {
        varied: true,
        ..PROVIDER
    };
    let asks_to_wait = Provider {
        retry_after: Some(Duration::from_secs(1)),
        ..PROVIDER
    };
    vec![
        ("calls at once", calls_at_once(PROVIDER)),
        ("calls at once, slow", calls_at_once(slow)),
        ("calls at once, varied", calls_at_once(varied)),
        ("calls at once, Retry-After", calls_at_once(asks_to_wait)),
        ("load", by_load(PROVIDER)),
        ("load, varied", by_load(varied)),
        ("requests", requests(told)),
        ("tokens", tokens(told)),
        (
            "tokens, varied",
            tokens(Provider {
                varied: true,
                ..told
            }),
        ),
        (
            "one after the other",
            [
                Provider {
                    parallel: Some(30),
                    ..told
                },
                Provider {
                    requests: Some(60.0),
                    ..told
                },
                Provider {
                    requests: Some(1000.0),
                    knee: Some(50.0),
                    ..told
                },
            ],
        ),
        (
            "calls at once, requests, load",
            [
                Provider {
                    parallel: Some(40),
                    ..told
                },
                Provider {
                    parallel: Some(40),
                    requests: Some(100.0),
                    ..told
                },
                Provider {
                    parallel: Some(1000),
                    requests: Some(1000.0),
                    knee: Some(60.0),
                    ..told
                },
            ],
        ),
    ]
}

/// Providers that refuse calls for their rate and tell it nowhere.
fn guessed() -> Vec<Case> {
    let untold = Provider {
        seconds: 90.0,
        ..PROVIDER
    };
    let short = Provider {
        burst: 0.2,
        ..untold
    };
    let late = Provider {
        notice: 0.1,
        ..untold
    };
    let varied = Provider {
        varied: true,
        ..untold
    };
    let asks_to_wait = Provider {
        retry_after: Some(Duration::from_secs(1)),
        ..untold
    };
    vec![
        ("untold requests", requests(untold)),
        ("untold requests, short burst", requests(short)),
        (
            "untold requests, long burst",
            requests(Provider {
                burst: 10.0,
                ..untold
            }),
        ),
        ("untold requests, heard of late", requests(late)),
        ("untold requests, varied", requests(varied)),
        ("untold requests, Retry-After", requests(asks_to_wait)),
        ("untold tokens", tokens(untold)),
        ("untold tokens, varied", tokens(varied)),
        (
            "untold requests, calls at once, load",
            [
                Provider {
                    requests: Some(100.0),
                    ..untold
                },
                Provider {
                    parallel: Some(30),
                    ..untold
                },
                Provider {
                    knee: Some(50.0),
                    ..untold
                },
            ],
        ),
        (
            "untold, one after the other",
            [
                Provider {
                    parallel: Some(30),
                    ..untold
                },
                Provider {
                    requests: Some(60.0),
                    ..untold
                },
                Provider {
                    knee: Some(40.0),
                    ..untold
                },
            ],
        ),
    ]
}

fn check(cases: &[Case], transition: f64) {
    let seeds = std::env::var("SIMULATION_SEEDS").ok();
    let seeds = seeds.and_then(|seeds| seeds.parse().ok()).unwrap_or(2);
    for (name, stretches) in cases {
        for seed in 0..seeds.min(40) {
            let outcome = run(seed, tuned(), stretches, transition);
            let shown = format!("{name}, seed {seed}: {outcome:.3?}");
            assert!(outcome.used.iter().all(|used| *used >= 0.95), "{shown}");
            assert!(outcome.refused() <= 0.005, "{shown}");
            assert!(outcome.recovery.iter().all(|s| *s <= transition), "{shown}");
        }
    }
}

#[test]
fn limits_that_nobody_gave_are_found_used_and_followed() {
    check(&found(), FOUND);
}

#[test]
fn a_rate_that_is_told_nowhere_is_found_by_few_refusals() {
    check(&guessed(), GUESSED);
}

#[test]
fn a_provider_that_takes_all_gets_the_most_there_may_be_and_no_more() {
    let outcome = run(1, tuned(), &[PROVIDER], FOUND);
    assert_eq!(outcome.most_in_flight, [MOST]);
    assert!(outcome.used[0] > 0.95, "{outcome:?}");
    let outcome = run(1, tuned().in_flight(7), &[PROVIDER], FOUND);
    assert_eq!(outcome.most_in_flight, [7]);
}

#[test]
fn a_queue_in_the_server_shows_without_being_asked_for() {
    for works_on in [8.0, 16.0, 64.0] {
        let queues = Provider {
            knee: Some(works_on),
            ..PROVIDER
        };
        for seed in 0..4 {
            let outcome = run(seed, tuned(), &[queues], FOUND);
            let shown = format!("{works_on}, seed {seed}: {outcome:.3?}");
            let most = f64::from(outcome.most_in_flight[0]);
            assert!(most <= 2.0 * works_on, "{shown}");
            assert!(outcome.used[0] >= 0.95, "{shown}");
        }
    }
}

/// Answers a second of five calls at once of a second and a tenth.
const FIVE_AT_ONCE: f64 = 5.0 / 1.1;

#[test]
fn refusals_that_no_pace_avoids_leave_it_no_slower_than_five_calls_at_once() {
    for stray in [0.005, 0.01, 0.02] {
        for seed in 0..4 {
            let provider = Provider {
                stray,
                latency: 1.0,
                seconds: 600.0,
                ..PROVIDER
            };
            let outcome = run(seed, tuned(), &[provider], 12.0);
            let shown = format!("{stray}, seed {seed}: {outcome:.3?}");
            assert!(outcome.answers[0] >= FIVE_AT_ONCE, "{shown}");
        }
    }
}

#[test]
fn what_comes_now_and_then_teaches_no_rate() {
    let limit = Provider {
        requests: Some(10.0),
        ..PROVIDER
    };
    let trickle = Provider {
        demand: Some(1.0 / 60.0),
        seconds: 7200.0,
        ..limit
    };
    let stretches = [
        Provider {
            seconds: 10.0,
            ..limit
        },
        trickle,
        Provider {
            seconds: 120.0,
            ..limit
        },
    ];
    for seed in 0..4 {
        let outcome = run(seed, tuned(), &stretches, 5.0);
        assert!(outcome.recovery[2] <= GUESSED, "{seed}: {outcome:.3?}");
    }
}

#[test]
fn an_outage_is_no_reason_for_more_calls_at_once() {
    let stretches = [
        Provider {
            knee: Some(20.0),
            ..PROVIDER
        },
        Provider {
            down: true,
            latency: 0.05,
            ..PROVIDER
        },
        Provider {
            knee: Some(20.0),
            ..PROVIDER
        },
    ];
    let outcome = run(1, tuned(), &stretches, FOUND);
    assert!(
        outcome.most_in_flight[1] <= outcome.most_in_flight[0],
        "{outcome:.3?}"
    );
    assert!(outcome.used[2] >= 0.95, "{outcome:.3?}");
}
