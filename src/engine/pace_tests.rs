use super::*;

fn at(ms: u64) -> Time {
    Time::from_nanos(ms * 1_000_000)
}

/// A provider that accepts `rate` calls per second, one at a time, and answers after 50 ms.
struct Provider {
    rate: f64,
    level: f64,
    now: u64,
}

impl Provider {
    fn new(rate: f64) -> Self {
        Self {
            rate,
            level: 1.0,
            now: 0,
        }
    }

    /// Calls that were accepted and rejected within `seconds`.
    fn run(&mut self, pace: &mut Pace, seconds: u64) -> (u64, u64) {
        let (mut accepted, mut refused) = (0, 0);
        let end = self.now + seconds * 1000;
        while self.now < end {
            // Nothing happens until the pace allows the next call.
            let wait = pace.wait(at(self.now)).as_nanos().div_ceil(1_000_000) as u64;
            let millis = wait.clamp(1, end - self.now);
            self.now += millis;
            self.level = (self.level + self.rate * millis as f64 / 1000.0).min(1.0);
            let now = at(self.now);
            if !pace.wait(now).is_zero() {
                continue;
            }
            let call = pace.take(now);
            if self.level >= 1.0 {
                self.level -= 1.0;
                accepted += 1;
                pace.answered(call, Duration::from_millis(50), now);
            } else {
                refused += 1;
                pace.refused(call, now);
            }
        }
        (accepted, refused)
    }
}

#[test]
fn a_rate_of_one_call_in_many_seconds_grows_again() {
    for rate in [0.1, 0.3, 1.0] {
        let (mut provider, mut pace) = (Provider::new(rate), Pace::default());
        provider.run(&mut pace, 300);
        provider.rate = 10.0;
        provider.run(&mut pace, 7200);
        let (accepted, _) = provider.run(&mut pace, 60);
        assert!(accepted > 300, "{rate}: {accepted}");
    }
}

#[test]
fn an_unused_rate_is_dropped() {
    let (mut provider, mut pace) = (Provider::new(20.0), Pace::default());
    provider.run(&mut pace, 30);
    assert!(pace.rate.is_some());
    for ms in (30_000..60_000).step_by(500) {
        let call = pace.take(at(ms));
        pace.answered(call, Duration::from_millis(50), at(ms));
    }
    assert!(pace.rate.is_none());
}

#[test]
fn endless_rejections_leave_one_call_per_minute() {
    let (mut provider, mut pace) = (Provider::new(1.0), Pace::default());
    provider.run(&mut pace, 60);
    assert!(pace.rate.is_some());
    let mut now = at(provider.now);
    for _ in 0..200 {
        now = now.after(pace.wait(now));
        let call = pace.take(now);
        pace.refused(call, now);
        assert!(pace.wait(now) <= Duration::from_secs(125));
    }
    assert!(pace.wait(now) >= Duration::from_secs(60));
}

#[test]
fn a_rate_that_delays_calls_does_not_restart_the_count() {
    let (mut provider, mut pace) = (Provider::new(0.1), Pace::default());
    provider.run(&mut pace, 300);
    let call = pace.take(at(provider.now));
    assert!(pace.held_until() >= call.at.after(Duration::from_secs(10)));
    assert!(pace.mark.is_some());
    pace.mark = None;
    assert!(pace.mark.is_none());
}

#[test]
fn one_rejection_starts_no_rate() {
    let mut pace = Pace::default();
    (0..10).for_each(|ms| _ = pace.take(at(ms)));
    let refused = pace.take(at(20));
    pace.refused(refused, at(40));
    assert!(pace.rate.is_none() && pace.wait(at(41)).is_zero());
}
