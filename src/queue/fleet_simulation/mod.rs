//! Fifty machines on simulated time: the real dispatcher, claims and limiter, which divides the limits, on a real
//! database in SQLite. The simulation models the provider.

mod machine;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::base::random::Random;
use crate::base::{Clock, Error, ErrorKind, ProcessId, RateHints, RateWindow, Time};
use crate::llm::request::Request;

use super::job::Job;
use super::store::Store;
use super::store::sqlite::SqliteOptions;
use machine::Machine;

const MACHINES: usize = 50;
const JOBS: usize = 2_500;
/// Calls that the provider accepts in a second.
const RATE: u32 = 100;
/// The duration of a call is between this and three times as long.
const CALL: Duration = Duration::from_secs(1);
const SECOND: Duration = Duration::from_secs(1);
/// Start time of the simulation.
const START: Time = Time::from_nanos(1_000_000_000);

/// State that all machines share: the time and the provider.
struct World {
    now: Time,
    random: Random,
    /// Calls that the provider accepts at once, and the time of this value.
    bucket: (f64, Time),
    calls: u64,
    /// Times of accepted calls.
    accepted: Vec<Time>,
    /// Accepted calls by item.
    paid: HashMap<String, u32>,
}

impl World {
    /// The provider accepts or refuses a call. Returns how long that takes.
    fn decide(&mut self, item: &str) -> (Result<(), Error>, Duration) {
        self.calls += 1;
        let ((level, since), rate) = (self.bucket, f64::from(RATE));
        let level = (level + rate * self.now.since(since).as_secs_f64()).min(rate);
        let is_accepted = level >= 1.0;
        self.bucket = (level - f64::from(u8::from(is_accepted)), self.now);
        if !is_accepted {
            let error = Error::new(ErrorKind::RateLimited, "slow down").with_status(429);
            return (Err(error), Duration::from_millis(20));
        }
        self.accepted.push(self.now);
        *self.paid.entry(item.to_owned()).or_default() += 1;
        let more = self.random.below(2 * CALL.as_micros() as u64);
        (Ok(()), CALL + Duration::from_micros(more))
    }
}

/// What each reply of the provider reports.
fn hints() -> RateHints {
    let window = RateWindow {
        limit: u64::from(60 * RATE),
        period: 60 * SECOND,
        remaining: None,
        reset: None,
    };
    RateHints {
        requests: Some(window),
        tokens: None,
    }
}

/// Runs all jobs. `is_set`: whether the limit is configured in the workers; otherwise replies report it.
fn run(is_set: bool) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let open = || Arc::new(Store::open(&path, SqliteOptions::default()).unwrap());
    let mut world = World {
        now: START,
        random: Random(1),
        bucket: (f64::from(RATE), START),
        calls: 0,
        accepted: Vec::new(),
        paid: HashMap::new(),
    };
    let start = |number| Machine::start(number, is_set, open(), &mut world);
    let mut machines: Vec<Machine> = (0..MACHINES as u64).map(start).collect();
    let (store, process) = (open(), ProcessId::new());
    let jobs = (0..JOBS).map(|n| {
        let name = format!("j-{n}");
        Job::from(Request::new(&*name).with_id(name))
    });
    let wall = machines[0].clock.wall();
    store.insert(process, jobs.collect(), true, wall).unwrap();
    let mut next_look = START;
    loop {
        let now = world.now;
        for machine in machines.iter_mut().filter(|machine| machine.next <= now) {
            machine.step(&mut world);
        }
        if now >= next_look {
            next_look = now.after(SECOND);
            let counts = store.process(process).unwrap().unwrap().counts;
            if counts.completed == JOBS as u64 {
                break;
            }
            assert!(
                now.since(START) < 3600 * SECOND,
                "it does not end: {counts:?}"
            );
        }
        let next = machines.iter().map(|machine| machine.next).min();
        let next = next.unwrap().min(next_look);
        world.now = next.max(now.after(Duration::from_micros(100)));
    }
    assert_eq!((world.paid.len(), world.accepted.len()), (JOBS, JOBS));
    let measured = START.after(5 * SECOND)..START.after(22 * SECOND);
    let within = world.accepted.iter().filter(|at| measured.contains(at));
    let used = within.count() as f64 / f64::from(17 * RATE);
    let refused = 1.0 - JOBS as f64 / world.calls as f64;
    println!(
        "used {used:.3}, refused {refused:.4} in {:?}",
        world.now.since(START)
    );
    assert!(used >= 0.95 && refused <= 0.005, "{used} {refused}");
}

#[test]
fn fifty_machines_use_one_limit_and_do_not_exceed_it() {
    run(true);
}

#[test]
fn fifty_machines_learn_one_limit() {
    run(false);
}
