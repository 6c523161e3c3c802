//! Limiters of several OS processes with one Redis, which `scripts/with-servers` starts. Without Redis these tests
//! report that they were skipped. However busy the machine is, no more calls may start than the elapsed time allows.

use std::time::{Duration, Instant};

use super::*;
use crate::base::{RateHints, RateWindow, SystemClock};
use crate::engine::limiter::{CallEnd, Gate, Limits, QuotaId};
use crate::hub::tests::{Cable, address, hub};

const PATIENCE: Duration = Duration::from_secs(30);

struct Process {
    limiter: Arc<Limiter>,
    quota: QuotaId,
}

impl Process {
    fn new(redis: &str, name: &str, limits: Limits) -> Self {
        let limiter = Arc::new(Limiter::new());
        limiter.share_through(&hub(redis), Arc::new(SystemClock));
        let quota = limiter.quota(
            QuotaKey::new(&["p", "key", name]),
            limits,
            0,
            SystemClock.now(),
        );
        Self { limiter, quota }
    }

    fn go(&self) -> Gate {
        self.limiter
            .try_acquire(self.quota, 1, Some(0), SystemClock.now())
    }

    fn end(&self, gate: Gate, ended: CallEnd, hints: &RateHints) {
        if let Gate::Go(permit) = gate {
            self.limiter.settle(permit, ended, hints, SystemClock.now());
        }
    }

    /// Starts a call as soon as the limiter allows one.
    fn begin(&self) -> Gate {
        let began = Instant::now();
        loop {
            match self.go() {
                Gate::NotUntil(at) => {
                    assert!(began.elapsed() < PATIENCE);
                    std::thread::sleep(at.since(SystemClock.now()).min(Duration::from_millis(50)));
                }
                gate => return gate,
            }
        }
    }

    /// Starts a call as soon as the limiter allows one, and ends it.
    fn call(&self) {
        self.end(self.begin(), CallEnd::Replied(None), &RateHints::default());
    }
}

fn name() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Makes calls as fast as possible until this number is reached. Returns the elapsed time.
fn all(processes: &[Process], calls: usize) -> Duration {
    let left = std::sync::atomic::AtomicIsize::new(calls as isize);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for process in processes {
            let left = &left;
            scope.spawn(move || {
                while left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) > 0 {
                    process.call();
                }
            });
        }
    });
    began.elapsed()
}

/// Calls that may start at once after a period without use, and the first call of a new OS process.
const AT_ONCE: f64 = 11.0;

#[test]
fn machines_together_stay_within_one_rate_and_use_it() {
    let Some(redis) = address() else { return };
    let limits = Limits::default().requests_per_minute(6000.0);
    let name = name();
    let processes: Vec<_> = (0..4)
        .map(|_| Process::new(&redis, &name, limits))
        .collect();
    let took = all(&processes, 200);
    let allowed = AT_ONCE + 100.0 * took.as_secs_f64();
    println!("200 of {allowed:.0} calls that were allowed in {took:?}");
    assert!(200.0 <= allowed, "{took:?}");
}

#[test]
fn without_redis_each_process_uses_its_part_of_the_limit() {
    let Some(redis) = address() else { return };
    let cable = Cable::to(&redis);
    let behind = cable.address(&redis);
    let limits = Limits::default().requests_per_minute(6000.0);
    let name = name();
    let processes: Vec<_> = (0..2)
        .map(|_| Process::new(&behind, &name, limits))
        .collect();
    all(&processes, 20);
    cable.cut(true);
    // Each process that noticed the other uses half of the limit.
    let was_lost = |process: &Process| {
        let mut state = process.limiter.state.lock();
        state.quotas.iter_mut().all(|quota| quota.is_lost())
    };
    let began = Instant::now();
    while !processes.iter().all(was_lost) {
        assert!(began.elapsed() < PATIENCE);
        let _ = processes
            .iter()
            .map(Process::go)
            .filter(|gate| matches!(gate, Gate::Go(_)))
            .count();
    }
    let took = all(&processes[..1], 30);
    let allowed = AT_ONCE + 50.0 * took.as_secs_f64();
    assert!(30.0 <= allowed, "{took:?} for one of two processes");
    cable.cut(false);
    let began = Instant::now();
    while processes.iter().any(was_lost) {
        assert!(began.elapsed() < PATIENCE);
        processes.iter().for_each(Process::call);
    }
}

#[test]
fn a_pause_and_a_learned_limit_reach_the_other_machines() {
    let Some(redis) = address() else { return };
    let name = name();
    let (a, b) = (
        Process::new(&redis, &name, Limits::default()),
        Process::new(&redis, &name, Limits::default()),
    );
    // Both have calls, so both receive the pause.
    let (first, other) = (a.begin(), b.begin());
    let hints = RateHints {
        requests: Some(RateWindow {
            header: None,
            limit: 60,
            period: Duration::from_secs(60),
            remaining: Some(50),
            reset: None,
        }),
        tokens: None,
    };
    a.end(first, CallEnd::Replied(None), &hints);
    let began = Instant::now();
    let knows_rate = |process: &Process| {
        let status = process.limiter.status(process.quota, SystemClock.now());
        status.requests.map(|rate| rate.limit) == Some(60)
    };
    while !knows_rate(&b) {
        assert!(began.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    let refused = CallEnd::RateLimited(Some(Duration::from_secs(100)));
    b.end(other, refused, &RateHints::default());
    let pauses = |process: &Process| {
        let now = SystemClock.now();
        process.limiter.paused_until(process.quota).since(now) > Duration::from_secs(50)
    };
    assert!(pauses(&b));
    while !pauses(&a) {
        assert!(began.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
}

#[test]
fn a_machine_without_network_pauses_only_itself() {
    let Some(redis) = address() else { return };
    let process = Process::new(&redis, &name(), Limits::default().known());
    let asked_pause = || {
        let mut state = process.limiter.state.lock();
        let asked = state.quotas[0].ask_share(SystemClock.now());
        asked.map_or(Duration::ZERO, |asked| asked.pause)
    };
    for (ended, is_told) in [
        (CallEnd::Unreachable, false),
        (CallEnd::NotReady(Some(Duration::from_secs(100))), true),
    ] {
        let now = SystemClock.now();
        // As if no other quota took part in the exchange.
        let mut state = process.limiter.state.lock();
        let quota = &mut state.quotas[0];
        let Gate::Go(permit) = quota.try_acquire(process.quota, 1, Some(0), now.after(PATIENCE))
        else {
            panic!("the call may start");
        };
        quota.settle(permit, ended, &RateHints::default(), now);
        quota.share_call_end(ended, &RateHints::default(), now);
        assert!(quota.paused_until > now);
        let told = quota.ask_share(now).unwrap().pause;
        assert_eq!(!told.is_zero(), is_told, "{ended:?}");
    }
    assert!(asked_pause().is_zero(), "the pause is published once");
}

/// The quota file of this machine keeps only the proven number of concurrent calls for later runs.
#[test]
fn the_proven_concurrency_is_kept_on_its_machine_although_limits_are_shared() {
    let Some(redis) = address() else { return };
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits::default().self_tuned(5, 256).known();
    let (name, wall) = (name(), |now: Time| now.as_nanos());
    let open = |second: u64| {
        let limiter = Arc::new(Limiter::shared_with(folder.path(), wall));
        limiter.share_through(&hub(&redis), Arc::new(SystemClock));
        let key = QuotaKey::new(&["p", "key", &name]);
        let now = Time::from_nanos(second * 1_000_000_000);
        let quota = limiter.quota(key, limits, 0, now);
        (limiter, quota)
    };
    let most = |(limiter, quota): &(Arc<Limiter>, QuotaId), second: u64| {
        let now = Time::from_nanos(second * 1_000_000_000);
        limiter.status(*quota, now).most_in_flight
    };
    let first = open(0);
    assert_eq!(most(&first, 0), Some(5));
    first.0.state.lock().quotas[0].window.found_at(40);
    let now = Time::from_nanos(1_000_000_000);
    let Gate::Go(permit) = first.0.try_acquire(first.1, 1, Some(0), now) else {
        panic!("the call may start");
    };
    (first.0).settle(permit, CallEnd::Replied(None), &RateHints::default(), now);
    let later = open(10);
    assert!(most(&later, 10) >= Some(40), "{:?}", most(&later, 10));
}
