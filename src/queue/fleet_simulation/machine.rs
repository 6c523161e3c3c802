//! One machine: a worker with its store, its limiter and its clock.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::{Clock, Error, RateHints, Time};
use crate::engine::dispatch::{Call, Dispatcher, EndedCall, Event, Turn};
use crate::engine::limiter::{Limiter, Limits, QuotaKey};
use crate::llm::client::LlmClient;
use crate::llm::pack::Pack;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::route::Route;
use crate::queue::backlog::{Scope, StoreBacklog};
use crate::queue::kind::JobTask;
use crate::queue::kinds::Kinds;
use crate::queue::live::WorkerSettings;
use crate::queue::simulation::scene::{answer, dispatcher};
use crate::queue::store::Store;
use crate::queue::store::mysql::wire::{Gets, Wire};
use crate::queue::work::StoreWork;
use crate::testing::ManualClock;

use super::world::World;

/// Never called: the simulation replies.
struct Provider;

impl LlmClient for Provider {
    fn complete(&self, _: &Request, _: &crate::Context) -> Result<Response, Error> {
        unreachable!("the simulation replies")
    }

    fn quota(&self, _: &Request) -> QuotaKey {
        QuotaKey::new(&["fleet"])
    }
}

/// Interval at which a worker checks for dead workers and for chores, and counts the workers.
const MAINTENANCE: Duration = Duration::from_secs(2);
pub(super) const LEASE: Duration = Duration::from_secs(15);
/// Duration of an operation that cannot reach the database.
const GIVEN_UP: Duration = Duration::from_secs(5);
/// Longest way of a call to the provider, in microseconds.
const WAY: u64 = 20_000;

/// The store of a machine, and its `Store` if it is on a server.
pub(super) type Opened = (Arc<Store>, Option<Arc<Store>>);

/// A call on its way to the provider, or back.
struct Flight {
    at: Time,
    call: Call<Pack<JobTask>>,
    /// Known once the provider has decided.
    result: Option<(Result<(), Error>, RateHints)>,
}

pub(super) struct Machine {
    pub store: Arc<Store>,
    pub wire: Arc<Wire>,
    /// The store on a server.
    pub server: Option<Arc<Store>>,
    pub clock: Arc<ManualClock>,
    /// Time of the next event.
    pub next: Time,
    pub cut_until: Time,
    limiter: Arc<Limiter>,
    dispatcher: Dispatcher<StoreWork>,
    flights: Vec<Flight>,
    /// Current time of its clock.
    seen: Time,
    /// Outcomes of the database, with the time at which the machine receives them.
    replies: Vec<(Time, Event<StoreWork>)>,
    wake: Option<Time>,
    next_maintenance: Time,
    next_renewal: Time,
}

impl Machine {
    /// The machine with this number.
    pub(super) fn start(
        number: u64,
        world: &mut World,
        open: impl FnOnce(Arc<Wire>) -> Opened,
    ) -> Self {
        let (plan, now) = (world.plan, world.now);
        let wire = Arc::new(Wire::default());
        wire.set_time(world.database_time());
        let (store, server) = open(wire.clone());
        let clock = Arc::new(ManualClock::new());
        if plan.is_troubled {
            clock.advance(Duration::from_secs(world.below(1200)));
        }
        clock.advance(now.since(Time::ZERO));
        let mut limits = Limits::default();
        if plan.is_set && plan.per_minute > 0.0 {
            limits = limits.requests_per_minute(plan.per_minute);
        }
        let route = Route::limited(Provider, limits).clock(clock.clone());
        let kinds = Kinds::new(Some(&route));
        let limiter = kinds.limiter.clone();
        limiter.divide(&[], &vec![&[][..]; plan.machines], clock.now());
        kinds.set_prompts(route);
        let settings = WorkerSettings::default().poll_interval(MAINTENANCE);
        kinds.setup.change(|setup| setup.settings = settings);
        let worker = store.register_worker().unwrap();
        let (kinds, scope) = (Arc::new(kinds), Scope::default());
        let backlog = StoreBacklog::new(store.clone(), worker, kinds, clock.clone(), scope);
        let spread = Duration::from_millis(world.below(MAINTENANCE.as_millis() as u64));
        Self {
            store,
            wire,
            server,
            clock,
            next: now,
            cut_until: Time::ZERO,
            limiter,
            dispatcher: dispatcher(backlog, plan.slots, plan.seed + number),
            flights: Vec::new(),
            seen: now,
            replies: Vec::new(),
            wake: Some(now),
            next_maintenance: now.after(spread),
            next_renewal: now.after(LEASE / 3),
        }
    }

    /// Calls in flight, and those whose ends are on their way to the database.
    pub(super) fn in_flight(&self) -> u64 {
        self.dispatcher.counters().in_flight as u64
    }

    /// Loses its power.
    pub(super) fn die(self) {
        if let Some(server) = &self.server {
            server.die();
        }
    }

    /// Performs the steps that are due.
    pub(super) fn step(&mut self, world: &mut World) {
        let now = world.now;
        self.clock.advance(now.since(self.seen));
        self.seen = now;
        self.arrive(world);
        self.wire.set_time(world.database_time());
        if now >= self.cut_until {
            self.wire.set(Gets::Through);
        }
        self.renew_lease(world);
        self.work(world);
        self.next = self.next_event();
    }

    fn next_event(&self) -> Time {
        let flights = self.flights.iter().map(|flight| flight.at);
        let replies = self.replies.iter().map(|(at, _)| *at);
        let renewal = match self.server {
            Some(_) => self.next_renewal,
            None => Time::FAR,
        };
        let wake = self.wake.unwrap_or(Time::FAR);
        let all = [wake, self.next_maintenance, renewal].into_iter();
        all.chain(flights).chain(replies).min().unwrap()
    }

    /// Calls reach the provider.
    fn arrive(&mut self, world: &mut World) {
        for flight in &mut self.flights {
            if flight.result.is_none() && flight.at <= world.now {
                let task = &flight.call.ticket.task[0];
                let item = task.claimed.item_id.as_deref().unwrap();
                let (result, hints, took) = world.decide(item);
                flight.result = Some((result, hints));
                flight.at = world.now.after(took);
            }
        }
    }

    /// Does the work of the lease thread.
    fn renew_lease(&mut self, world: &mut World) {
        let now = world.now;
        let Some(server) = self.server.as_ref().filter(|_| self.next_renewal <= now) else {
            return;
        };
        let is_renewed = server.renew_leases().is_ok();
        let again = if is_renewed {
            LEASE / 3
        } else {
            Duration::from_secs(1)
        };
        self.next_renewal = now.after(again);
        let _ = self.wire.take_counts();
    }

    /// Records ends, does its maintenance, claims, and starts calls.
    fn work(&mut self, world: &mut World) {
        let (now, clock_now, wall) = (world.now, self.clock.now(), self.clock.wall());
        let is_over = |flight: &Flight| flight.result.is_some() && flight.at <= now;
        let flights = std::mem::take(&mut self.flights);
        let (ended, left): (Vec<_>, Vec<_>) = flights.into_iter().partition(is_over);
        self.flights = left;
        let replies: Vec<_> = self.replies.extract_if(.., |(at, _)| *at <= now).collect();
        let is_maintained = self.next_maintenance <= now;
        let is_awake = self.wake.is_some_and(|at| at <= now);
        if ended.is_empty() && replies.is_empty() && !is_maintained && !is_awake {
            return;
        }
        for flight in ended {
            let event = Event::CallEnded(flight.end());
            self.dispatcher.handle(event, clock_now);
        }
        for (_, event) in replies {
            self.dispatcher.handle(event, clock_now);
        }
        if is_maintained {
            self.next_maintenance = now.after(MAINTENANCE);
            let _ = self.store.maintain(wall);
            if let Ok(workers) = self.store.workers() {
                // All machines use the same limits.
                let keys = self.limiter.keys();
                let all = vec![&keys[..]; workers.live.len()];
                self.limiter.divide(&keys, &all, clock_now);
            }
            let _ = self.store.reclaim(wall);
            // Others have written.
            let heard = &self.dispatcher.work.backlog.heard;
            heard.writes.store(true, Ordering::SeqCst);
            let _ = self.wire.take_counts();
        }
        let mut start = Vec::new();
        let Turn::Wait(until) = self.dispatcher.turn(clock_now, &mut start) else {
            panic!("stopped: {:?}", self.dispatcher.stop_reason());
        };
        self.wake = until.map(|until| now.after(until.since(clock_now)));
        for io in self.dispatcher.take_io() {
            let event = io.run();
            let at = self.reply_time(world);
            self.replies.push((at, event));
        }
        for call in start {
            let way = Duration::from_micros(world.below(WAY));
            self.flights.push(Flight {
                at: now.after(way),
                call,
                result: None,
            });
        }
    }

    /// Arrival time of the database's reply to the last request.
    fn reply_time(&self, world: &World) -> Time {
        let sent = self.wire.take_counts();
        world.now.after(match sent.failures {
            0 => world.plan.way * sent.round_trips,
            _ => GIVEN_UP,
        })
    }
}

impl Flight {
    fn end(self) -> EndedCall<Pack<JobTask>, crate::queue::kind::Done> {
        let (result, hints) = self.result.unwrap();
        EndedCall {
            call: self.call,
            result: result.map(|()| vec![answer()]),
            used: None,
            hints,
            fatal: false,
        }
    }
}
