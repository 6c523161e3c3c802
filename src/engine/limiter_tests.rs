//! The limiter's arithmetic on a simulated clock, compared with the bucket of a server.

use std::time::Duration;

use super::*;
use crate::base::RateWindow;
use crate::engine::simulation::Random;

impl Limiter {
    /// The result of [`try_acquire`](Self::try_acquire), without a reservation.
    pub(crate) fn peek(&self, quota: QuotaId, input: u64, cap: Option<u64>, now: Time) -> Gate {
        let gate = self.try_acquire(quota, input, cap, now);
        if let Gate::Go(permit) = gate {
            self.give_back(permit);
        }
        gate
    }

    pub(crate) fn in_flight(&self, quota: QuotaId) -> u32 {
        self.state
            .lock()
            .get(quota)
            .map_or(0, |quota| quota.in_flight)
    }

    /// Returns the reservation of a call that was not made.
    pub fn give_back(&self, permit: Permit) {
        if let Some(state) = self.state.lock().get(permit.quota) {
            state.in_flight = state.in_flight.saturating_sub(1);
            state.reserved.0 -= 1.0;
            state.reserved.1 -= permit.tokens;
            if let Some(bucket) = &mut state.requests {
                bucket.level = (bucket.level + 1.0).min(bucket.capacity);
            }
            if let Some(bucket) = &mut state.tokens {
                bucket.level = (bucket.level + permit.tokens).min(bucket.capacity);
            }
        }
    }
}

#[path = "learned_tests.rs"]
mod learned;
#[path = "limiter_status_tests.rs"]
mod status;

const MINUTE: Duration = Duration::from_secs(60);
const NO_HINTS: RateHints = RateHints {
    requests: None,
    tokens: None,
};

fn at(ms: u64) -> Time {
    Time::from_nanos(ms * 1_000_000)
}

fn window(limit: u64, remaining: u64, period: Duration) -> Option<RateWindow> {
    Some(RateWindow {
        limit,
        period,
        remaining: Some(remaining),
        reset: None,
    })
}

fn hints(limit: u64, remaining: u64, period: Duration) -> RateHints {
    let requests = window(limit, remaining, period);
    RateHints {
        requests,
        ..NO_HINTS
    }
}

/// A limiter with one quota.
struct Open {
    limiter: Limiter,
    quota: QuotaId,
}

fn open(limits: Limits) -> Open {
    let limiter = Limiter::new();
    let quota = limiter.quota(QuotaKey::new(&["p"]), limits, 0, at(0));
    Open { limiter, quota }
}

impl Open {
    /// Asks for a call of ten tokens.
    fn asks(&self, now: Time) -> Gate {
        self.limiter.try_acquire(self.quota, 10, Some(0), now)
    }

    fn go(&self, now: Time) -> Option<Permit> {
        self.takes(10, Some(0), now)
    }

    fn takes(&self, input: u64, output: Option<u64>, now: Time) -> Option<Permit> {
        match self.limiter.try_acquire(self.quota, input, output, now) {
            Gate::Go(permit) => Some(permit),
            Gate::NotUntil(_) => None,
        }
    }

    /// As many calls as may start now, up to this many.
    fn wave(&self, most: usize, now: Time) -> Vec<Permit> {
        (0..most).map_while(|_| self.go(now)).collect()
    }

    fn ends(&self, permit: Permit, end: CallEnd, now: Time) -> Option<Time> {
        self.limiter.settle(permit, end, &NO_HINTS, now)
    }

    fn uses(&self, permit: Permit, input: u64, output: u64, now: Time) {
        self.ends(permit, CallEnd::Replied(Some((input, output))), now);
    }

    fn reply(&self, permit: Permit, hints: &RateHints, now: Time) {
        let end = CallEnd::Replied(Some((10, 0)));
        self.limiter.settle(permit, end, hints, now);
    }

    /// The tokens that a call can reserve now, to within one.
    fn level(&self, now: Time) -> u64 {
        let fits = |n| matches!(self.limiter.peek(self.quota, n, Some(0), now), Gate::Go(_));
        (1..1000).take_while(|n| fits(*n)).last().unwrap_or(0)
    }
}

fn refused(seconds: u64) -> CallEnd {
    CallEnd::RateLimited(Some(Duration::from_secs(seconds)))
}

#[test]
fn a_given_rate_is_used_whole_and_never_exceeded() {
    let q = open(Limits::default().requests_per_minute(600.0).burst(10));
    let mut started = Vec::new();
    let mut now = at(0);
    while now < at(60_000) {
        match q.asks(now) {
            Gate::Go(permit) => {
                started.push(now);
                q.reply(permit, &NO_HINTS, now);
            }
            Gate::NotUntil(t) => now = t,
        }
    }
    // A server with the same rate and burst accepts all of them: at most burst + rate x time.
    for (i, t) in started.iter().enumerate() {
        let allowed = 10.0 + t.since(at(0)).as_secs_f64() * 10.0 + 0.001;
        assert!((i + 1) as f64 <= allowed, "call {i} at {t:?}");
    }
    assert!(started.len() >= 608, "only {} of 610 used", started.len());
}

#[test]
fn until_the_first_reply_only_the_burst_is_in_flight() {
    let q = open(Limits::default().burst(3));
    let wave = q.wave(100, at(0));
    assert_eq!(wave.len(), 3);
    q.reply(wave[0], &NO_HINTS, at(5));
    // The reply reported no limit, so none is assumed.
    assert_eq!(q.wave(100, at(5)).len(), 100);
}

#[test]
fn the_first_reply_teaches_rate_and_allowance() {
    let q = open(Limits::default().burst(10));
    // The server's bucket holds 20, and ten are used by now; 600 per minute.
    for permit in q.wave(10, at(0)) {
        q.reply(permit, &hints(600, 10, MINUTE), at(50));
    }
    let used = q.wave(20, at(50)).len();
    assert!(used <= 10, "the server's bucket is overdrawn: {used}");
    assert!(q.go(at(60)).is_none());
    assert!(q.go(at(200)).is_some());
}

#[test]
fn a_daily_limit_sets_no_rate() {
    let q = open(Limits::default());
    let day = hints(1000, 900, Duration::from_secs(86_400));
    q.reply(q.go(at(0)).unwrap(), &day, at(1));
    assert_eq!(q.wave(50, at(1)).len(), 50);
}

#[test]
fn one_rejection_pauses_the_quota_and_late_ones_do_not_extend_it() {
    let q = open(Limits::default());
    q.reply(q.go(at(0)).unwrap(), &NO_HINTS, at(1));
    for permit in q.wave(8, at(10)) {
        q.ends(permit, CallEnd::RateLimited(None), at(20));
    }
    // Eight rejections of one wave cause one pause of one second.
    assert_eq!(q.asks(at(21)), Gate::NotUntil(at(1020)));
    let permit = q.go(at(1020)).unwrap();
    q.ends(permit, CallEnd::RateLimited(None), at(1030));
    // The next wave waits twice as long.
    assert_eq!(q.asks(at(1031)), Gate::NotUntil(at(3030)));
}

#[test]
fn the_longest_requested_wait_applies() {
    let q = open(Limits::default());
    let wave = q.wave(2, at(0));
    q.ends(wave[0], refused(9), at(0));
    q.ends(wave[1], refused(2), at(0));
    assert_eq!(q.asks(at(1)), Gate::NotUntil(at(9000)));
}

#[test]
fn a_quota_without_a_known_rate_resumes_with_a_smaller_window() {
    let q = open(Limits::default());
    q.reply(q.go(at(0)).unwrap(), &NO_HINTS, at(0));
    for permit in q.wave(32, at(1)) {
        q.ends(permit, refused(1), at(2));
    }
    let back = q.wave(64, at(1002));
    assert_eq!(back.len(), 16, "half of the calls in flight");
    for permit in back {
        q.reply(permit, &NO_HINTS, at(1010));
    }
    assert_eq!(q.wave(64, at(1010)).len(), 32);
}

#[test]
fn reserved_tokens_are_corrected_by_the_reply() {
    // 6,000 per minute: 100 per second, 1,000 at once.
    let q = open(Limits::default().tokens_per_minute(6000.0).burst(100));
    let permit = q.takes(744, Some(800), at(0)).unwrap();
    assert!(q.takes(100, Some(0), at(0)).is_none());
    q.uses(permit, 200, 100, at(0));
    assert!(q.takes(600, Some(0), at(0)).is_some());
}

#[test]
fn a_call_larger_than_the_allowance_starts_alone_and_is_paid_off() {
    let q = open(Limits::default().tokens_per_minute(600.0));
    assert!(q.takes(5000, Some(0), at(0)).is_some());
    assert!(q.takes(1, Some(0), at(400_000)).is_none());
}

#[test]
fn a_client_may_state_any_number_of_tokens() {
    // A number that no model reads is not believed.
    for (per_minute, used, waits) in [
        (600.0, (1_000_000, 1_000_000), true),
        (60_000.0, (u64::MAX, u64::MAX), false),
        (60_000.0, (0, 5_000_000), false),
    ] {
        let q = open(Limits::default().tokens_per_minute(per_minute));
        q.uses(q.go(at(0)).unwrap(), used.0, used.1, at(0));
        let next = q.asks(at(0));
        let far = matches!(next, Gate::NotUntil(next) if next >= at(60_000));
        assert_eq!(far, waits, "{used:?}: {next:?}");
        assert_eq!(matches!(next, Gate::Go(_)), !waits, "{used:?}: {next:?}");
    }
}

#[test]
fn the_output_reservation_learns_from_replies() {
    let q = open(Limits::default().tokens_per_minute(60_000.0).burst(1000));
    for i in 0..32 {
        let permit = q.takes(0, None, at(i * 1000)).expect("a call starts");
        q.uses(permit, 0, 20, at(i * 1000));
    }
    // 10,000 tokens at once: 39 calls fit with 256 tokens each, and 500 with the learned 20.
    let fits = (0..1000).map_while(|_| q.takes(0, None, at(60_000)));
    let fits = fits.count();
    assert!((490..=510).contains(&fits), "{fits}");
}

#[test]
fn calls_in_flight_are_not_taken_off_a_stated_allowance_twice() {
    for first_back in [0, 1, 2] {
        // 6,000 per minute, learned from the first reply: 1,000 at once.
        let q = open(Limits::default());
        let start = |tokens| q.takes(tokens, Some(0), at(0)).expect("a call starts");
        // Each call used exactly its reservation, and its reply reports the remainder when the server accepted it.
        let back = |(permit, remaining): (Permit, u64)| {
            let tokens = window(6000, remaining, MINUTE);
            let hints = RateHints { tokens, ..NO_HINTS };
            let used = CallEnd::Replied(Some((permit.tokens as u64, 0)));
            q.limiter.settle(permit, used, &hints, at(0));
        };
        back((start(100), 1000));
        assert_eq!(q.level(at(0)), 999);
        // Three long calls; the server counts each call when it accepts it.
        let mut flying = vec![(start(300), 700), (start(200), 500), (start(100), 400)];
        back(flying.remove(first_back));
        assert_eq!(q.level(at(0)), 400, "call {first_back}");
        for call in flying {
            back(call);
            assert_eq!(q.level(at(0)), 400);
        }
    }
}

#[test]
fn requests_in_flight_are_not_taken_off_a_stated_allowance_twice() {
    let q = open(Limits::default().burst(10));
    q.reply(q.go(at(0)).unwrap(), &hints(600, 10, MINUTE), at(0));
    let flying = q.wave(6, at(0));
    // The last call ends first. The server had counted all six by then.
    q.reply(flying[5], &hints(600, 4, MINUTE), at(0));
    let more = q.wave(20, at(0)).len();
    assert_eq!(more, 4, "ten were left, and six of them are in use");
}

#[test]
fn no_quota_is_never_limited() {
    let limiter = Limiter::new();
    let quota = limiter.quota(QuotaKey::none(), Limits::default().burst(1), 0, at(0));
    let q = Open { limiter, quota };
    assert_eq!(q.wave(1000, at(0)).len(), 1000);
}

#[test]
fn random_traffic_never_overdraws_a_given_rate() {
    let mut random = Random::warm(7);
    for _ in 0..200 {
        let (rpm, burst) = (60 + random.below(6000), 1 + random.below(30) as u32);
        let limits = Limits::default().requests_per_minute(rpm as f64);
        let q = open(limits.burst(burst));
        let (mut now, mut started) = (at(0), 0_u64);
        let mut flying = Vec::new();
        for _ in 0..300 {
            now = now.after(Duration::from_millis(random.below(40)));
            if let Some(permit) = q.go(now) {
                started += 1;
                flying.push(permit);
            }
            if !flying.is_empty() && random.below(3) > 0 {
                let permit = flying.swap_remove(random.below(flying.len() as u64) as usize);
                q.reply(permit, &NO_HINTS, now);
            }
            let allowed = f64::from(burst) + now.since(at(0)).as_secs_f64() * rpm as f64 / 60.0;
            assert!(started as f64 <= allowed + 1e-3, "{started} > {allowed}");
        }
    }
}

#[test]
fn while_a_model_loads_one_call_per_second_checks_it() {
    let q = open(Limits::default().burst(4));
    let unready = |permit, wait, ms| q.ends(permit, CallEnd::NotReady(wait), at(ms));
    for (permit, ms) in q.wave(4, at(0)).into_iter().zip([0, 10, 20, 30]) {
        assert_eq!(unready(permit, None, ms), Some(at(1000)));
    }
    assert_eq!(q.go(at(999)), None);
    let asks = q.go(at(1000)).unwrap();
    assert_eq!(q.go(at(1000)), None, "one rejection causes a pause");
    // The pause is exactly as long as the server requests.
    assert_eq!(unready(asks, None, 1005), Some(at(2005)));
    let asks = q.go(at(2005)).unwrap();
    let wait = Some(Duration::from_secs(7));
    assert_eq!(unready(asks, wait, 2010), Some(at(9010)));
    q.reply(q.go(at(9010)).unwrap(), &NO_HINTS, at(9020));
    let more = q.wave(9, at(9020)).len();
    assert_eq!(more, 2, "the rate grows back gradually");
}

#[test]
fn a_configured_limit_replaces_a_learned_one() {
    let unset = Limits::default().burst(1);
    let q = open(unset);
    let permit = q.go(at(0)).expect("the first call may start");
    assert!(q.go(at(0)).is_none());
    q.reply(permit, &hints(6000, 6000, MINUTE), at(0));
    let set = |limits, version, now| {
        (q.limiter).quota(QuotaKey::new(&["p"]), limits, version, now);
    };
    let goes = |now| matches!(q.limiter.peek(q.quota, 1, Some(0), now), Gate::Go(_));
    assert!(goes(at(11)), "6,000 a minute are 100 a second");
    set(unset.burst(2), 1, at(11));
    assert!(goes(at(11)), "a reported limit outlives a new setting");
    set(unset.burst(2).requests_per_minute(1.0), 2, at(11));
    q.wave(2, at(11));
    assert!(
        !goes(at(1_011)),
        "a configured limit replaces a learned one"
    );
    // Who waits for next to nothing asks again: the limit may be raised.
    set(unset.requests_per_minute(1e-300), 3, at(1_011));
    let gate = q.limiter.peek(q.quota, 1, Some(0), at(1_011));
    assert!(
        matches!(gate, Gate::NotUntil(again) if again <= at(61_011)),
        "{gate:?}"
    );
    set(unset.requests_per_minute(6000.0), 4, at(1_011));
    assert!(goes(at(1_100)));
}

#[test]
fn one_absurd_usage_delays_by_at_most_a_minute() {
    let q = open(Limits::default().tokens_per_minute(60_000.0).burst(100));
    let absurd = u64::from(u32::MAX);
    for i in 0..32 {
        let now = at(i * 120_000);
        let permit = q.takes(100, None, now).expect("at most two minutes later");
        let (input, output) = if i % 8 == 0 {
            (absurd, absurd)
        } else {
            (100, 20)
        };
        q.uses(permit, input, output, now);
    }
}
