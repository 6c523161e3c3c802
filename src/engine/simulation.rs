//! Thousands of seeded schedules against the dispatcher: a virtual clock, a provider that fails,
//! throttles, stalls and answers in any order, an output that fails for a while.
//!
//! `SIMULATION_SEED=n cargo test simulation` replays one schedule, `SIMULATION_SEEDS=n` runs more.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::error::{Error, ErrorKind, Sent};
use crate::base::hints::{RateHints, Window};

use super::dispatch::{Dispatcher, ErrorPolicy, Event, Flight, Landed, Options, StopReason, Turn};
use super::limit::{Limiter, Limits, QuotaId, QuotaKey};
use super::route::{RetryPolicy, Tries};
use super::waiting::Waiting;
use super::work::{Class, Cost, Gates, Settled, Take, Ticket, Work};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n.max(1)
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What the model work knows of each item; the invariants are checked where it changes.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Item {
    Fresh,
    Out,
    Waiting(Time),
    Final { ok: bool },
    Unsent,
}

struct ModelWork {
    items: Vec<Item>,
    classes: Vec<Class>,
    next: usize,
    waiting: Waiting<(u32, Tries)>,
    source_until: usize,
    full_disk: bool,
}

impl ModelWork {
    fn class(&self, item: u32) -> Class {
        self.classes[item as usize % self.classes.len()].clone()
    }
    fn ticket(&self, item: u32, tries: Tries) -> Ticket<u32> {
        Ticket {
            task: item,
            order: item.into(),
            cost: Cost {
                input: 10 + item % 50,
                output_cap: item.is_multiple_of(3).then_some(64),
            },
            class: self.class(item),
            tries,
        }
    }
}

impl Work for ModelWork {
    type Task = u32;
    type Done = ();

    fn take(&mut self, max: usize, gates: &Gates, now: Time) -> Result<Take<u32>, Error> {
        let mut out = Vec::new();
        while out.len() < max {
            let ticket = if let Some((item, tries)) = self.waiting.pop(gates, now) {
                match self.items[item as usize] {
                    Item::Waiting(due) => assert!(due <= now, "item {item} before its time"),
                    other => panic!("item {item} offered while {other:?}"),
                }
                self.ticket(item, tries)
            } else if self.next < self.source_until {
                let item = self.next as u32;
                let class = self.class(item);
                self.next += 1;
                if gates.holds(&class, 0, now) {
                    self.items[item as usize] = Item::Waiting(now);
                    self.waiting
                        .pass_over(class.quota(0), item.into(), (item, Tries::default()));
                    continue;
                }
                self.ticket(item, Tries::default())
            } else {
                break;
            };
            self.items[ticket.task as usize] = Item::Out;
            out.push(ticket);
        }
        if !out.is_empty() {
            return Ok(Take::Items(out));
        }
        let source_open = self.source_until < self.items.len();
        if self.waiting.is_empty() && !source_open {
            return Ok(Take::Done);
        }
        Ok(Take::Idle {
            until: self.waiting.next_due(gates, now),
            source_open,
        })
    }

    fn settle(&mut self, done: &mut Vec<Settled<u32, ()>>, _: Time) -> Result<(), Error> {
        let mut left = Vec::new();
        for settled in done.drain(..) {
            match settled {
                Settled::Later(ticket, due) => {
                    assert_eq!(self.items[ticket.task as usize], Item::Out);
                    self.items[ticket.task as usize] = Item::Waiting(due);
                    self.waiting.push(
                        ticket.quota(),
                        due,
                        ticket.order,
                        (ticket.task, ticket.tries),
                    );
                }
                settled if self.full_disk => left.push(settled),
                Settled::Final(ticket, result) => {
                    let item = &mut self.items[ticket.task as usize];
                    assert_eq!(*item, Item::Out, "item {} settled twice", ticket.task);
                    *item = Item::Final { ok: result.is_ok() };
                }
                Settled::Unsent(ticket, _) => {
                    assert_eq!(self.items[ticket.task as usize], Item::Out);
                    self.items[ticket.task as usize] = Item::Unsent;
                }
            }
        }
        *done = left;
        if done.is_empty() {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::Invalid, "no space left"))
        }
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Arrival(Reverse<(Time, u64)>);

struct Scene {
    random: Random,
    dispatcher: Dispatcher<ModelWork>,
    limiter: Arc<Limiter>,
    now: Time,
    arrivals: BinaryHeap<Arrival>,
    flying: HashMap<u64, (Flight<u32>, Result<(), Error>)>,
    flights: u64,
    concurrency: usize,
    permits: usize,
    max_retries: u8,
    policy: ErrorPolicy,
    critical_share: u64,
    hints: RateHints,
    paused_until: HashMap<QuotaId, Time>,
    calls_after_critical: usize,
    critical_seen: bool,
    stopped_by_us: bool,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            random.next();
        }
        let limiter = Arc::new(Limiter::new());
        let steps = 1 + random.below(3) as usize;
        let mut limits = Limits::default().burst(1 + random.below(12) as u32);
        if random.chance(30) {
            limits = limits.requests_per_minute(30.0 + random.below(6000) as f64);
        }
        if random.chance(20) {
            limits = limits.tokens_per_minute(2_000.0 + random.below(1_000_000) as f64);
        }
        let hints = if random.chance(25) {
            let limit = 60 + random.below(6000);
            RateHints {
                requests: Some(Window {
                    limit,
                    period: Duration::from_secs(if random.chance(80) { 60 } else { 86_400 }),
                    remaining: Some(random.below(limit)),
                    reset: Some(Duration::from_millis(random.below(5000))),
                }),
                tokens: None,
            }
        } else {
            RateHints::default()
        };
        let classes = (0..1 + random.below(4))
            .map(|class| {
                let ids = (0..steps).map(|step| {
                    let key = if random.chance(10) {
                        QuotaKey::none()
                    } else {
                        QuotaKey::new(&[&class.to_string(), &step.to_string()])
                    };
                    limiter.quota(key, limits, Time::ZERO)
                });
                Class(ids.collect())
            })
            .collect();
        let items = 1 + random.below(120) as usize;
        let trickle = random.chance(30);
        let permits = 1 + random.below(16) as usize;
        let policy = match random.below(3) {
            0 => ErrorPolicy::ContinueOnError,
            1 => ErrorPolicy::StopOnError,
            _ => ErrorPolicy::StopOnCriticalError,
        };
        let max_retries = random.below(5) as u8;
        let work = ModelWork {
            items: vec![Item::Fresh; items],
            classes,
            next: 0,
            waiting: Waiting::default(),
            source_until: if trickle { 0 } else { items },
            full_disk: false,
        };
        let options = Options {
            concurrency: permits,
            retry: RetryPolicy::default().max_retries(max_retries),
            on_error: policy,
            deadline: None,
            seed,
        };
        Self {
            critical_share: if random.chance(40) {
                random.below(4)
            } else {
                0
            },
            dispatcher: Dispatcher::new(work, limiter.clone(), options),
            random,
            limiter,
            now: Time::ZERO,
            arrivals: BinaryHeap::new(),
            flying: HashMap::new(),
            flights: 0,
            concurrency: permits,
            permits,
            max_retries,
            policy,
            hints,
            paused_until: HashMap::new(),
            calls_after_critical: 0,
            critical_seen: false,
            stopped_by_us: false,
        }
    }

    /// The provider's answer, decided when the call starts and delivered in any order.
    fn answer(&mut self) -> Result<(), Error> {
        let wait = self.random.below(8);
        let error = |kind| Error::new(kind, "simulated").with_sent(Sent::Answered);
        let critical = self.critical_share;
        match self.random.below(100) {
            0..=9 => Err(error(ErrorKind::Transient).with_status(500)),
            10..=17 => Err(error(ErrorKind::RateLimited)
                .with_status(429)
                .with_retry_after((wait > 2).then(|| Duration::from_secs(wait)))),
            18..=20 => Err(error(ErrorKind::Transient)
                .with_sent(Sent::Maybe)
                .with_timed_out()),
            21..=23 => Err(error(ErrorKind::Malformed).with_sent(Sent::Maybe)),
            24..=25 => Err(error(ErrorKind::Invalid).with_status(400)),
            26 => Err(error(ErrorKind::Blocked)),
            27 => Err(error(ErrorKind::Panic)),
            28..=29 => Err(error(ErrorKind::Transient)
                .with_sent(Sent::No)
                .with_unreachable()),
            n if n < 30 + critical => Err(error(match n % 3 {
                0 => ErrorKind::Auth,
                1 => ErrorKind::Quota,
                _ => ErrorKind::UnknownModel,
            })
            .with_status(401)),
            _ => Ok(()),
        }
    }

    fn start(&mut self, flight: Flight<u32>) {
        let tries = flight.ticket.tries;
        let quota = flight.ticket.quota();
        assert!(
            u32::from(tries.calls) <= 2 * u32::from(self.max_retries) + tries.step as u32,
            "item {} called {} times",
            flight.ticket.task,
            tries.calls + 1
        );
        assert!(tries.attempt <= self.max_retries, "step tried too often");
        if let Some(until) = self.paused_until.get(&quota) {
            assert!(
                quota == QuotaId::NONE || *until <= self.now,
                "call into a pause"
            );
        }
        assert!(!self.stopped_by_us, "a call was started after the stop");
        if self.critical_seen {
            self.calls_after_critical += 1;
        }
        let answer = self.answer();
        let takes = match self.random.below(10) {
            0 => 20_000,
            1..=3 => 0,
            _ => self.random.below(900),
        };
        self.flights += 1;
        let at = self.now.after(Duration::from_millis(takes));
        self.arrivals.push(Arrival(Reverse((at, self.flights))));
        self.flying.insert(self.flights, (flight, answer));
        assert!(self.flying.len() <= self.permits, "more calls than permits");
    }

    fn arrive(&mut self, id: u64) {
        let (flight, result) = self.flying.remove(&id).expect("flight is in the air");
        if let Err(error) = &result {
            if error.kind() == ErrorKind::RateLimited
                && let Some(wait) = error.retry_after()
            {
                let until = self.paused_until.entry(flight.ticket.quota()).or_default();
                *until = (*until).max(self.now.after(wait));
            }
            if error.kind().is_critical() && flight.ticket.class.steps() == 1 {
                self.critical_seen |= self.policy != ErrorPolicy::ContinueOnError;
            }
        }
        let landed = Landed {
            flight,
            result,
            used: Some((20, self.random.below(300))),
            hints: self.hints,
            fatal: false,
        };
        self.dispatcher.handle(Event::Landed(landed), self.now);
    }

    fn disturb(&mut self) {
        let total = self.dispatcher.work.items.len();
        let work = &mut self.dispatcher.work;
        if work.source_until < total && self.random.chance(40) {
            work.source_until += 1 + self.random.below((total - work.source_until) as u64) as usize;
        }
        work.full_disk = if work.full_disk {
            self.random.chance(70)
        } else {
            self.random.chance(1)
        };
        if self.random.chance(2) {
            let n = 1 + self.random.below(16) as usize;
            self.concurrency = n;
            self.dispatcher.handle(Event::SetConcurrency(n), self.now);
            // Calls already in the air keep their permits.
            self.permits = n.max(self.flying.len());
        }
        if !self.stopped_by_us && self.random.below(2000) == 0 {
            self.stopped_by_us = true;
            self.dispatcher
                .handle(Event::Stop(StopReason::Cancelled), self.now);
        }
    }

    fn run(mut self) {
        for _ in 0..200_000 {
            let mut start = Vec::new();
            let turn = self.dispatcher.turn(self.now, &mut start);
            for flight in start {
                self.start(flight);
            }
            let wake = match turn {
                Turn::Finished => return self.check_end(),
                Turn::Wait(wake) => wake,
            };
            let arrival = self.arrivals.peek().map(|Arrival(Reverse((at, _)))| *at);
            let source_open = self.dispatcher.work.source_until < self.dispatcher.work.items.len();
            assert!(
                wake.is_some() || arrival.is_some() || source_open,
                "nothing will ever happen again"
            );
            if let Some(wake) = wake {
                assert!(
                    wake > self.now || arrival.is_some(),
                    "asked to wake in the past"
                );
            }
            self.check_no_stall();
            let tick = self.now.after(Duration::from_millis(50));
            let next = [wake, arrival, source_open.then_some(tick)];
            let next = next.into_iter().flatten().min().unwrap_or(tick);
            self.now = self.now.max(next);
            while let Some(Arrival(Reverse((at, id)))) = self.arrivals.peek() {
                if *at > self.now {
                    break;
                }
                let id = *id;
                self.arrivals.pop();
                self.arrive(id);
            }
            self.disturb();
        }
        panic!("the schedule does not end");
    }

    /// With a free permit and a working output, whatever is runnable has been started.
    fn check_no_stall(&self) {
        let work = &self.dispatcher.work;
        let counters = self.dispatcher.counters();
        let stopped = self.dispatcher.stop_reason().is_some();
        let free = counters.in_flight < self.concurrency;
        if stopped || work.full_disk || !free || counters.in_flight != self.flying.len() {
            return;
        }
        // The limiter rounds its waits up to 50 microseconds.
        let a_moment_ago = Time::from_nanos(self.now.as_nanos().saturating_sub(100_000));
        for (i, item) in work.items.iter().enumerate() {
            let runnable = match item {
                Item::Fresh => i < work.source_until,
                Item::Waiting(due) => *due <= self.now,
                _ => false,
            };
            if runnable {
                let class = work.class(i as u32);
                let limited = class.0.iter().any(|quota| {
                    *quota != QuotaId::NONE
                        && !matches!(
                            self.limiter.peek(*quota, 60, None, a_moment_ago),
                            super::limit::Gate::Go(_)
                        )
                });
                assert!(
                    limited,
                    "item {i} ({item:?}, {:?}) can run at {:?} with {} of {} in flight, yet it waits",
                    class.0, self.now, counters.in_flight, self.concurrency
                );
            }
        }
    }

    fn check_end(&self) {
        let work = &self.dispatcher.work;
        let counters = self.dispatcher.counters();
        assert_eq!(counters.in_flight, 0);
        assert!(self.flying.is_empty(), "finished with calls in the air");
        assert!(self.calls_after_critical <= self.permits);
        let failed = work.items.contains(&Item::Final { ok: false });
        match self.dispatcher.stop_reason() {
            None => {
                for (i, item) in work.items.iter().enumerate() {
                    assert!(
                        matches!(item, Item::Final { .. } | Item::Unsent),
                        "item {i} is {item:?} at the end"
                    );
                }
                assert!(self.policy != ErrorPolicy::StopOnError || !failed);
            }
            Some(StopReason::ItemFailed(_)) => {
                assert!(self.policy == ErrorPolicy::StopOnError && failed);
            }
            Some(StopReason::Critical(error)) => assert!(error.kind().is_critical()),
            Some(StopReason::Unreachable(error)) => {
                assert!(self.policy == ErrorPolicy::StopOnCriticalError);
                assert!(error.is_unreachable());
            }
            Some(StopReason::Cancelled) => assert!(self.stopped_by_us),
            Some(other) => panic!("unexpected end: {other}"),
        }
        assert!(!work.items.contains(&Item::Out), "an item was dropped");
    }
}

fn seeds() -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|v| v.parse().ok());
    match number("SIMULATION_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("SIMULATION_SEEDS").unwrap_or(10_000)).collect(),
    }
}

#[test]
fn seeded_schedules_keep_every_promise() {
    for seed in seeds() {
        let outcome = std::panic::catch_unwind(|| Scene::new(seed).run());
        if let Err(panic) = outcome {
            eprintln!("replay with SIMULATION_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
