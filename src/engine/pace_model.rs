//! A provider that limits calls in the ways of real providers, on a simulated clock, and a run that asks the limiter
//! before each call.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::base::{RateHints, RateWindow, Time};

use super::limiter::{CallEnd, Gate, Limiter, Limits, Permit, QuotaKey};
use super::simulation::Random;

/// The wait that a rejection requests.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asks {
    Nothing,
    For(Duration),
    /// The time until the next request would be accepted, in units of this many seconds.
    Until(f64),
}

/// The limits of a provider for a period.
#[derive(Debug, Clone, Copy)]
pub(super) struct Provider {
    pub seconds: f64,
    /// Requests and tokens per second, and the capacity in seconds.
    pub requests: Option<f64>,
    pub tokens: Option<f64>,
    pub burst: f64,
    /// Replies report what is left of these.
    pub tells: bool,
    pub asks: Asks,
    pub parallel: Option<u32>,
    /// Number of calls that are processed at full speed; with more calls, each takes longer.
    pub knee: Option<f64>,
    pub latency: f64,
    /// Some answers take ten times as long as others.
    pub varied: bool,
    /// Seconds until a rejection arrives.
    pub notice: f64,
    /// Maximum number of seconds until a call reaches the provider.
    pub way: f64,
    /// The part of calls that is rejected at random.
    pub stray: f64,
    /// All calls fail immediately, as in an outage.
    pub down: bool,
    /// Calls per second that the run needs, if not as many as possible.
    pub demand: Option<f64>,
}

pub(super) const PROVIDER: Provider = Provider {
    seconds: 60.0,
    requests: None,
    tokens: None,
    burst: 1.0,
    tells: false,
    asks: Asks::Nothing,
    parallel: None,
    knee: None,
    latency: 0.2,
    varied: false,
    notice: 0.02,
    way: 0.0,
    stray: 0.0,
    down: false,
    demand: None,
};

const INPUT: u64 = 100;
const OUTPUT: f64 = 50.0;
pub(super) const MOST: u32 = 256;
/// The average duration of a call as a multiple of the latency.
const MEAN: f64 = 1.1;

impl Asks {
    fn wait(self, requests: Allowance) -> Option<Duration> {
        match self {
            Asks::Nothing => None,
            Asks::For(wait) => Some(wait),
            Asks::Until(step) => {
                let wait = (1.0 - requests.level).max(0.0) / requests.rate;
                Some(Duration::from_secs_f64((wait / step).ceil() * step))
            }
        }
    }
}

impl Provider {
    pub(super) fn seconds(self, seconds: f64) -> Self {
        Self { seconds, ..self }
    }

    pub(super) fn requests(self, per_second: f64) -> Self {
        let requests = Some(per_second);
        Self { requests, ..self }
    }

    pub(super) fn tokens(self, per_second: f64) -> Self {
        let tokens = Some(per_second);
        Self { tokens, ..self }
    }

    pub(super) fn burst(self, burst: f64) -> Self {
        Self { burst, ..self }
    }

    pub(super) fn parallel(self, most: u32) -> Self {
        let parallel = Some(most);
        Self { parallel, ..self }
    }

    pub(super) fn knee(self, calls: f64) -> Self {
        let knee = Some(calls);
        Self { knee, ..self }
    }

    pub(super) fn latency(self, latency: f64) -> Self {
        Self { latency, ..self }
    }

    pub(super) fn asks(self, asks: Asks) -> Self {
        Self { asks, ..self }
    }

    pub(super) fn tells(self) -> Self {
        let tells = true;
        Self { tells, ..self }
    }

    pub(super) fn varied(self) -> Self {
        let varied = true;
        Self { varied, ..self }
    }

    /// It rejects every call.
    pub(super) fn refuses_all(self) -> Self {
        self.requests(1e-9).burst(0.0)
    }

    /// Calls per second that it can answer.
    fn rate(&self) -> f64 {
        let slots = self.parallel.map_or(MOST.into(), f64::from);
        let slots = slots.min(self.knee.unwrap_or(slots)) / (self.latency * MEAN);
        let tokens = self.tokens.map(|tokens| tokens / (INPUT as f64 + OUTPUT));
        slots
            .min(self.requests.unwrap_or(slots))
            .min(tokens.unwrap_or(slots))
    }

    /// The duration of a call as a multiple of its latency.
    fn stretch(&self, random: &mut Random) -> f64 {
        let unit = unit(random);
        if self.varied {
            0.5 - 0.6 * unit.ln()
        } else {
            1.0 + 0.2 * unit
        }
    }
}

/// The results of a run, period by period.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The part of the possible answers that was given, after the transition.
    pub used: Vec<f64>,
    /// Answers per second, after the transition.
    pub answers: Vec<f64>,
    /// Seconds until one second reached nine tenths of the possible answers.
    pub recovery: Vec<f64>,
    pub refusals: Vec<u32>,
    /// The part of calls that was rejected after the transition.
    pub refused: Vec<f64>,
    pub most_in_flight: Vec<u32>,
    pub calls: Vec<u32>,
}

impl Outcome {
    pub(super) fn refused(&self) -> f64 {
        f64::from(self.refusals.iter().sum::<u32>()) / f64::from(self.calls.iter().sum::<u32>())
    }

    /// The results of one period.
    pub(super) fn refused_in(&self, stretch: usize) -> f64 {
        f64::from(self.refusals[stretch]) / f64::from(self.calls[stretch].max(1))
    }
}

#[derive(Clone, Copy)]
struct Allowance {
    level: f64,
    capacity: f64,
    rate: f64,
}

impl Allowance {
    const NONE: Allowance = Allowance {
        level: f64::INFINITY,
        capacity: f64::INFINITY,
        rate: 0.0,
    };

    fn changed(self, rate: Option<f64>, burst: f64) -> Self {
        rate.map_or(Self::NONE, |rate| Self {
            level: self.level.min(rate * burst),
            capacity: rate * burst,
            rate,
        })
    }

    fn pass(&mut self, seconds: f64) {
        self.level = (self.level + seconds * self.rate).min(self.capacity);
    }

    fn told(self, tells: bool) -> Option<RateWindow> {
        (tells && self.rate > 0.0).then(|| RateWindow {
            limit: (self.rate * 60.0) as u64,
            period: Duration::from_secs(60),
            remaining: Some(self.level as u64),
            reset: None,
        })
    }
}

/// More than 0, at most 1.
fn unit(random: &mut Random) -> f64 {
    (random.below(1 << 20) + 1) as f64 / f64::from(1 << 20)
}

fn at(seconds: f64) -> Time {
    Time::from_nanos((seconds * 1e9) as u64)
}

#[derive(Clone, Copy, PartialEq)]
enum Reply {
    /// Output tokens.
    Answer(u64),
    /// With the requested wait.
    Refusal(Option<Duration>),
    Failure,
}

#[derive(Clone, Copy)]
struct Flight {
    permit: Permit,
    /// The decision about it, once it has arrived.
    reply: Option<Reply>,
    /// The rest of the allowance when it arrived.
    hints: RateHints,
}

/// The provider's side.
struct Server {
    now: f64,
    requests: Allowance,
    tokens: Allowance,
    in_flight: u32,
    /// Arrival times, and end times, of calls.
    events: BinaryHeap<Reverse<(Time, usize)>>,
    calls: Vec<Flight>,
}

impl Server {
    fn pass_to(&mut self, now: f64) {
        self.requests.pass(now - self.now);
        self.tokens.pass(now - self.now);
        self.now = now;
    }

    fn begin(&mut self, provider: &Provider, permit: Permit, random: &mut Random) {
        self.calls.push(Flight {
            permit,
            reply: None,
            hints: RateHints::default(),
        });
        let call = self.calls.len() - 1;
        if provider.way > 0.0 {
            let way = provider.way * unit(random);
            self.events.push(Reverse((at(self.now + way), call)));
        } else {
            self.decide(call, provider, random);
        }
    }

    /// A call has arrived.
    fn decide(&mut self, call: usize, provider: &Provider, random: &mut Random) {
        let stretch = provider.stretch(random);
        let output = if provider.varied {
            OUTPUT * stretch / MEAN
        } else {
            OUTPUT
        };
        let cost = INPUT as f64 + output;
        let stray = provider.stray > 0.0 && unit(random) <= provider.stray;
        let fits = !stray
            && !provider.down
            && self.requests.level >= 1.0
            && self.tokens.level >= cost
            && provider.parallel.is_none_or(|most| self.in_flight < most);
        let takes = if fits {
            self.requests.level -= 1.0;
            self.tokens.level -= cost;
            self.in_flight += 1;
            let load = provider
                .knee
                .map_or(1.0, |knee| f64::from(self.in_flight) / knee);
            provider.latency * load.max(1.0) * stretch
        } else {
            provider.notice
        };
        self.events.push(Reverse((at(self.now + takes), call)));
        self.calls[call].reply = Some(match fits {
            true => Reply::Answer(output as u64),
            false if provider.down => Reply::Failure,
            false => Reply::Refusal(provider.asks.wait(self.requests)),
        });
        self.calls[call].hints = RateHints {
            requests: self.requests.told(provider.tells),
            tokens: self.tokens.told(provider.tells),
        };
    }

    fn next_event(&self) -> Option<f64> {
        let Reverse((time, _)) = self.events.peek()?;
        Some(time.as_nanos() as f64 / 1e9)
    }

    /// The next call that has ended by then. Calls that arrive before are decided on.
    fn ended(&mut self, until: Time, provider: &Provider, random: &mut Random) -> Option<Ended> {
        while self
            .events
            .peek()
            .is_some_and(|Reverse((time, _))| *time <= until)
        {
            let Reverse((_, call)) = self.events.pop()?;
            let Flight {
                permit,
                reply,
                hints,
            } = self.calls[call];
            if let Some(reply) = reply {
                self.in_flight -= u32::from(matches!(reply, Reply::Answer(_)));
                return Some((permit, reply, hints));
            }
            self.decide(call, provider, random);
        }
        None
    }
}

type Ended = (Permit, Reply, RateHints);

/// Makes calls as fast as the limiter allows. The first seconds of each period, at the usual latency, are its
/// transition.
pub(super) fn run(seed: u64, limits: Limits, stretches: &[Provider], transition: f64) -> Outcome {
    let mut random = Random::warm(seed);
    let limiter = Limiter::new();
    let quota = limiter.quota(QuotaKey::new(&["p"]), limits, 0, Time::ZERO);
    let mut server = Server {
        now: 0.0,
        requests: Allowance::NONE,
        tokens: Allowance::NONE,
        in_flight: 0,
        events: BinaryHeap::new(),
        calls: Vec::new(),
    };
    let mut outcome = Outcome::default();
    for provider in stretches {
        let begun = server.now;
        let until = begun + provider.seconds;
        server.requests = server.requests.changed(provider.requests, provider.burst);
        server.tokens = server.tokens.changed(provider.tokens, provider.burst);
        let mut per_second = vec![0_u32; provider.seconds as usize + 1];
        let (mut calls, mut refusals, mut most) = (0, 0, 0);
        let slow = (provider.latency / PROVIDER.latency).max(1.0);
        let settled = begun + transition * slow;
        let (mut late_calls, mut late_refusals) = (0_u32, 0_u32);
        let mut due = begun;
        while server.now < until {
            let mut next = until;
            loop {
                if due > server.now {
                    next = next.min(due);
                    break;
                }
                match limiter.try_acquire(quota, INPUT, None, at(server.now)) {
                    Gate::Go(permit) => {
                        calls += 1;
                        late_calls += u32::from(server.now >= settled);
                        due += provider.demand.map_or(0.0, |demand| 1.0 / demand);
                        server.begin(provider, permit, &mut random);
                        most = most.max(limiter.in_flight(quota));
                    }
                    Gate::NotUntil(when) => {
                        next = next.min(when.as_nanos() as f64 / 1e9);
                        break;
                    }
                }
            }
            next = next.min(server.next_event().unwrap_or(until));
            server.pass_to(next.max(server.now + 1e-7));
            let now = at(server.now);
            while let Some((permit, reply, hints)) = server.ended(now, provider, &mut random) {
                let ended = match reply {
                    Reply::Answer(output) => {
                        let second = (server.now - begun) as usize;
                        per_second[second.min(provider.seconds as usize)] += 1;
                        CallEnd::Replied(Some((INPUT, output)))
                    }
                    Reply::Refusal(wait) => {
                        refusals += 1;
                        late_refusals += u32::from(server.now >= settled);
                        CallEnd::RateLimited(wait)
                    }
                    Reply::Failure => CallEnd::Troubled(None),
                };
                limiter.settle(permit, ended, &hints, now);
            }
        }
        let rate = provider.rate();
        let steady = &per_second[(transition * slow) as usize..provider.seconds as usize];
        let answered = f64::from(steady.iter().sum::<u32>());
        outcome.answers.push(answered / steady.len() as f64);
        outcome.used.push(answered / (rate * steady.len() as f64));
        let recovered = per_second.iter().position(|n| f64::from(*n) >= 0.9 * rate);
        let recovery = recovered.map_or(f64::INFINITY, |second| second as f64 + 1.0);
        outcome.recovery.push(recovery / slow);
        outcome.calls.push(calls);
        outcome.refusals.push(refusals);
        let late = f64::from(late_refusals) / f64::from(late_calls.max(1));
        outcome.refused.push(late);
        outcome.most_in_flight.push(most);
    }
    outcome
}
