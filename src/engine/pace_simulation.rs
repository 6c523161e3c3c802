//! The limiter with a tuned window against a provider that tells nothing of its limits, or something,
//! and changes them, on a clock moved by hand.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::hints::{RateHints, RateWindow};

use super::limiter::{CallEnd, Gate, Limiter, Limits, Permit, QuotaKey};
use super::simulation::Random;

/// What a provider allows for a while.
#[derive(Debug, Clone, Copy)]
struct Provider {
    seconds: f64,
    /// Requests and tokens a second, and for how many seconds of them it has room.
    requests: Option<f64>,
    tokens: Option<f64>,
    parallel: Option<u32>,
    /// Calls that it works on at full speed; more take longer, each.
    knee: Option<f64>,
    latency: f64,
}

const PROVIDER: Provider = Provider {
    seconds: 60.0,
    requests: None,
    tokens: None,
    parallel: None,
    knee: None,
    latency: 0.2,
};

const INPUT: u64 = 100;
const OUTPUT: u64 = 50;
const MOST: u32 = 256;

impl Provider {
    /// Calls a second that it can answer.
    fn rate(&self) -> f64 {
        let slots = self.parallel.map_or(MOST.into(), f64::from);
        let slots = slots.min(self.knee.unwrap_or(slots)) / (self.latency * 1.1);
        let tokens = self.tokens.map(|tokens| tokens / (INPUT + OUTPUT) as f64);
        slots
            .min(self.requests.unwrap_or(slots))
            .min(tokens.unwrap_or(slots))
    }
}

/// What a run came to.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Of each stretch: the part of what could be answered that was, without its first seconds.
    pub used: Vec<f64>,
    /// Of all calls.
    pub refused: f64,
    /// Seconds of each stretch until a second was used to nine tenths.
    pub recovery: Vec<f64>,
    pub most_in_flight: Vec<u32>,
}

struct Bucket {
    level: f64,
    capacity: f64,
    rate: f64,
}

impl Bucket {
    fn pass(&mut self, seconds: f64) {
        self.level = (self.level + seconds * self.rate).min(self.capacity);
    }
}

/// Seconds of each stretch that are its transition, for the usual latency.
const TRANSITION: f64 = 12.0;
/// Seconds until what is there is used again, at the usual latency.
const RECOVERY: f64 = 20.0;

fn run(seed: u64, limits: Limits, stretches: &[Provider], tells: bool, burst: f64) -> Outcome {
    let mut random = Random::warm(seed);
    let limiter = Limiter::new();
    let quota = limiter.quota(QuotaKey::new(&["p"]), limits, 0, Time::ZERO);
    let at = |seconds: f64| Time::from_nanos((seconds * 1e9) as u64);
    let mut ends: BinaryHeap<Reverse<(Time, u64)>> = BinaryHeap::new();
    let mut calls: Vec<Option<(Permit, bool)>> = Vec::new();
    let mut now = 0.0;
    let mut begun = 0.0;
    let (mut in_flight, mut refused, mut made) = (0_u32, 0, 0_u32);
    let mut last = 0.0;
    let none = || Bucket {
        level: f64::INFINITY,
        capacity: f64::INFINITY,
        rate: 0.0,
    };
    let mut outcome = Outcome {
        used: Vec::new(),
        refused: 0.0,
        recovery: Vec::new(),
        most_in_flight: Vec::new(),
    };
    let (mut requests, mut tokens) = (none(), none());
    for provider in stretches {
        for (bucket, rate) in [
            (&mut requests, provider.requests),
            (&mut tokens, provider.tokens),
        ] {
            *bucket = match rate {
                Some(rate) => Bucket {
                    level: bucket.level.min(rate * burst),
                    capacity: rate * burst,
                    rate,
                },
                None => none(),
            };
        }
        let until = begun + provider.seconds;
        let mut per_second = vec![0_u32; provider.seconds as usize + 1];
        let mut most = 0;
        while now < until {
            let mut next = until;
            // What may start starts.
            loop {
                match limiter.try_acquire(quota, INPUT, None, at(now)) {
                    Gate::Go(permit) => {
                        made += 1;
                        let passed = now - last;
                        last = now;
                        requests.pass(passed);
                        tokens.pass(passed);
                        let cost = (INPUT + OUTPUT) as f64;
                        let fits = requests.level >= 1.0
                            && tokens.level >= cost
                            && provider.parallel.is_none_or(|most| in_flight < most);
                        let takes = if fits {
                            requests.level -= 1.0;
                            tokens.level -= cost;
                            in_flight += 1;
                            let load = provider.knee.map_or(1.0, |k| f64::from(in_flight) / k);
                            let jitter = 1.0 + random.below(200) as f64 / 1000.0;
                            provider.latency * load.max(1.0) * jitter
                        } else {
                            0.005
                        };
                        most = most.max(limiter.in_flight(quota));
                        ends.push(Reverse((at(now + takes), calls.len() as u64)));
                        calls.push(Some((permit, fits)));
                    }
                    Gate::NotUntil(when) => {
                        next = next.min(when.as_nanos() as f64 / 1e9);
                        break;
                    }
                }
            }
            if let Some(Reverse((end, _))) = ends.peek() {
                next = next.min(end.as_nanos() as f64 / 1e9);
            }
            now = next.max(now + 1e-7);
            while let Some(Reverse((end, call))) = ends.peek().copied() {
                if end > at(now) {
                    break;
                }
                ends.pop();
                let (permit, fits) = calls[call as usize].take().unwrap();
                let passed = now - last;
                last = now;
                requests.pass(passed);
                tokens.pass(passed);
                let window = |bucket: &Bucket| RateWindow {
                    limit: (bucket.rate * 60.0) as u64,
                    period: Duration::from_secs(60),
                    remaining: Some(bucket.level as u64),
                    reset: None,
                };
                let hints = RateHints {
                    requests: (tells && provider.requests.is_some()).then(|| window(&requests)),
                    tokens: (tells && provider.tokens.is_some()).then(|| window(&tokens)),
                };
                let ended = match fits {
                    true => {
                        in_flight -= 1;
                        let second = ((now - begun) as usize).min(per_second.len() - 1);
                        per_second[second] += 1;
                        CallEnd::Replied(Some((INPUT, OUTPUT)))
                    }
                    false => {
                        refused += 1;
                        CallEnd::RateLimited(None)
                    }
                };
                limiter.settle(permit, ended, &hints, at(now));
            }
        }
        begun = until;
        let seconds = provider.seconds as usize;
        let transition = TRANSITION * (provider.latency / PROVIDER.latency).max(1.0);
        let steady = &per_second[transition as usize..seconds];
        let answered = f64::from(steady.iter().sum::<u32>());
        let rate = provider.rate();
        outcome.used.push(answered / (rate * steady.len() as f64));
        let recovery = per_second.iter().position(|n| f64::from(*n) >= 0.9 * rate);
        outcome
            .recovery
            .push(recovery.map_or(f64::INFINITY, |s| s as f64 + 1.0));
        outcome.most_in_flight.push(most);
    }
    outcome.refused = f64::from(refused) / f64::from(made);
    outcome
}

fn changing(one: impl Fn(f64) -> Provider) -> [Provider; 3] {
    [one(1.0), one(0.4), one(1.5)]
}

fn tuned() -> Limits {
    Limits::default().self_tuned(5, MOST)
}

/// Providers that tell what they count in, and those that cannot.
fn cases() -> [(&'static str, [Provider; 3], bool); 6] {
    let parallel = |x| Some((40.0 * x) as u32);
    [
        (
            "calls at once",
            changing(|x| Provider {
                parallel: parallel(x),
                ..PROVIDER
            }),
            false,
        ),
        (
            "calls at once, slow",
            changing(|x| Provider {
                parallel: parallel(x),
                latency: 2.0,
                seconds: 200.0,
                ..PROVIDER
            }),
            false,
        ),
        (
            "latency",
            changing(|x| Provider {
                knee: Some(40.0 * x),
                ..PROVIDER
            }),
            false,
        ),
        (
            "requests",
            changing(|x| Provider {
                requests: Some(100.0 * x),
                ..PROVIDER
            }),
            true,
        ),
        (
            "tokens",
            changing(|x| Provider {
                tokens: Some(15_000.0 * x),
                ..PROVIDER
            }),
            true,
        ),
        (
            "one after the other",
            [
                Provider {
                    parallel: Some(30),
                    ..PROVIDER
                },
                Provider {
                    requests: Some(60.0),
                    ..PROVIDER
                },
                Provider {
                    requests: Some(1000.0),
                    knee: Some(50.0),
                    ..PROVIDER
                },
            ],
            true,
        ),
    ]
}

#[test]
fn limits_that_nobody_gave_are_found_used_and_followed() {
    let seeds =
        std::env::var("SIMULATION_SEEDS").map_or(1, |seeds| seeds.parse().unwrap_or(1).min(20));
    for (name, stretches, tells) in cases() {
        for seed in 0..seeds {
            let outcome = run(seed, tuned(), &stretches, tells, 1.0);
            let shown = format!("{name}, seed {seed}: {outcome:?}");
            assert!(outcome.used.iter().all(|used| *used >= 0.95), "{shown}");
            assert!(outcome.refused <= 0.005, "{shown}");
            let slow = stretches[0].latency / PROVIDER.latency;
            let most = RECOVERY * slow.max(1.0);
            assert!(outcome.recovery.iter().all(|s| *s <= most), "{shown}");
        }
    }
}

#[test]
fn a_provider_that_takes_all_gets_the_most_there_may_be_and_no_more() {
    let outcome = run(1, tuned(), &[PROVIDER], false, 1.0);
    assert_eq!(outcome.most_in_flight, [MOST]);
    assert!(outcome.used[0] > 0.95, "{outcome:?}");
    let outcome = run(1, tuned().in_flight(7), &[PROVIDER], false, 1.0);
    assert_eq!(outcome.most_in_flight, [7]);
}

#[test]
fn a_rate_that_is_told_nowhere_is_found_by_refusals() {
    for burst in [0.2, 1.0] {
        let stretches = changing(|x| Provider {
            requests: Some(100.0 * x),
            ..PROVIDER
        });
        let outcome = run(1, tuned(), &stretches, false, burst);
        let shown = format!("{burst}: {outcome:?}");
        assert!(outcome.used.iter().all(|used| *used >= 0.8), "{shown}");
        assert!(outcome.refused <= 0.025, "{shown}");
    }
}
