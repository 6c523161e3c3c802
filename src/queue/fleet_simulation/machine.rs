//! One machine: a worker with its store, its limiter and its clock.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::{Clock, Error, Time};
use crate::engine::dispatch::{Call, Dispatcher, Event, Turn};
use crate::engine::limiter::Limits;
use crate::llm::pack::Pack;
use crate::llm::route::Route;
use crate::queue::kind::JobTask;
use crate::queue::kinds::WorkerSettings;
use crate::queue::simulation::scene::{NamedClient, dispatcher, ended};
use crate::queue::store::Store;
use crate::queue::work::StoreWork;
use crate::testing::ManualClock;

use super::{MACHINES, RATE, World, hints};

/// Interval at which a worker checks for dead workers and for chores, and counts the workers.
const MAINTENANCE: Duration = Duration::from_secs(2);
/// Longest way of a call to the provider, in microseconds.
const WAY: u64 = 20_000;
/// Calls in flight.
const SLOTS: usize = 20;

/// A call on its way to the provider, or back.
struct Flight {
    at: Time,
    call: Call<Pack<JobTask>>,
    /// Known once the provider has decided.
    result: Option<Result<(), Error>>,
}

pub(super) struct Machine {
    store: Arc<Store>,
    pub clock: Arc<ManualClock>,
    /// Time of the next event.
    pub next: Time,
    dispatcher: Dispatcher<StoreWork>,
    flights: Vec<Flight>,
    /// Replies of the database.
    replies: Vec<Event<StoreWork>>,
    wake: Time,
    next_maintenance: Time,
}

impl Machine {
    /// The machine with this number.
    pub(super) fn start(number: u64, is_set: bool, store: Arc<Store>, world: &mut World) -> Self {
        let now = world.now;
        let clock = Arc::new(ManualClock::new());
        clock.advance(now.since(clock.now()));
        let mut limits = Limits::default();
        if is_set {
            limits = limits.requests_per_minute((60 * RATE).into());
        }
        let route = Route::limited(NamedClient(0), limits).clock(clock.clone());
        let settings = WorkerSettings::default().poll_interval(MAINTENANCE);
        let dispatcher = dispatcher(&store, route, &clock, (settings, SLOTS, number));
        let limiter = &dispatcher.work.backlog.controls.kinds.limiter;
        limiter.divide(&[], &[&[][..]; MACHINES], now);
        let spread = world.random.below(MAINTENANCE.as_millis() as u64);
        Self {
            store,
            clock,
            next: now,
            dispatcher,
            flights: Vec::new(),
            replies: Vec::new(),
            wake: now,
            next_maintenance: now.after(Duration::from_millis(spread)),
        }
    }

    /// Performs the steps that are due.
    pub(super) fn step(&mut self, world: &mut World) {
        let now = world.now;
        self.clock.advance(now.since(self.clock.now()));
        // Calls reach the provider.
        for flight in self.flights.iter_mut().filter(|flight| flight.at <= now) {
            if flight.result.is_none() {
                let task = &flight.call.ticket.task[0];
                let item = task.claimed.item_id.as_deref().unwrap();
                let (result, took) = world.decide(item);
                (flight.result, flight.at) = (Some(result), now.after(took));
            }
        }
        let is_over = |flight: &mut Flight| flight.result.is_some() && flight.at <= now;
        let over = self.flights.extract_if(.., is_over);
        let end = |flight: Flight| ended(flight.call, flight.result.unwrap(), hints());
        let over: Vec<_> = over.map(end).collect();
        let mut is_awake = self.wake <= now;
        for event in over.into_iter().chain(self.replies.drain(..)) {
            self.dispatcher.handle(event, now);
            is_awake = true;
        }
        if self.next_maintenance <= now {
            self.maintain(now);
            is_awake = true;
        }
        if is_awake {
            self.turn(world);
        }
        let flights = self.flights.iter().map(|flight| flight.at);
        let replies = self.replies.iter().map(|_| now);
        let all = flights
            .chain(replies)
            .chain([self.wake, self.next_maintenance]);
        self.next = all.min().unwrap();
    }

    fn maintain(&mut self, now: Time) {
        self.next_maintenance = now.after(MAINTENANCE);
        let wall = self.clock.wall();
        let _ = self.store.maintain(wall);
        // All machines use the same limits.
        let backlog = &self.dispatcher.work.backlog;
        let (limiter, workers) = (&backlog.controls.kinds.limiter, self.store.workers());
        let (keys, workers) = (limiter.keys(), workers.unwrap().live);
        let all = vec![&keys[..]; workers.len()];
        limiter.divide(&keys, &all, now);
        let _ = self.store.reclaim(wall);
        // Others have written.
        let heard = &backlog.controls.heard_of_writes;
        heard.store(true, Ordering::SeqCst);
    }

    /// Claims and settles jobs, and starts calls.
    fn turn(&mut self, world: &mut World) {
        let (now, mut start) = (world.now, Vec::new());
        let Turn::Wait(until) = self.dispatcher.turn(now, &mut start) else {
            panic!("stopped: {:?}", self.dispatcher.stop_reason());
        };
        self.wake = until.unwrap_or(Time::FAR);
        let requests = self.dispatcher.take_io();
        self.replies.extend(requests.into_iter().map(|io| io.run()));
        for call in start {
            let way = Duration::from_micros(world.random.below(WAY));
            self.flights.push(Flight {
                at: now.after(way),
                call,
                result: None,
            });
        }
    }
}
