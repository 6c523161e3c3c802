//! One machine: a worker with its store, its limiter and its clock.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::{Clock, Error, Time};
use crate::engine::dispatch::{Call, Dispatcher, EndedCall, Event, Turn};
use crate::engine::limiter::{Limiter, Limits};
use crate::llm::pack::Pack;
use crate::llm::route::Route;
use crate::queue::backlog::{Scope, StoreBacklog};
use crate::queue::kind::JobTask;
use crate::queue::kinds::Kinds;
use crate::queue::live::WorkerSettings;
use crate::queue::simulation::scene::{NamedClient, answer, dispatcher};
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
    limiter: Arc<Limiter>,
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
        let kinds = Kinds::new(Some(&route));
        let limiter = kinds.limiter.clone();
        limiter.divide(&[], &[&[][..]; MACHINES], now);
        kinds.set_prompts(route);
        let settings = WorkerSettings::default().poll_interval(MAINTENANCE);
        kinds.setup.change(|setup| setup.settings = settings);
        let worker = store.register_worker().unwrap();
        let (kinds, scope) = (Arc::new(kinds), Scope::default());
        let backlog = StoreBacklog::new(store.clone(), worker, kinds, clock.clone(), scope);
        let spread = world.random.below(MAINTENANCE.as_millis() as u64);
        Self {
            store,
            clock,
            next: now,
            limiter,
            dispatcher: dispatcher(backlog, SLOTS, number),
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
        let ended = self.flights.extract_if(.., is_over);
        let ended: Vec<_> = ended.map(Flight::end).collect();
        let mut is_awake = self.wake <= now;
        for event in ended.into_iter().chain(self.replies.drain(..)) {
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
        let keys = self.limiter.keys();
        let workers = self.store.workers().unwrap().live;
        self.limiter
            .divide(&keys, &vec![&keys[..]; workers.len()], now);
        let _ = self.store.reclaim(wall);
        // Others have written.
        let heard = &self.dispatcher.work.backlog.heard;
        heard.writes.store(true, Ordering::SeqCst);
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

impl Flight {
    fn end(self) -> Event<StoreWork> {
        Event::CallEnded(EndedCall {
            call: self.call,
            result: self.result.unwrap().map(|()| vec![answer()]),
            used: None,
            hints: hints(),
            fatal: false,
        })
    }
}
