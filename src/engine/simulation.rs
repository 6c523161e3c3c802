//! Hundreds of seeded schedules against the dispatcher: a virtual clock; a provider that loads its model, fails,
//! throttles, stalls, is unavailable for a while and answers in any order; and an output that fails for a while.
//!
//! `SIMULATION_SEED=n cargo test --lib engine::simulation` replays one schedule, `SIMULATION_SEEDS=n` runs more.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::base::seeds::{each_seed, seeds};
use crate::base::{Error, ErrorKind, RateHints, RateWindow, Sent, Time};

use super::dispatch::{
    Call, Dispatcher, EndedCall, ErrorPolicy, Event, Io, Options, StopReason, Turn,
};
use super::limiter::{Limiter, Limits, QuotaId, QuotaKey};
use super::quota::Class;
use super::route::RetryPolicy;
use super::waiting::Waiting;

mod checks;
mod model;
mod provider;

pub(super) use model::Random;
use model::{
    HangingModel, Item, LoadingModel, Look, ModelWork, OutageModel, ParallelModel, TimeModel,
};

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Arrival(Reverse<(Time, u64)>);

struct Flying {
    call: Call<u32>,
    result: Result<(), Error>,
    fatal: bool,
    /// Calls of the quota that had been answered when it began.
    replies: u64,
}

struct Scene {
    random: Random,
    dispatcher: Dispatcher<ModelWork>,
    limiter: Arc<Limiter>,
    now: Time,
    arrivals: BinaryHeap<Arrival>,
    in_flight: HashMap<u64, Flying>,
    /// A request to the store, and the time of its reply.
    io: Vec<(Time, Io<ModelWork>)>,
    started: u64,
    concurrency: usize,
    /// The concurrency, or more while calls that started before it was lowered hold permits.
    permits: usize,
    most_permits: usize,
    max_retries: u8,
    policy: ErrorPolicy,
    critical_share: u64,
    hints: RateHints,
    paused_until: HashMap<QuotaId, Time>,
    /// The waits that servers requested, by step.
    put_off: HashMap<(u32, u8), Time>,
    replies: HashMap<QuotaId, u64>,
    parallel: ParallelModel,
    /// Highest number of concurrent calls of a quota whose number is found automatically.
    tuned: Option<u32>,
    calls_after_critical: usize,
    critical_seen: bool,
    deadline: Option<Time>,
    /// One in this many checks stops the run.
    stop_share: u64,
    stopped_by_us: bool,
    fatal_share: u64,
    fatal_seen: bool,
    dead_quotas: Vec<QuotaId>,
    dead_steps: Vec<u8>,
    /// Rejected keys and empty accounts since the last answer, by step.
    lost: HashMap<u8, u32>,
    loading: LoadingModel,
    hanging: HangingModel,
    outage: OutageModel,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let mut random = Random::warm(seed);
        let limiter = Arc::new(Limiter::new());
        let steps = 1 + random.below(3) as usize;
        let mut limits = Limits::default().burst(1 + random.below(12) as u32);
        if random.chance(30) {
            limits = limits.requests_per_minute(30.0 + random.below(6000) as f64);
        }
        if random.chance(20) {
            limits = limits.tokens_per_minute(2_000.0 + random.below(1_000_000) as f64);
        }
        let tuned = random.chance(30).then(|| 1 + random.below(16) as u32);
        if let Some(most) = tuned {
            limits = limits.self_tuned(1 + random.below(most.into()) as u32, most);
        }
        let hints = if random.chance(25) {
            let limit = 60 + random.below(6000);
            RateHints {
                requests: Some(RateWindow {
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
                    limiter.quota(key, limits, 0, Time::ZERO)
                });
                Class::new(ids.collect::<Vec<_>>())
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
            times: TimeModel::default(),
            source_until: if trickle { 0 } else { items },
            breaks_at: random
                .chance(10)
                .then(|| random.below(items as u64) as usize),
            broke: false,
            answered: HashMap::new(),
            may_give_up: false,
            full_disk: false,
            defers: random.chance(30),
            has_store: random.chance(40),
            look: Look::None,
            unreleased: 0,
        };
        let deadline = random
            .chance(15)
            .then(|| Time::ZERO.after(Duration::from_millis(random.below(20_000))));
        let mut work = work;
        work.may_give_up = deadline.is_some();
        let options = Options {
            concurrency: permits,
            retry: RetryPolicy::default().max_retries(max_retries),
            on_error: policy,
            deadline,
            jitter: crate::base::random::Random(seed),
            durable: false,
            multi_tenant: false,
            no_shared_fate: false,
        };
        let loading = LoadingModel::new(&mut random);
        let parallel = ParallelModel::new(&mut random);
        let hanging = HangingModel::new(&mut random);
        let outage = OutageModel::new(&mut random);
        Self {
            hanging,
            outage,
            loading,
            critical_share: if random.chance(40) {
                random.below(4)
            } else {
                0
            },
            stop_share: if random.chance(15) { 30 } else { 2000 },
            fatal_share: if random.chance(10) { 2 } else { 0 },
            dispatcher: Dispatcher::new(work, limiter.clone(), options),
            random,
            limiter,
            now: Time::from_nanos(1),
            arrivals: BinaryHeap::new(),
            in_flight: HashMap::new(),
            io: Vec::new(),
            started: 0,
            concurrency: permits,
            permits,
            most_permits: permits,
            max_retries,
            policy,
            hints,
            paused_until: HashMap::new(),
            put_off: HashMap::new(),
            replies: HashMap::new(),
            parallel,
            tuned,
            calls_after_critical: 0,
            critical_seen: false,
            deadline,
            stopped_by_us: false,
            fatal_seen: false,
            dead_quotas: Vec::new(),
            dead_steps: Vec::new(),
            lost: HashMap::new(),
        }
    }

    fn past_deadline(&self) -> bool {
        self.deadline.is_some_and(|at| at <= self.now)
    }

    fn arrive(&mut self, id: u64) {
        // A call that was aborted has already ended when its own answer would have arrived.
        let Some(Flying {
            call,
            result,
            fatal,
            replies,
        }) = self.in_flight.remove(&id)
        else {
            return;
        };
        self.fatal_seen |= fatal;
        let (quota, step) = (call.ticket.quota(), call.ticket.tries.step);
        let answered = match &result {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::RateLimited || error.is_not_ready() => false,
            Err(error) => error.status().is_some() || error.sent() == Sent::Answered,
        };
        if answered {
            *self.replies.entry(quota).or_default() += 1;
        }
        if result.is_ok() {
            self.lost.remove(&step);
            self.dispatcher
                .work
                .answered
                .insert((quota, step), self.now);
        }
        if let Err(error) = &result {
            if error.kind() == ErrorKind::RateLimited
                && let Some(wait) = error.retry_after()
            {
                let until = self.now.after(wait);
                self.put_off.insert((call.ticket.task, step), until);
                // A rejection while no other call is answered concerns the whole quota.
                let others = self.in_flight.values();
                let others = others.filter(|other| other.call.ticket.quota() == quota);
                let same = self.replies.get(&quota).copied().unwrap_or_default() == replies;
                if others.count() == 0 && same {
                    let paused = self.paused_until.entry(quota).or_default();
                    *paused = until.max(*paused);
                }
            }
            if error.is_not_ready() {
                self.loading.refused(&call.ticket, self.now);
            } else if error.status().is_some() || error.sent() == Sent::Answered {
                self.loading.first.remove(&quota);
            }
            if error.kind().is_critical() {
                let (quota, step) = (call.ticket.quota(), call.ticket.tries.step);
                let lost = self.lost.entry(step).or_default();
                *lost += u32::from(error.kind() != ErrorKind::UnknownModel);
                // Until then, the item itself may be the cause.
                if error.kind() == ErrorKind::UnknownModel || *lost >= 3 {
                    self.critical_seen |= self.policy != ErrorPolicy::ContinueOnError
                        && call.ticket.class.steps() == 1;
                    self.bury(error.kind(), quota, step);
                }
            }
        }
        let ended = EndedCall {
            call,
            result,
            used: answered.then(|| (20, self.random.below(300))),
            hints: self.hints,
            fatal,
        };
        self.dispatcher.handle(Event::CallEnded(ended), self.now);
    }

    fn disturb(&mut self) {
        let total = self.dispatcher.work.items.len();
        let work = &mut self.dispatcher.work;
        if work.source_open() && self.random.chance(40) {
            work.source_until += 1 + self.random.below((total - work.source_until) as u64) as usize;
        }
        work.full_disk = if work.full_disk {
            self.random.chance(70)
        } else {
            self.random.chance(1)
        };
        let unreleased = work.unreleased as u64;
        if unreleased > 0 && self.random.chance(60) {
            let n = 1 + self.random.below(unreleased) as usize;
            self.dispatcher.work.unreleased -= n;
            self.dispatcher.handle(Event::Released(n), self.now);
        }
        if self.random.chance(2) {
            let n = 1 + self.random.below(16) as usize;
            self.concurrency = n;
            self.dispatcher.handle(Event::SetConcurrency(n), self.now);
            // Calls in flight, and outcomes that were not taken yet, keep their permits.
            self.permits = n.max(self.dispatcher.counters.in_flight);
            self.most_permits = self.most_permits.max(n);
        }
        if !self.stopped_by_us && self.random.below(self.stop_share) == 0 {
            self.stopped_by_us = true;
            let reason = if self.dispatcher.work.defers && self.random.chance(50) {
                StopReason::SinkClosed
            } else {
                StopReason::Cancelled
            };
            self.dispatcher.handle(Event::Stop(reason), self.now);
        }
        if self.stopped_by_us && self.random.chance(10) {
            self.abort();
        }
    }

    fn run(mut self) {
        for _ in 0..200_000 {
            let over = self.stopped_by_us
                || self.past_deadline()
                || self.dispatcher.stop_reason().is_some();
            let mut start = Vec::new();
            let turn = self.dispatcher.turn(self.now, &mut start);
            assert!(!over || start.is_empty(), "a call started after the end");
            for call in start {
                self.start(call);
            }
            for io in self.dispatcher.take_io() {
                let takes = Duration::from_millis(self.random.below(40));
                self.io.push((self.now.after(takes), io));
            }
            let of_each = |settle| {
                let same = |io: &&(Time, Io<_>)| matches!(io.1, Io::Settle(_)) == settle;
                self.io.iter().filter(same).count()
            };
            assert!(of_each(true) <= 1 && of_each(false) <= 1, "two at a time");
            self.check_permits();
            let wake = match turn {
                Turn::Finished => return self.check_end(),
                Turn::Wait(wake) => wake,
            };
            let arrival = self.arrivals.peek().map(|Arrival(Reverse((at, _)))| *at);
            let reply = self.io.iter().map(|(at, _)| *at).min();
            let arrival = [arrival, reply].into_iter().flatten().min();
            let work = &self.dispatcher.work;
            let by_itself = work.source_open() || work.unreleased > 0;
            assert!(
                wake.is_some() || arrival.is_some() || by_itself,
                "the run waits for an event that never comes"
            );
            if let Some(wake) = wake {
                assert!(
                    wake > self.now || arrival.is_some(),
                    "the wake-up time is in the past"
                );
            }
            self.check_no_stall();
            let tick = self.now.after(Duration::from_millis(50));
            let next = [wake, arrival, by_itself.then_some(tick)];
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
            let replies = self.io.extract_if(.., |(at, _)| *at <= self.now);
            for (_, io) in replies.collect::<Vec<_>>() {
                self.dispatcher.handle(io.run(), self.now);
            }
            self.disturb();
        }
        panic!("the schedule does not end");
    }
}

#[test]
fn seeded_schedules_keep_every_promise() {
    each_seed(seeds().unwrap_or(500), |seed| Scene::new(seed).run());
}
