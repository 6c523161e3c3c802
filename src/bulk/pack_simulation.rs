//! Hundreds of seeded runs of the real dispatcher over the packs of a real list: texts that make their call fail; a
//! provider that is busy, pauses, fails or is unavailable; and a slow source.
//!
//! `SIMULATION_SEED=n cargo test pack_simulation` replays one run, `SIMULATION_SEEDS=n` runs more.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::base::random::Random;
use crate::base::seeds::{each_seed, seeds};
use crate::base::{Context, Error, ErrorKind, RateHints, Sent, Time};
use crate::bulk::list::{ListBacklog, Source, feed};
use crate::bulk::work::{Backlog, Item, Job, Sink, count};
use crate::engine::availability::Availability;
use crate::engine::dispatch::{
    Call, Dispatcher, EndedCall, ErrorPolicy, Event, Options, StopReason, Turn,
};
use crate::engine::limiter::{Gate, Limits, QuotaId, QuotaKey};
use crate::engine::route::RetryPolicy;
use crate::engine::run::Waker;
use crate::engine::work::{Settled, Take, Ticket};
use crate::llm::client::LlmClient;
use crate::llm::pack::{Pack, PackLimits};
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::route::{Route, cost};
use crate::observe::tally::{Measure, Tally};
use crate::testing::ManualClock;

type Texts = Pack<Item<Request>>;

/// A provider at a step of the route. Every second model has a quota of its own.
struct Provider {
    step: u64,
    limits: PackLimits,
}

impl LlmClient for Provider {
    fn complete(&self, _: &Request, _: &Context) -> Result<Response, Error> {
        unreachable!("the scene answers")
    }

    fn quota(&self, request: &Request) -> QuotaKey {
        let model = request.model.as_deref().unwrap_or_default();
        let second = ["1", "3"].contains(&model);
        QuotaKey::new(&[&format!("{second}, {}", self.step)])
    }

    fn pack_limits(&self) -> PackLimits {
        self.limits
    }
}

/// Where an item is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    /// In the source, or read and never taken.
    Fresh,
    Out,
    Waiting {
        due: Time,
        step: u8,
    },
}

/// A list that is watched: each item is in one place, and is taken when it is due.
struct Watched<'r> {
    list: ListBacklog<'r, Request>,
    places: Vec<Place>,
}

impl Backlog for Watched<'_> {
    type Task = Item<Request>;

    fn take(
        &mut self,
        max: usize,
        availability: &Availability,
        now: Time,
    ) -> Result<Take<Texts>, Error> {
        let taken = self.list.take(max, availability, now)?;
        if let Take::Items(tickets) = &taken {
            for Item { index, .. } in tickets.iter().flat_map(|ticket| &ticket.task) {
                match std::mem::replace(&mut self.places[*index], Place::Out) {
                    Place::Fresh => {}
                    Place::Waiting { due, .. } => assert!(due <= now, "before its due time"),
                    Place::Out => panic!("item {index} is in two places"),
                }
            }
        }
        Ok(taken)
    }

    fn wait(&mut self, ticket: Ticket<Texts>, due: Time) {
        let step = ticket.tries.step;
        for Item { index, .. } in &ticket.task {
            let place = Place::Waiting { due, step };
            let before = std::mem::replace(&mut self.places[*index], place);
            assert_eq!(before, Place::Out, "item {index}");
        }
        self.list.wait(ticket, due);
    }

    fn has_more(&mut self) -> bool {
        self.list.has_more()
    }

    fn waits_for(&mut self, quota: QuotaId, availability: &Availability) -> bool {
        self.list.waits_for(quota, availability)
    }
}

/// The end of each item, which has exactly one; `None` if it was not sent.
#[derive(Default)]
struct Ends(HashMap<usize, Option<Result<(), ErrorKind>>>);

impl Sink<Item<Request>> for Ends {
    type Done = ();

    fn put(
        &mut self,
        ends: &mut Vec<Settled<Texts, ()>>,
        tally: &mut Tally,
        _: Time,
    ) -> Result<(), Error> {
        for end in ends.drain(..) {
            let (ticket, ended) = match &end {
                Settled::Final(ticket, Ok(())) => (ticket, Some(Ok(()))),
                Settled::Final(ticket, Err(error)) => (ticket, Some(Err(error.kind()))),
                Settled::Unsent(ticket, _) => (ticket, None),
                Settled::Later(..) => panic!("it is no end"),
            };
            for Item { index, .. } in &ticket.task {
                let before = self.0.insert(*index, ended);
                assert_eq!(before, None, "item {index} ended twice");
            }
            let answered = Measure {
                items: ticket.task.len() as u64,
                ..Measure::default()
            };
            count(tally, &end, |()| answered);
        }
        Ok(())
    }
}

/// A source that another thread reads, which returns as many items as the scene allows.
struct SlowSource {
    left: std::vec::IntoIter<Request>,
    give: Option<Sender<Request>>,
    asked: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl SlowSource {
    fn new(items: Vec<Request>) -> (Self, Source<'static, Request>) {
        let (waker, _) = Waker::new();
        let (feeder, source, _) = feed(items.len() + 1, PackLimits::ONE, waker);
        let (give, given) = channel();
        let (ask, asked) = channel();
        let items_given = std::iter::from_fn(move || {
            let _ = ask.send(());
            given.recv().ok().map(Ok)
        });
        let thread = Some(std::thread::spawn(move || feeder.feed(items_given)));
        asked.recv().unwrap();
        let slow = Self {
            left: items.into_iter(),
            give: Some(give),
            asked,
            thread,
        };
        (slow, source)
    }

    /// Lets the backlog read this many more items; true at the end of the source.
    fn give(&mut self, items: usize) -> bool {
        for item in self.left.by_ref().take(items) {
            self.give
                .iter()
                .for_each(|give| give.send(item.clone()).unwrap());
            // When the next one is asked for, this one can be read.
            self.asked.recv().unwrap();
        }
        if self.left.len() > 0 {
            return false;
        }
        // When its thread has ended, so has the source.
        self.give = None;
        let ended = self.thread.take().into_iter();
        ended.for_each(|thread| thread.join().unwrap());
        true
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

struct Scene<'r> {
    random: Random,
    weather: Weather,
    route: &'r Route<'r>,
    limits: PackLimits,
    items: Vec<Request>,
    /// Number of items that the source has returned so far.
    readable: usize,
    source: Option<SlowSource>,
    is_slow: bool,
    dispatcher: Dispatcher<Job<Watched<'r>, Ends>>,
    now: Time,
    in_flight: Vec<(Time, Call<Texts>)>,
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

fn route(random: &mut Random, limits: PackLimits) -> Route<'static> {
    let mut rates = Limits::default().burst(1 + random.below(9) as u32);
    if random.chance(30) {
        rates = rates.tokens_per_minute(6_000.0 + random.below(60_000) as f64);
    }
    if random.chance(20) {
        rates = rates.requests_per_minute(60.0 + random.below(6_000) as f64);
    }
    let first = Route::limited(Provider { step: 0, limits }, rates);
    let route = (1..1 + random.below(2)).fold(first, |route, step| {
        route.then(Provider { step, limits }, rates)
    });
    route.clock(Arc::new(ManualClock::new()))
}

impl<'r> Scene<'r> {
    fn new(seed: u64, mut random: Random, limits: PackLimits, route: &'r Route<'r>) -> Self {
        let (n, kinds) = (1 + random.below(200), 1 + random.below(4));
        let mut kind = 0;
        let items: Vec<Request> = (0..n)
            .map(|_| {
                if random.chance(20) {
                    kind = random.below(kinds);
                }
                let text = "text".repeat(1 + random.index(20));
                Request::embedding(text).with_model(kind.to_string())
            })
            .collect();
        let (source, list, readable) = if random.chance(30) {
            let (slow, fed) = SlowSource::new(items.clone());
            (Some(slow), fed, 0)
        } else {
            let ready = items.clone().into_iter();
            (None, Source::Ready(Box::new(ready)), items.len())
        };
        let kind = [
            ErrorKind::Invalid,
            ErrorKind::Blocked,
            ErrorKind::Malformed,
            ErrorKind::Transient,
        ][random.index(4)];
        let weather = match random.below(3) {
            0 => Weather::Rough,
            1 if kind != ErrorKind::Transient => Weather::Busy,
            _ => Weather::Fair,
        };
        let concurrency = 1 + random.index(6);
        let max_retries = match weather {
            Weather::Busy => 60,
            _ => random.below(4) as u8,
        };
        let continues = ErrorPolicy::ContinueOnError;
        let options = Options {
            retry: RetryPolicy::default()
                .max_retries(max_retries)
                .fall_back_when_blocked(true),
            jitter: Random(seed),
            ..route.options(&Context::new(), concurrency, continues)
        };
        let job = Job {
            backlog: Watched {
                list: ListBacklog::new(route, list),
                places: vec![Place::Fresh; items.len()],
            },
            sink: Ends::default(),
            tally: Tally::new(None, Time::ZERO),
        };
        let mut bad = || (0..n).map(|_| random.below(60) == 0).collect();
        Self {
            bad: (0..route.steps()).map(|_| bad()).collect(),
            random,
            weather,
            dispatcher: Dispatcher::new(job, route.limiter(), options),
            route,
            limits,
            items,
            readable,
            is_slow: source.is_some(),
            source,
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

    fn start(&mut self, call: Call<Texts>) {
        let (pack, tries) = (&call.ticket.task, &call.ticket.tries);
        let size = pack
            .iter()
            .map(|item| cost(&item.request).input)
            .sum::<u32>();
        assert_eq!(call.ticket.cost.input, size, "what is reserved");
        assert!(!pack.is_empty() && pack.len() <= self.limits.inputs.into());
        assert!(size <= self.limits.tokens || pack.len() == 1);
        assert!(!tries.alone || pack.len() == 1);
        let model = &pack[0].request.model;
        assert!(pack.iter().all(|item| item.request.model == *model));
        // The first call of a pack takes what fits of the same model, unless the source had no more then.
        let next = self.items.get(pack[pack.len() - 1].index + 1);
        if let Some(next) = next.filter(|_| tries.calls == 0 && !self.is_slow) {
            let fits = self.limits.fits(pack.len(), size, cost(next).input);
            assert!(!fits || next.model != *model, "a call could be larger");
        }
        // Each call but the first follows a failure: a retry, a division, or another provider.
        let most = 2 * u16::from(self.max_retries) + u16::from(tries.alone);
        assert!(tries.calls - tries.refused <= most + u16::from(tries.step));
        for item in pack {
            let until = self.put_off.get(&(tries.step, item.index));
            assert!(until.is_none_or(|until| *until <= self.now), "too early");
        }
        self.calls += 1;
        let at = self
            .now
            .after(Duration::from_millis(self.random.below(500)));
        self.in_flight.push((at, call));
    }

    /// A failure that asks to wait for a few seconds.
    fn put_off(&mut self, call: &Call<Texts>, error: Error) -> Error {
        let wait = Duration::from_secs(1 + self.random.below(9));
        let (step, until) = (call.ticket.tries.step, self.now.after(wait));
        let members = call.ticket.task.iter();
        self.put_off
            .extend(members.map(|item| ((step, item.index), until)));
        error.with_retry_after(Some(wait))
    }

    fn answer(&mut self, call: &Call<Texts>) -> Result<(), Error> {
        let bad = &self.bad[usize::from(call.ticket.tries.step)];
        let spoiled = call.ticket.task.iter().any(|item| bad[item.index]);
        let error = |kind| Error::new(kind, "simulated").with_sent(Sent::Answered);
        let trouble = match (self.weather, self.random.below(100)) {
            (Weather::Fair, _) => None,
            (_, 0..=6) => Some(error(ErrorKind::Transient).with_status(500)),
            (_, 7..=13) => Some(error(ErrorKind::RateLimited).with_status(429)),
            (_, 14..=16) => {
                let error = error(ErrorKind::RateLimited).with_status(429);
                Some(self.put_off(call, error))
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
        let error = error(self.kind).with_status(500);
        let waits = self.kind == ErrorKind::Transient && self.random.chance(30);
        Err(if waits {
            self.put_off(call, error)
        } else {
            error
        })
    }

    fn end_call(&mut self, call: Call<Texts>, result: Result<(), Error>) {
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
            let in_flight = self.dispatcher.counters.in_flight;
            assert_eq!(in_flight, self.in_flight.len());
            assert!(in_flight <= self.concurrency);
            let Turn::Wait(wake) = turn else {
                return self.check_end();
            };
            self.check_no_stall();
            self.in_flight.sort_by_key(|(at, _)| *at);
            let tick = self
                .source
                .is_some()
                .then(|| self.now.after(Duration::from_millis(50)));
            let next_end = self.in_flight.first().map(|(at, _)| *at);
            let next = [wake, next_end, tick].into_iter().flatten().min();
            self.now = self.now.max(next.expect("something is going to happen"));
            while let Some((at, _)) = self.in_flight.first()
                && *at <= self.now
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
        if let Some(source) = &mut self.source {
            let more = self.random.index(20);
            self.readable = (self.readable + more).min(self.items.len());
            if source.give(more) {
                self.source = None;
            }
        }
    }

    /// With a free permit, every runnable item has been started.
    fn check_no_stall(&self) {
        let counters = self.dispatcher.counters;
        let idle = self.dispatcher.stop_reason().is_none() && counters.in_flight < self.concurrency;
        // The items of an unavailable provider still have to fail, which this check does not cover.
        if !idle || self.weather == Weather::Rough {
            return;
        }
        // The limiter rounds its waits up to 50 microseconds.
        let a_moment_ago = Time::from_nanos(self.now.as_nanos().saturating_sub(100_000));
        let most = u64::from(self.limits.tokens.max(24));
        for (item, place) in self.dispatcher.work.backlog.places.iter().enumerate() {
            let step = match place {
                Place::Fresh if item < self.readable => 0,
                Place::Waiting { due, step } if *due <= self.now => *step,
                _ => continue,
            };
            let quota = self.route.class(&self.items[item], &mut None).quota(step);
            let limiter = self.route.limiter();
            let gate = limiter.peek(quota, most, Some(0), a_moment_ago);
            assert!(
                !matches!(gate, Gate::Go(_)),
                "item {item} could run, yet it waits with {} of {} in flight",
                counters.in_flight,
                self.concurrency
            );
        }
    }

    fn check_end(mut self) {
        let counters = self.dispatcher.counters;
        assert_eq!((counters.in_flight, self.in_flight.len()), (0, 0));
        assert_eq!(counters.calls, self.calls);
        let stopped = self.dispatcher.stop_reason().is_some();
        let job = &mut self.dispatcher.work;
        let rest = job.backlog.list.rest().into_iter();
        let rest: Vec<usize> = rest.map(|(item, _)| item.index).collect();
        assert!(stopped || rest.is_empty() && self.readable == self.items.len());
        let mut all: Vec<usize> = job.sink.0.keys().copied().chain(rest).collect();
        all.sort_unstable();
        let read = Vec::from_iter(0..self.readable);
        assert_eq!(all, read, "each item that was read has its end or is left");
        let with = |wanted: fn(&Option<Result<(), ErrorKind>>) -> bool| {
            job.sink.0.values().filter(|end| wanted(end)).count() as u64
        };
        let summary = job.tally.summary(&counters, self.now);
        assert_eq!(summary.completed, with(|end| matches!(end, Some(Ok(())))));
        assert_eq!(summary.failed, with(|end| matches!(end, Some(Err(_)))));
        assert_eq!(summary.pending, with(Option::is_none));
        if self.weather != Weather::Rough {
            self.check_exact();
        }
    }

    /// Exactly the bad texts fail, with few calls.
    fn check_exact(&self) {
        for (item, end) in &self.dispatcher.work.sink.0 {
            let hopeless = self.bad.iter().all(|step| step[*item]);
            let wanted = if hopeless { Err(self.kind) } else { Ok(()) };
            assert!(end.is_none_or(|end| end == wanted), "item {item}: {end:?}");
            assert!(end.is_some() || self.stopped, "item {item} was not sent");
        }
        let spoiled = self.bad.iter().flatten().filter(|bad| **bad).count() as u64;
        if self.weather == Weather::Fair {
            // A bad text fails with its pack, and then alone; a malformed reply and a retryable failure are also retried
            // each time.
            let tries = match self.kind {
                ErrorKind::Malformed => 1 + u64::from(self.max_retries.min(2)),
                ErrorKind::Transient => 1 + u64::from(self.max_retries),
                _ => 1,
            };
            let most = spoiled * 2 * tries;
            assert!(self.failed <= most, "{} of {most} failed", self.failed);
        }
    }
}

#[test]
fn exactly_the_bad_items_fail_whatever_shares_their_call() {
    each_seed(seeds().unwrap_or(500), |seed| {
        let mut random = Random(seed);
        let limits = PackLimits {
            inputs: 1 + random.below(64) as u16,
            tokens: 40 + random.below(400) as u32,
        };
        let route = route(&mut random, limits);
        Scene::new(seed, random, limits, &route).run();
    });
}
