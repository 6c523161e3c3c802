//! The script of the shared limits, on a simulated Redis.

use std::time::Duration;

use super::simulated_redis::SimulatedRedis;
use super::{Outage, PartRequest, Share, ShareRequest};
use crate::base::clock::Time;

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

/// What a process hears that knows of no limit.
fn heard(redis: &SimulatedRedis, now: Time) -> Share {
    let asks = ShareRequest {
        parts: [None; 2],
        ..request(None)
    };
    redis.exchange("b", &[asks], now)[0]
}

#[test]
fn others_hear_how_long_ago_a_limit_was_reported() {
    let redis = SimulatedRedis::new();
    let age = |seconds| Some(Duration::from_secs(seconds));
    redis.exchange("a", &[request(age(10))], at(1_000_000));
    let learned = |now| heard(&redis, now).parts[0].learned;
    assert_eq!(learned(at(1_000_000)), Some((1.0, Duration::from_secs(10))));
    assert_eq!(learned(at(1_050_000)), Some((1.0, Duration::from_secs(60))));
    // That it is used is no report.
    redis.exchange("a", &[request(age(60))], at(1_050_000));
    assert_eq!(learned(at(1_051_000)), Some((1.0, Duration::from_secs(61))));
    redis.exchange("a", &[request(age(0))], at(1_052_000));
    assert_eq!(learned(at(1_052_000)), Some((1.0, Duration::ZERO)));
    // A limit that somebody set is not passed on.
    redis.exchange("a", &[request(None)], at(1_053_000));
    assert_eq!(learned(at(1_053_000)), None);
}
