//! Quotas that OS processes of one machine share through files.

use std::fs;

use super::*;
use crate::base::RateHints;
use crate::engine::limiter::{CallEnd, Gate, Limiter, Limits, QuotaId, QuotaKey};

fn virtual_wall(now: Time) -> u64 {
    1_000_000_000_000_000_000 + now.as_nanos()
}

fn at(ms: u64) -> Time {
    Time::from_nanos(ms * 1_000_000)
}

fn process(folder: &Path, limits: Limits) -> (Limiter, QuotaId) {
    let limiter = Limiter::shared_with(folder, virtual_wall);
    let quota = limiter.quota(QuotaKey::new(&["p", "key", "m"]), limits, 0, at(0));
    (limiter, quota)
}

#[test]
fn processes_together_stay_within_one_rate() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits::default().requests_per_minute(600.0).burst(10);
    let processes: Vec<_> = (0..4).map(|_| process(folder.path(), limits)).collect();
    let mut started = [0_u32; 4];
    for ms in (0..60_000).step_by(5) {
        for (i, (limiter, quota)) in processes.iter().enumerate() {
            if let Gate::Go(permit) = limiter.try_acquire(*quota, 1, Some(0), at(ms)) {
                started[i] += 1;
                let ended = CallEnd::Replied(None);
                limiter.settle(permit, ended, &RateHints::default(), at(ms));
            }
        }
        let total: u32 = started.iter().sum();
        assert!(
            f64::from(total) <= 10.0 + ms as f64 / 100.0 + 0.01,
            "{ms} ms"
        );
    }
    let total: u32 = started.iter().sum();
    assert!(total >= 605, "only {total} of 610 used");
}

#[test]
fn a_pause_of_one_process_applies_to_all() {
    let folder = tempfile::tempdir().unwrap();
    let (a, in_a) = process(folder.path(), Limits::default());
    let (b, in_b) = process(folder.path(), Limits::default());
    let go = |limiter: &Limiter, quota, now| limiter.try_acquire(quota, 1, Some(0), now);
    let Gate::Go(permit) = go(&a, in_a, at(1)) else {
        panic!("the call of a may start");
    };
    assert!(matches!(go(&b, in_b, at(1)), Gate::Go(_)));
    let refused = CallEnd::RateLimited(Some(Duration::from_secs(5)));
    a.settle(permit, refused, &RateHints::default(), at(10));
    assert_eq!(go(&b, in_b, at(200)), Gate::NotUntil(at(5010)));
    assert!(matches!(go(&b, in_b, at(5010)), Gate::Go(_)));
}

#[test]
fn a_learned_rate_is_passed_on_and_a_given_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let given = Limits::default().requests_per_minute(60.0).burst(1);
    let (a, in_a) = process(folder.path(), given);
    let (b, in_b) = process(folder.path(), Limits::default());
    let go = |limiter: &Limiter, quota, now| limiter.try_acquire(quota, 1, Some(0), now);
    assert!(matches!(go(&a, in_a, at(1)), Gate::Go(_)));
    assert!((0..5).all(|_| matches!(go(&b, in_b, at(1)), Gate::Go(_))));

    let (c, in_c) = process(folder.path(), Limits::default());
    let Gate::Go(permit) = go(&c, in_c, at(200)) else {
        panic!("the call of c may start");
    };
    let hints = RateHints {
        requests: Some(crate::base::hints::RateWindow {
            header: None,
            limit: 60,
            period: Duration::from_secs(60),
            remaining: Some(0),
            reset: None,
        }),
        tokens: None,
    };
    c.settle(permit, CallEnd::Replied(None), &hints, at(300));
    assert!(matches!(go(&c, in_c, at(301)), Gate::NotUntil(_)));
    let (d, in_d) = process(folder.path(), Limits::default());
    assert!(matches!(go(&d, in_d, at(302)), Gate::NotUntil(_)));
}

#[test]
fn an_invalid_file_and_a_held_lock_stop_no_process() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits::default().requests_per_minute(600.0).burst(10);
    let (limiter, quota) = process(folder.path(), limits);
    let file = fs::read_dir(folder.path()).unwrap().next().unwrap();
    let path = file.unwrap().path();
    for nonsense in [
        "",
        "{",
        "[1,2]",
        r#"{"requests":{"per_second":-1,"level":1e999,"at":1}}"#,
    ] {
        fs::write(&path, nonsense).unwrap();
        let gate = limiter.try_acquire(quota, 1, Some(0), at(1));
        assert!(matches!(gate, Gate::Go(_)), "{nonsense}");
    }
    let holder = File::open(&path).unwrap();
    holder.lock().unwrap();
    let gate = limiter.try_acquire(quota, 1, Some(0), at(2));
    assert!(matches!(gate, Gate::Go(_)));
}

/// A process that is suspended while it holds the lock delays calls of others once in a while, not each call.
#[test]
fn a_long_held_lock_is_not_retried_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits::default().requests_per_minute(60.0).burst(10);
    let (a, in_a) = process(folder.path(), limits);
    let (b, in_b) = process(folder.path(), limits);
    let goes = |limiter: &Limiter, quota, now| {
        matches!(limiter.try_acquire(quota, 1, Some(0), now), Gate::Go(_))
    };
    let file = fs::read_dir(folder.path()).unwrap().next().unwrap();
    let holder = File::open(file.unwrap().path()).unwrap();
    holder.lock().unwrap();
    assert!(goes(&a, in_a, at(1)));
    holder.unlock().unwrap();
    for _ in 0..10 {
        assert!(goes(&b, in_b, at(2)));
    }
    assert!(goes(&a, in_a, at(50)), "a decides by itself for now");
    assert!(!goes(&a, in_a, at(150)), "a includes the use by b");
}

/// The clock of the processes that wrote the file before was set back by one day.
fn wall_of_tomorrow(now: Time) -> u64 {
    virtual_wall(now) + 86_400_000_000_000
}

#[test]
fn a_clock_that_is_set_back_or_forward_delays_no_call() {
    let folder = tempfile::tempdir().unwrap();
    let key = QuotaKey::new(&["p", "key", "m"]);
    let open = |wall: WallClock| {
        let limiter = Limiter::shared_with(folder.path(), wall);
        let quota = limiter.quota(key, Limits::default(), 0, at(0));
        (limiter, quota)
    };
    let go =
        |(limiter, quota): &(Limiter, QuotaId), now| limiter.try_acquire(*quota, 1, Some(0), now);
    let (yesterday, tomorrow) = (open(virtual_wall), open(wall_of_tomorrow));
    let Gate::Go(permit) = go(&tomorrow, at(1)) else {
        panic!("nothing delays the call");
    };
    let refused = CallEnd::RateLimited(Some(Duration::from_secs(5)));
    let hints = RateHints::default();
    (tomorrow.0).settle(permit, refused, &hints, at(10));
    let Gate::Go(permit) = go(&yesterday, at(200)) else {
        panic!("a pause with a time of the next day was adopted");
    };
    // Own pauses last as long as requested, whatever other processes write.
    (yesterday.0).settle(permit, refused, &hints, at(300));
    assert_eq!(go(&yesterday, at(400)), Gate::NotUntil(at(5300)));
    assert_eq!(go(&tomorrow, at(500)), Gate::NotUntil(at(5010)));
    assert_eq!(go(&yesterday, at(5299)), Gate::NotUntil(at(5300)));
    assert!(matches!(go(&tomorrow, at(5010)), Gate::Go(_)));
    assert!(matches!(go(&yesterday, at(5300)), Gate::Go(_)));
}

#[test]
fn a_pause_that_no_run_makes_is_not_taken_over() {
    let wall = virtual_wall(at(0));
    for (pause, believed) in [
        (3_599, true),
        (3_700, false),
        (u64::MAX / 1_000_000_000, false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (limiter, quota) = process(folder.path(), Limits::default());
        let file = fs::read_dir(folder.path()).unwrap().next().unwrap();
        let until = wall.saturating_add(pause * 1_000_000_000);
        let text = format!(r#"{{"paused_until":{until},"written":{wall}}}"#);
        fs::write(file.unwrap().path(), text).unwrap();
        let gate = limiter.try_acquire(quota, 1, Some(0), at(1));
        assert_eq!(
            matches!(gate, Gate::NotUntil(_)),
            believed,
            "{pause} s: {gate:?}"
        );
    }
}

#[test]
fn invalid_values_in_a_file_stop_no_process() {
    let wall = virtual_wall(at(0));
    for requests in [
        r#"{"per_second":1e-12,"level":0,"at":WALL,"learned":true,"reported":WALL}"#,
        r#"{"per_second":0.5,"level":-1e308,"at":18446744073709551615,"learned":true,"reported":WALL}"#,
        r#"{"per_second":0.5,"level":-1,"at":WALL,"learned":true,"reported":18446744073709551615}"#,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (limiter, quota) = process(folder.path(), Limits::default());
        let file = fs::read_dir(folder.path()).unwrap().next().unwrap();
        let text = format!(r#"{{"requests":{requests},"paused_until":0,"written":WALL}}"#);
        fs::write(
            file.unwrap().path(),
            text.replace("WALL", &wall.to_string()),
        )
        .unwrap();
        let gate = limiter.try_acquire(quota, 1, Some(0), at(1));
        assert!(matches!(gate, Gate::Go(_)), "{requests}: {gate:?}");
    }
}
