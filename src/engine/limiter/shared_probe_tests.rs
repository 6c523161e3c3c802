//! Which machine probes a provider that is unavailable: limiters of several machines with the real script, on simulated
//! time.

use std::time::Duration;

use super::*;
use crate::base::RateHints;
use crate::engine::limiter::{CallEnd, Gate, Limits, Permit};
use crate::hub::shares::simulated_redis::SimulatedRedis;
use crate::testing::ManualClock;

/// The hub exchanges this often while a call waits.
const TICK: Duration = Duration::from_millis(10);
const OUTAGE: Duration = Duration::from_millis(300);

struct Machine {
    name: String,
    hub: RedisHub,
    limiter: Arc<Limiter>,
    quota: QuotaId,
}

struct World {
    redis: SimulatedRedis,
    clock: Arc<ManualClock>,
    machines: Vec<Machine>,
}

impl World {
    fn new(machines: usize) -> Self {
        let mut world = Self {
            redis: SimulatedRedis::new(),
            clock: Arc::new(ManualClock::new()),
            machines: Vec::new(),
        };
        world.clock.advance(Duration::from_secs(1));
        (0..machines).for_each(|_| world.add());
        world
    }

    fn add(&mut self) {
        let (hub, limiter) = (RedisHub::simulated(), Arc::new(Limiter::new()));
        limiter.share_through(&hub, self.clock.clone());
        let key = QuotaKey::new(&["p", "key", "model"]);
        let quota = limiter.quota(key, Limits::default().known(), 0, self.clock.now());
        // As if the quota had just been used: it takes part in the exchange.
        limiter.outage(quota, true, self.clock.now());
        let name = format!("machine {}", self.machines.len());
        self.machines.push(Machine {
            name,
            hub,
            limiter,
            quota,
        });
    }

    fn go(&self, at: usize) -> Gate {
        let machine = &self.machines[at];
        let now = self.clock.now();
        (machine.limiter).try_acquire(machine.quota, 1, Some(0), now)
    }

    fn exchange(&self, at: usize) {
        let machine = &self.machines[at];
        for user in machine.hub.users() {
            let asked = user.ask();
            let now = self.clock.now();
            user.receive(&self.redis.exchange(&machine.name, &asked, now));
        }
    }

    /// Redis does not receive the request of this machine.
    fn fail_exchange(&self, at: usize) {
        for user in self.machines[at].hub.users() {
            user.ask();
            user.lose(self.machines.len());
        }
    }

    fn tick(&self) {
        self.clock.advance(TICK);
        (0..self.machines.len()).for_each(|at| self.exchange(at));
    }

    /// Starts a call if one may start within this time.
    fn begin_within(&self, at: usize, time: Duration) -> Option<Permit> {
        let end = self.clock.now().after(time);
        loop {
            match self.go(at) {
                Gate::Go(permit) => return Some(permit),
                Gate::NotUntil(_) if self.clock.now() >= end => return None,
                Gate::NotUntil(_) => self.tick(),
            }
        }
    }

    fn begin(&self, at: usize) -> Permit {
        let permit = self.begin_within(at, Duration::from_secs(5));
        permit.unwrap_or_else(|| panic!("machine {at} starts no call"))
    }

    fn end(&self, at: usize, permit: Permit, ended: CallEnd) {
        let (hints, now) = (RateHints::default(), self.clock.now());
        (self.machines[at].limiter).settle(permit, ended, &hints, now);
    }

    /// A breaker of the machine opens for this long.
    fn open(&self, at: usize, time: Duration) {
        let (machine, now) = (&self.machines[at], self.clock.now());
        (machine.limiter).note_outage(machine.quota, Some(now.after(time)), false);
    }

    fn outage(&self, at: usize) -> Option<Option<Time>> {
        let machine = &self.machines[at];
        (machine.limiter).outage(machine.quota, true, self.clock.now())
    }

    /// Machine 0 detects that the provider is unavailable, and disappears. The others have no open breaker.
    fn after_an_outage(machines: usize) -> Self {
        let mut world = Self::new(1);
        world.open(0, OUTAGE);
        world.exchange(0);
        world.machines.clear();
        (0..machines).for_each(|_| world.add());
        world.tick();
        world
    }
}

#[test]
fn an_answered_probe_ends_an_outage_for_all_machines_without_a_breaker() {
    let world = World::after_an_outage(2);
    for ended in [
        CallEnd::Replied(None),
        CallEnd::RateLimited(None),
        CallEnd::NotReady(None),
    ] {
        world.open(1, OUTAGE);
        world.exchange(1);
        world.exchange(0);
        let probe = world.begin(0);
        world.end(0, probe, ended);
        for at in [0, 1] {
            let call = world.begin(at);
            world.end(at, call, CallEnd::Replied(None));
            assert_eq!(world.outage(at).flatten(), None, "{ended:?}");
        }
    }
}

#[test]
fn after_a_failed_probe_all_machines_wait_and_one_probes_again() {
    let world = World::after_an_outage(2);
    let probe = world.begin(0);
    world.end(0, probe, CallEnd::Troubled(None));
    world.tick();
    let now = world.clock.now();
    for at in [0, 1] {
        let until = world.outage(at).flatten();
        assert!(until > Some(now.after(TICK)), "{at}: {until:?}");
    }
    let probe = world.begin(1);
    assert!(
        world
            .begin_within(0, Duration::from_millis(2_500))
            .is_none()
    );
    world.end(1, probe, CallEnd::Replied(None));
    world.begin(0);
}

#[test]
fn a_probe_that_was_cancelled_is_made_again() {
    for ended in [CallEnd::Failed, CallEnd::Unreachable] {
        let world = World::after_an_outage(1);
        let probe = world.begin(0);
        world.end(0, probe, ended);
        assert!(world.outage(0).flatten().is_some());
        let probe = world.begin(0);
        world.end(0, probe, CallEnd::Replied(None));
        world.begin(0);
    }
}

#[test]
fn the_end_of_an_earlier_call_is_not_that_of_the_probe() {
    let world = World::new(2);
    let earlier = world.begin(0);
    world.open(1, OUTAGE);
    world.exchange(1);
    world.exchange(0);
    let _probe = world.begin(0);
    world.end(0, earlier, CallEnd::Failed);
    let time = Duration::from_millis(2_500);
    assert!(world.begin_within(1, time).is_none());
}

#[test]
fn a_probe_whose_end_was_lost_is_made_again() {
    let world = World::after_an_outage(1);
    let probe = world.begin(0);
    world.machines[0].limiter.give_back(probe);
    world.begin(0);
}

#[test]
fn a_machine_that_makes_no_call_leaves_the_probe_to_others() {
    let world = World::new(2);
    // The machine makes other calls, so it exchanges all the time.
    let _other = world.begin(0);
    world.open(1, OUTAGE);
    world.exchange(1);
    world.exchange(0);
    world.clock.advance(OUTAGE);
    // The machine requests the probe and gets it, but then has no free slot.
    assert!(matches!(world.go(0), Gate::NotUntil(_)));
    world.exchange(0);
    world.begin(1);
}

#[test]
fn an_old_permission_to_probe_is_requested_again() {
    let world = World::after_an_outage(2);
    world.clock.advance(OUTAGE);
    world.exchange(0);
    assert!(matches!(world.go(0), Gate::NotUntil(_)));
    world.exchange(0);
    // No exchange takes place for longer than the script waits for a machine.
    world.clock.advance(Duration::from_secs(3));
    let _probe = world.begin_within(1, Duration::ZERO).unwrap_or_else(|| {
        world.exchange(1);
        let Gate::Go(permit) = world.go(1) else {
            panic!("the probe is allowed");
        };
        permit
    });
    assert!(matches!(world.go(0), Gate::NotUntil(_)));
}

#[test]
fn an_outage_found_without_redis_is_published_later() {
    let world = World::new(2);
    let _calls = [world.begin(0), world.begin(1)];
    world.exchange(1);
    world.open(0, Duration::from_secs(10));
    world.fail_exchange(0);
    world.exchange(0);
    // Its own breaker stays open.
    assert!(world.outage(0).flatten().is_some());
    world.exchange(1);
    assert!(world.outage(1).flatten().is_some());
    // The same if Redis has lost the published outage.
    world.redis.empty();
    world.fail_exchange(0);
    world.exchange(0);
    assert!(world.outage(0).flatten().is_some());
}

#[test]
fn an_end_found_without_redis_is_published_later() {
    let world = World::new(2);
    let _calls = [world.begin(0), world.begin(1)];
    world.open(0, Duration::from_secs(10));
    world.tick();
    assert!(world.outage(1).flatten().is_some());
    let machine = &world.machines[0];
    (machine.limiter).note_outage(machine.quota, None, false);
    world.fail_exchange(0);
    world.exchange(0);
    world.exchange(1);
    assert_eq!(world.outage(1), Some(None));
}

#[test]
fn only_an_outage_that_redis_has_shown_can_end() {
    let world = World::new(2);
    let _calls = [world.begin(0), world.begin(1)];
    world.open(0, Duration::from_secs(10));
    world.tick();
    assert!(world.outage(1).flatten().is_some());
    world.redis.empty();
    world.fail_exchange(1);
    world.exchange(1);
    assert_eq!(world.outage(1), None);
}

#[test]
fn waits_between_probes_double_whichever_machine_makes_them() {
    let world = World::after_an_outage(5);
    world.clock.advance(OUTAGE);
    let waits = (0..5).map(|at| {
        let probe = world.begin(at);
        world.end(at, probe, CallEnd::Troubled(None));
        world.exchange(at);
        let now = world.clock.now();
        let wait = world.outage(at).flatten().unwrap().since(now);
        world.clock.advance(wait);
        wait.as_secs_f64().round()
    });
    assert_eq!(waits.collect::<Vec<_>>(), [1.0, 2.0, 4.0, 8.0, 8.0]);
}
