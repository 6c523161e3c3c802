//! The script of the shared limits, on a simulated Redis.

use std::time::Duration;

use super::simulated_redis::SimulatedRedis;
use super::{Outage, PartRequest, Share, ShareRequest};
use crate::base::Time;

fn at(ms: u64) -> Time {
    Time::from_nanos(ms * 1_000_000)
}

fn request(reported: Option<Duration>) -> ShareRequest {
    let part = PartRequest {
        per_second: 1.0,
        reported,
        capacity: 10.0,
        wanted: 1.0,
        back: 0.0,
        first: 10.0,
        left: None,
    };
    ShareRequest {
        quota: 7,
        pause: Duration::ZERO,
        has_replied: true,
        first_calls: 0,
        outage: Outage::Unchanged,
        probes: false,
        parts: [Some(part), None],
    }
}

/// The answer to a process that knows no limit.
fn heard(redis: &SimulatedRedis, now: Time) -> Share {
    let asks = ShareRequest {
        parts: [None; 2],
        ..request(None)
    };
    redis.exchange("b", &[asks], now)[0]
}

#[test]
fn other_processes_receive_the_age_of_a_report() {
    let redis = SimulatedRedis::new();
    let age = |seconds| Some(Duration::from_secs(seconds));
    redis.exchange("a", &[request(age(10))], at(1_000_000));
    let learned = |now| heard(&redis, now).parts[0].learned;
    assert_eq!(learned(at(1_000_000)), Some((1.0, Duration::from_secs(10))));
    assert_eq!(learned(at(1_050_000)), Some((1.0, Duration::from_secs(60))));
    // A request that uses a limit is not a report of it.
    redis.exchange("a", &[request(age(60))], at(1_050_000));
    assert_eq!(learned(at(1_051_000)), Some((1.0, Duration::from_secs(61))));
    redis.exchange("a", &[request(age(0))], at(1_052_000));
    assert_eq!(learned(at(1_052_000)), Some((1.0, Duration::ZERO)));
    // A limit that the user set is not passed on.
    redis.exchange("a", &[request(None)], at(1_053_000));
    assert_eq!(learned(at(1_053_000)), None);
}

/// The request of a process whose provider requested a pause.
fn paused(pause: Duration) -> ShareRequest {
    ShareRequest {
        pause,
        outage: Outage::For(pause),
        ..request(None)
    }
}

#[test]
fn a_redis_clock_that_is_set_back_delays_no_process() {
    let redis = SimulatedRedis::new();
    let minutes = |n: u64| at(n * 60_000);
    redis.exchange("a", &[paused(Duration::from_secs(5))], minutes(1_000));
    assert_eq!(heard(&redis, minutes(1_000)).pause.as_secs(), 5);
    for back in [minutes(990), minutes(10)] {
        redis.exchange("a", &[paused(Duration::from_secs(5))], minutes(1_000));
        let share = heard(&redis, back);
        assert_eq!(share.pause, Duration::ZERO);
        assert_eq!(share.standing.outage, None);
        assert_eq!(
            share.processes, 1,
            "the others are counted when they ask again"
        );
        redis.exchange("a", &[paused(Duration::from_secs(3))], back);
        assert_eq!(
            heard(&redis, back).pause.as_secs(),
            3,
            "by the clock as it is now"
        );
    }
}

#[test]
fn invalid_values_in_a_file_stop_no_process() {
    let now = at(1_000_000);
    let far = (now.as_nanos() / 1_000_000 + 86_400_000).to_string();
    for value in [&far, "nan", "inf", "-inf", "1e300", "-1e300", "", "words"] {
        let fields = [
            "paused",
            "at",
            "level1",
            "rate1",
            "reported1",
            "first",
            "first_at",
            "down",
            "prober",
            "probed",
            "waited",
            "replied",
        ];
        for field in fields {
            let redis = SimulatedRedis::new();
            redis.exchange("a", &[request(Some(Duration::ZERO))], now);
            redis.set(field, value);
            let hears = heard(&redis, now);
            let what = format!("{field} = {value}: {hears:?}");
            assert!(
                hears.pause.is_zero() && hears.standing.outage.is_none(),
                "{what}"
            );
            let asks = request(Some(Duration::ZERO));
            let share = redis.exchange("a", &[asks], now)[0];
            let what = format!("{what} {share:?}");
            assert!(
                share.pause.is_zero() && share.standing.outage.is_none(),
                "{what}"
            );
            assert!(share.parts[0].wait <= Duration::from_secs(60), "{what}");
        }
    }
}
