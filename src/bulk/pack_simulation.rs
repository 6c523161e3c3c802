//! Hundreds of seeded runs of the real dispatcher over packs: texts that make their call fail; a provider that is
//! busy, pauses, fails or is unavailable; a slow source; and a full output.
//!
//! `SIMULATION_SEED=n cargo test pack_simulation` replays one run, `SIMULATION_SEEDS=n` runs more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::base::random::Random;
use crate::base::seeds::{each_seed, seeds};
use crate::base::{Error, ErrorKind, RateHints, Sent, Time};
use crate::bulk::work::{Backlog, Job, Sink, count};
use crate::engine::availability::Availability;
use crate::engine::class::Class;
use crate::engine::dispatch::{
    Call, Dispatcher, EndedCall, ErrorPolicy, Event, Options, StopReason, Turn,
};
use crate::engine::limiter::{Gate, Limiter, Limits, QuotaKey};
use crate::engine::route::{RetryPolicy, Tries};
use crate::engine::waiting::Waiting;
use crate::engine::work::{Cost, Settled, Take, Ticket};
use crate::llm::pack::{Pack, PackLimits, next_calls};
use crate::observe::tally::{Measure, Tally};

/// Where an item is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ItemPlace {
    Fresh,
    Out,
    Waiting { due: Time, step: u8 },
}

/// Items, each with a size and a kind. Those of a kind that follow each other share calls.
struct Sizes {
    items: Vec<(u32, u8)>,
    places: Vec<ItemPlace>,
    /// Number of items that the source has returned so far.
    readable: usize,
    classes: Vec<Class>,
    limits: PackLimits,
    next: usize,
    waiting: Waiting<(Pack<usize>, Tries)>,
}

impl Sizes {
    fn size(&self, pack: &[usize]) -> u32 {
        pack.iter().map(|item| self.items[*item].0).sum()
    }

    fn ticket(&self, task: Pack<usize>, tries: Tries) -> Ticket<Pack<usize>> {
        Ticket {
            cost: Cost {
                input: self.size(&task),
                output_cap: Some(0),
            },
            order: task[0] as u64,
            class: self.classes[usize::from(self.items[task[0]].1)].clone(),
            task,
            tries,
        }
    }

    fn fresh(&mut self) -> Option<Pack<usize>> {
        let mut pack = Vec::new();
        while self.next < self.readable {
            let (size, kind) = self.items[self.next];
            let fits = self.limits.fits(pack.len(), self.size(&pack), size);
            let alike = |first: &usize| self.items[*first].1 == kind;
            if !pack.first().is_none_or(|first| fits && alike(first)) {
                break;
            }
            pack.push(self.next);
            self.next += 1;
        }
        Some(pack).filter(|pack| !pack.is_empty())
    }
}

impl Backlog for Sizes {
    type Task = usize;

    fn take(
        &mut self,
        max: usize,
        availability: &Availability,
        now: Time,
    ) -> Result<Take<Pack<usize>>, Error> {
        let mut out = Vec::new();
        while out.len() < max {
            if let Some((pack, tries)) = self.waiting.pop(availability, now) {
                out.push(self.ticket(pack, tries));
                continue;
            }
            let Some(pack) = self.fresh() else { break };
            let ticket = self.ticket(pack, Tries::default());
            match availability.paused_quota(&ticket.class, 0, now) {
                Some(quota) => {
                    for item in &ticket.task {
                        self.places[*item] = ItemPlace::Waiting { due: now, step: 0 };
                    }
                    let waits = (ticket.task, ticket.tries);
                    self.waiting.pass_over(quota, ticket.order, waits);
                }
                None => out.push(ticket),
            }
        }
        for item in out.iter().flat_map(|ticket| &ticket.task) {
            match std::mem::replace(&mut self.places[*item], ItemPlace::Out) {
                ItemPlace::Fresh => {}
                ItemPlace::Waiting { due, .. } => assert!(due <= now, "before its due time"),
                ItemPlace::Out => panic!("item {item} is in two places"),
            }
        }
        if !out.is_empty() {
            return Ok(Take::Items(out));
        }
        if self.waiting.is_empty() && self.next == self.items.len() {
            return Ok(Take::Done);
        }
        Ok(Take::Idle {
            until: self.waiting.next_due(availability, now),
            source_open: self.readable < self.items.len(),
        })
    }

    fn wait(&mut self, ticket: Ticket<Pack<usize>>, due: Time) {
        let (quota, tries) = (ticket.quota(), ticket.tries);
        for pack in next_calls(ticket.task, self.limits, &tries) {
            for item in &pack {
                let step = tries.step;
                let place = ItemPlace::Waiting { due, step };
                let before = std::mem::replace(&mut self.places[*item], place);
                assert_eq!(before, ItemPlace::Out, "item {item}");
            }
            let order = pack[0] as u64;
            let item = (pack, tries.clone());
            self.waiting.push(quota, due, order, item);
        }
    }
}

/// The end of each item, which has exactly one; `None` if it was not sent.
#[derive(Default)]
struct Ends {
    of: HashMap<usize, Option<Result<(), ErrorKind>>>,
    full: bool,
    defers: bool,
    unreleased: usize,
}

impl Sink<usize> for Ends {
    type Done = ();

    fn put(
        &mut self,
        ends: &mut Vec<Settled<Pack<usize>, ()>>,
        tally: &mut Tally,
        _: Time,
    ) -> Result<(), Error> {
        if self.full {
            return Err(Error::new(ErrorKind::Invalid, "no space left"));
        }
        for end in ends.drain(..) {
            self.unreleased += usize::from(self.defers);
            let answered = |members: usize| Measure {
                items: members as u64,
                ..Measure::default()
            };
            let (ticket, ended) = match &end {
                Settled::Final(ticket, Ok(())) => (ticket, Some(Ok(()))),
                Settled::Final(ticket, Err(error)) => (ticket, Some(Err(error.kind()))),
                Settled::Unsent(ticket, _) => (ticket, None),
                Settled::Later(..) => panic!("it is no end"),
            };
            for item in &ticket.task {
                let before = self.of.insert(*item, ended);
                assert_eq!(before, None, "item {item} ended twice");
            }
            count(tally, &end, |()| answered(ticket.task.len()));
        }
        Ok(())
    }

    fn defers_release(&self) -> bool {
        self.defers
    }
}

/// Other faults.
#[derive(Clone, Copy, PartialEq)]
enum Weather {
    /// Only the bad texts fail a call.
    Fair,
    /// The provider is busy at times, but never longer than the run waits for it.
    Busy,
    /// Any fault may occur.
    Rough,
}

struct Scene {
    random: Random,
    weather: Weather,
    limiter: Arc<Limiter>,
    dispatcher: Dispatcher<Job<Sizes, Ends>>,
    now: Time,
    in_flight: Vec<(Time, Call<Pack<usize>>)>,
    concurrency: usize,
    max_retries: u8,
    /// Whether a text makes its call fail, by step and item.
    bad: Vec<Vec<bool>>,
    /// The kind of failure that a bad text causes.
    kind: ErrorKind,
    calls: u64,
    failed: u64,
    /// The time before which a server does not accept an item, by step.
    put_off: HashMap<(u8, usize), Time>,
    stopped: bool,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let (n, inputs) = (1 + random.below(200), 1 + random.below(64));
        let (kinds, steps) = (1 + random.below(4), 1 + random.below(2));
        let mut kind = 0;
        let mut item = |random: &mut Random| {
            if random.chance(20) {
                kind = random.below(kinds) as u8;
            }
            (1 + random.below(20) as u32, kind)
        };
        let items: Vec<_> = (0..n).map(|_| item(&mut random)).collect();
        let mut sizes = Sizes {
            places: vec![ItemPlace::Fresh; items.len()],
            readable: items.len(),
            items,
            classes: Vec::new(),
            limits: PackLimits {
                inputs: inputs as u16,
                tokens: 40 + random.below(400) as u32,
            },
            next: 0,
            waiting: Waiting::default(),
        };
        if random.chance(30) {
            sizes.readable = 0;
        }
        let kind = [
            ErrorKind::Invalid,
            ErrorKind::Blocked,
            ErrorKind::Malformed,
            ErrorKind::Transient,
        ][random.below(4) as usize];
        let weather = match random.below(3) {
            0 => Weather::Rough,
            1 if kind != ErrorKind::Transient => Weather::Busy,
            _ => Weather::Fair,
        };
        let mut limits = Limits::default().burst(1 + random.below(9) as u32);
        if random.chance(30) {
            limits = limits.tokens_per_minute(6_000.0 + random.below(60_000) as f64);
        }
        if random.chance(20) {
            limits = limits.requests_per_minute(60.0 + random.below(6_000) as f64);
        }
        let limiter = Arc::new(Limiter::new());
        let class = |class| {
            let key = |step: u64| QuotaKey::new(&[&format!("{class}, {step}")]);
            let quotas = (0..steps).map(|step| limiter.quota(key(step), limits, 0, Time::ZERO));
            Class::new(quotas.collect::<Vec<_>>())
        };
        sizes.classes = (0..kinds).map(|kind| class(kind % 2)).collect();
        let concurrency = 1 + random.below(6) as usize;
        let max_retries = match weather {
            Weather::Busy => 60,
            _ => random.below(4) as u8,
        };
        let options = Options {
            concurrency,
            retry: RetryPolicy::default()
                .max_retries(max_retries)
                .fall_back_when_blocked(true),
            on_error: ErrorPolicy::ContinueOnError,
            deadline: None,
            jitter: Random(seed),
            durable: false,
            multi_tenant: false,
            no_shared_fate: false,
        };
        let job = Job {
            backlog: sizes,
            sink: Ends {
                defers: random.chance(30),
                ..Ends::default()
            },
            tally: Tally::new(None, Time::ZERO),
        };
        let mut bad = || (0..n).map(|_| random.below(60) == 0).collect();
        Self {
            bad: (0..steps).map(|_| bad()).collect(),
            random,
            weather,
            dispatcher: Dispatcher::new(job, limiter.clone(), options),
            limiter,
            now: Time::ZERO,
            in_flight: Vec::new(),
            concurrency,
            max_retries,
            kind,
            calls: 0,
            failed: 0,
            put_off: HashMap::new(),
            stopped: false,
        }
    }

    fn sizes(&self) -> &Sizes {
        &self.dispatcher.work.backlog
    }

    fn start(&mut self, call: Call<Pack<usize>>) {
        let (pack, tries) = (&call.ticket.task, call.ticket.tries.clone());
        let sizes = self.sizes();
        let size = sizes.size(pack);
        assert_eq!(call.ticket.cost.input, size, "what is reserved");
        let limits = sizes.limits;
        assert!(!pack.is_empty() && pack.len() <= limits.inputs.into());
        assert!(size <= limits.tokens || pack.len() == 1);
        assert!(tries.max_pack == 0 || pack.len() <= tries.max_pack.into());
        let kind = |item: &usize| sizes.items[*item].1;
        assert!(pack.iter().all(|item| kind(item) == kind(&pack[0])));
        assert!(
            pack.iter()
                .all(|item| sizes.places[*item] == ItemPlace::Out)
        );
        // Each call but the first follows a failure: a retry, a division, or another provider.
        let most = 2 * u16::from(self.max_retries) + u16::from(tries.divisions);
        assert!(tries.calls - tries.refused <= most + u16::from(tries.step));
        let halvings = limits.inputs.next_power_of_two().ilog2() as u8;
        assert!(tries.divisions <= halvings);
        for item in pack {
            let until = self.put_off.get(&(tries.step, *item));
            assert!(until.is_none_or(|until| *until <= self.now), "too early");
        }
        self.calls += 1;
        let at = self
            .now
            .after(Duration::from_millis(self.random.below(500)));
        self.in_flight.push((at, call));
    }

    fn answer(&mut self, call: &Call<Pack<usize>>) -> Result<(), Error> {
        let step = usize::from(call.ticket.tries.step);
        let pack = &call.ticket.task;
        let spoiled = pack.iter().any(|item| self.bad[step][*item]);
        let error = |kind| Error::new(kind, "simulated").with_sent(Sent::Answered);
        let trouble = match (self.weather, self.random.below(100)) {
            (Weather::Fair, _) => None,
            (_, 0..=6) => Some(error(ErrorKind::Transient).with_status(500)),
            (_, 7..=13) => Some(error(ErrorKind::RateLimited).with_status(429)),
            (_, 14..=16) => {
                let wait = Duration::from_secs(1 + self.random.below(9));
                let until = self.now.after(wait);
                let step = call.ticket.tries.step;
                let members = pack.iter().map(|item| ((step, *item), until));
                self.put_off.extend(members);
                let error = error(ErrorKind::RateLimited).with_status(429);
                Some(error.with_retry_after(Some(wait)))
            }
            (Weather::Busy, _) => None,
            (_, 17..=19) => Some(
                error(ErrorKind::Transient)
                    .with_sent(Sent::Maybe)
                    .with_timed_out(),
            ),
            (_, 20..=21) => Some(error(ErrorKind::Malformed).with_sent(Sent::Maybe)),
            (_, 22..=23) => Some(error(ErrorKind::Transient).with_sent(Sent::No)),
            (_, 24) => Some(error(ErrorKind::Panic)),
            (_, 25) if self.random.chance(20) => Some(error(ErrorKind::Auth).with_status(401)),
            _ => None,
        };
        if trouble.is_some() || !spoiled {
            return trouble.map_or(Ok(()), Err);
        }
        let wait = (self.kind == ErrorKind::Transient && self.random.chance(30))
            .then(|| Duration::from_secs(1 + self.random.below(9)));
        if let Some(wait) = wait {
            let (step, until) = (call.ticket.tries.step, self.now.after(wait));
            let members = pack.iter().map(|item| ((step, *item), until));
            self.put_off.extend(members);
        }
        Err(error(self.kind).with_status(500).with_retry_after(wait))
    }

    fn end_call(&mut self, call: Call<Pack<usize>>, result: Result<(), Error>) {
        let ended = EndedCall {
            used: Some((10, 0)),
            call,
            result,
            hints: RateHints::default(),
            fatal: false,
        };
        self.dispatcher.handle(Event::CallEnded(ended), self.now);
    }

    fn run(mut self) {
        let stop_after = self.random.chance(20).then(|| 1 + self.random.below(12));
        for _ in 0..100_000 {
            if stop_after.is_some_and(|most| self.calls >= most) && !self.stopped {
                self.stopped = true;
                let stop = Event::Stop(StopReason::Cancelled);
                self.dispatcher.handle(stop, self.now);
            }
            let mut start = Vec::new();
            let turn = self.dispatcher.turn(self.now, &mut start);
            assert!(!self.stopped || start.is_empty(), "started after the stop");
            start.into_iter().for_each(|call| self.start(call));
            let held = self.in_flight.len() + self.dispatcher.work.sink.unreleased;
            let in_flight = self.dispatcher.counters().in_flight;
            assert!(held <= in_flight && in_flight <= self.concurrency);
            let settled = self.dispatcher.settle_error().is_none();
            assert!(!settled || held == in_flight, "a permit was lost");
            let Turn::Wait(wake) = turn else {
                return self.check_end();
            };
            self.check_no_stall();
            self.in_flight.sort_by_key(|(at, _)| *at);
            let sizes = self.sizes();
            let by_itself = sizes.readable < sizes.items.len() || in_flight > self.in_flight.len();
            let tick = by_itself.then(|| self.now.after(Duration::from_millis(50)));
            let next_end = self.in_flight.first().map(|(at, _)| *at);
            let next = [wake, next_end, tick].into_iter().flatten().min();
            self.now = self.now.max(next.expect("something is going to happen"));
            while self
                .in_flight
                .first()
                .is_some_and(|(at, _)| *at <= self.now)
            {
                let (_, call) = self.in_flight.remove(0);
                let result = self.answer(&call);
                self.failed += u64::from(result.is_err());
                self.end_call(call, result);
            }
            self.disturb();
        }
        panic!("the schedule does not end");
    }

    fn disturb(&mut self) {
        if self.stopped && self.random.chance(20) {
            for (_, call) in std::mem::take(&mut self.in_flight) {
                let error = Error::new(ErrorKind::Cancelled, "ended").with_sent(Sent::Maybe);
                self.end_call(call, Err(error));
            }
        }
        let more = self.random.below(20) as usize;
        let work = &mut self.dispatcher.work;
        let sizes = &mut work.backlog;
        sizes.readable = (sizes.readable + more).min(sizes.items.len());
        work.sink.full = if work.sink.full {
            self.random.chance(80)
        } else {
            self.random.chance(2)
        };
        let taken = self.random.below(work.sink.unreleased as u64 + 1) as usize;
        if taken > 0 {
            work.sink.unreleased -= taken;
            self.dispatcher.handle(Event::Released(taken), self.now);
        }
    }

    /// With a free permit and a working output, every runnable item has been started.
    fn check_no_stall(&self) {
        let counters = self.dispatcher.counters();
        let idle = self.dispatcher.stop_reason().is_none()
            && self.dispatcher.settle_error().is_none()
            && counters.in_flight < self.concurrency;
        // The items of an unavailable provider still have to fail, which this check does not cover.
        if !idle || self.weather == Weather::Rough {
            return;
        }
        // The limiter rounds its waits up to 50 microseconds.
        let a_moment_ago = Time::from_nanos(self.now.as_nanos().saturating_sub(100_000));
        let sizes = self.sizes();
        let most = u64::from(sizes.limits.tokens.max(20));
        for (item, place) in sizes.places.iter().enumerate() {
            let step = match place {
                ItemPlace::Fresh if item < sizes.readable => 0,
                ItemPlace::Waiting { due, step } if *due <= self.now => *step,
                _ => continue,
            };
            let quota = sizes.classes[usize::from(sizes.items[item].1)].quota(step);
            let gate = self.limiter.peek(quota, most, Some(0), a_moment_ago);
            assert!(
                !matches!(gate, Gate::Go(_)),
                "item {item} could run, yet it waits with {} of {} in flight",
                counters.in_flight,
                self.concurrency
            );
        }
    }

    fn check_end(&self) {
        let counters = self.dispatcher.counters();
        assert_eq!((counters.in_flight, self.in_flight.len()), (0, 0));
        assert_eq!(counters.calls, self.calls);
        let (sizes, ends) = (self.sizes(), &self.dispatcher.work.sink.of);
        for (item, place) in sizes.places.iter().enumerate() {
            let left = match place {
                ItemPlace::Fresh => item >= sizes.next,
                ItemPlace::Waiting { .. } => true,
                ItemPlace::Out => false,
            };
            assert_ne!(left, ends.contains_key(&item), "item {item} is {place:?}");
            assert!(!left || self.dispatcher.stop_reason().is_some());
        }
        let with = |wanted: fn(&Option<Result<(), ErrorKind>>) -> bool| {
            ends.values().filter(|end| wanted(end)).count() as u64
        };
        let tally = &self.dispatcher.work.tally;
        let summary = tally.summary(&counters, self.dispatcher.time_split(self.now), self.now);
        assert_eq!(summary.time.total(), summary.elapsed);
        assert_eq!(summary.completed, with(|end| matches!(end, Some(Ok(())))));
        assert_eq!(summary.failed, with(|end| matches!(end, Some(Err(_)))));
        assert_eq!(summary.pending, with(Option::is_none));
        if self.weather != Weather::Rough {
            self.check_exact();
        }
    }

    /// Exactly the bad texts fail, with few calls.
    fn check_exact(&self) {
        for (item, end) in &self.dispatcher.work.sink.of {
            let hopeless = self.bad.iter().all(|step| step[*item]);
            let wanted = if hopeless { Err(self.kind) } else { Ok(()) };
            assert!(end.is_none_or(|end| end == wanted), "item {item}: {end:?}");
            assert!(end.is_some() || self.stopped, "item {item} was not sent");
        }
        let spoiled = self.bad.iter().flatten().filter(|bad| **bad).count() as u64;
        let halvings = u64::from(self.sizes().limits.inputs.next_power_of_two().ilog2());
        if self.weather == Weather::Fair {
            // A bad text is alone after as many divisions as the pack allows; a malformed reply and a retryable failure
            // are also retried at each size.
            let tries = match self.kind {
                ErrorKind::Malformed => 1 + u64::from(self.max_retries.min(2)),
                ErrorKind::Transient => 1 + u64::from(self.max_retries),
                _ => 1,
            };
            let most = spoiled * (1 + halvings) * tries;
            assert!(self.failed <= most, "{} of {most} failed", self.failed);
        }
    }
}

#[test]
fn exactly_the_bad_items_fail_whatever_shares_their_call() {
    each_seed(seeds().unwrap_or(500), |seed| Scene::new(seed).run());
}
