//! State that all machines share: the time, the provider, and the latency of the database.

use std::collections::HashMap;
use std::time::Duration;

use crate::base::random::Random;
use crate::base::{Clock, Error, ErrorKind, RateHints, RateWindow, Time, Timestamp};
use crate::testing::ManualClock;

/// Parameters of a simulation.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub seed: u64,
    pub machines: usize,
    /// Calls in flight of each machine.
    pub slots: usize,
    pub jobs: usize,
    /// Requests per minute that the provider accepts; no limit at 0.
    pub per_minute: f64,
    /// Whether the limit is configured in the workers; otherwise replies report it.
    pub is_set: bool,
    /// The duration of a call is between this and three times as long.
    pub call: Duration,
    /// Round-trip time to the database.
    pub way: Duration,
    /// Whether to inject faults: crashes, lost connections, clocks that differ.
    pub is_troubled: bool,
}

/// The clock of the database is ahead of the simulation's.
const DATABASE_AHEAD: Duration = Duration::from_secs(600);

/// Figures of a run.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub calls: u64,
    pub refused: u64,
    /// Accepted calls by item.
    pub paid: HashMap<String, u32>,
    /// Calls in flight at crashes and lost connections.
    pub at_risk: u64,
    /// Times of accepted calls.
    pub accepted: Vec<Time>,
    pub took: Duration,
}

impl Figures {
    pub(super) fn paid_twice(&self) -> u64 {
        self.paid.values().map(|paid| u64::from(paid - 1)).sum()
    }

    pub(super) fn refused_part(&self) -> f64 {
        self.refused as f64 / self.calls.max(1) as f64
    }

    /// The part of the provider's limit that was used between two moments.
    pub(super) fn used(&self, plan: &Plan, from: Duration, until: Duration) -> f64 {
        let (from, until) = (START.after(from), START.after(until));
        let within = self.accepted.iter();
        let within = within.filter(|at| (from..until).contains(*at)).count();
        within as f64 / (plan.per_minute / 60.0 * until.since(from).as_secs_f64())
    }
}

/// Start time of a simulation.
pub(super) const START: Time = Time::from_nanos(1_000_000_000);

pub(super) struct World {
    pub plan: Plan,
    pub now: Time,
    pub figures: Figures,
    random: Random,
    /// Calls that the provider accepts at once, and the time of this value.
    bucket: (f64, Time),
}

impl World {
    pub(super) fn new(plan: Plan) -> Self {
        Self {
            plan,
            now: START,
            figures: Figures::default(),
            random: Random(plan.seed),
            bucket: (plan.per_minute / 60.0, START),
        }
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.random.below(n)
    }

    /// Current time of the database's clock.
    pub(super) fn database_time(&self) -> Timestamp {
        let passed = self.now.since(Time::ZERO);
        ManualClock::new().wall().after(passed + DATABASE_AHEAD)
    }

    /// The provider accepts or refuses a call. Returns how long that takes.
    pub(super) fn decide(&mut self, item: &str) -> (Result<(), Error>, RateHints, Duration) {
        let (now, rate) = (self.now, self.plan.per_minute / 60.0);
        self.figures.calls += 1;
        let (level, since) = self.bucket;
        let level = (level + rate * now.since(since).as_secs_f64()).min(rate);
        let is_accepted = rate == 0.0 || level >= 1.0;
        self.bucket = (level - f64::from(u8::from(is_accepted)), now);
        let window = RateWindow {
            header: None,
            limit: self.plan.per_minute as u64,
            period: Duration::from_secs(60),
            remaining: None,
            reset: None,
        };
        let hints = RateHints {
            requests: (rate > 0.0).then_some(window),
            tokens: None,
        };
        if !is_accepted {
            self.figures.refused += 1;
            let error = Error::new(ErrorKind::RateLimited, "slow down").with_status(429);
            return (Err(error), hints, Duration::from_millis(20));
        }
        self.figures.accepted.push(now);
        *self.figures.paid.entry(item.to_owned()).or_default() += 1;
        let call = self.plan.call;
        let more = self.below(2 * call.as_micros() as u64);
        (Ok(()), hints, call + Duration::from_micros(more))
    }
}
