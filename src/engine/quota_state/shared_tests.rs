//! Quotas that OS processes of one machine share through files.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::base::RateHints;
use crate::engine::limiter::{CallEnd, Gate, Limiter, Limits, QuotaId, QuotaKey};

fn virtual_wall(now: Time) -> u64 {
    1_000_000_000_000_000_000 + now.as_nanos()
}

fn at(ms: u64) -> Time {
    Time::from_nanos(ms * 1_000_000)
}

/// A process that shares its quota in this folder.
struct Process {
    limiter: Limiter,
    quota: QuotaId,
}

fn process_at(folder: &Path, limits: Limits, wall: WallClock) -> Process {
    let limiter = Limiter::shared_with(folder, wall);
    let quota = limiter.quota(QuotaKey::new(&["p", "key", "m"]), limits, 0, at(0));
    Process { limiter, quota }
}

fn process(folder: &Path, limits: Limits) -> Process {
    process_at(folder, limits, virtual_wall)
}

impl Process {
    fn asks(&self, now: Time) -> Gate {
        self.limiter.try_acquire(self.quota, 1, Some(0), now)
    }

    fn goes(&self, now: Time) -> bool {
        matches!(self.asks(now), Gate::Go(_))
    }

    /// A call that starts, and ends so.
    fn calls(&self, now: Time, ended: CallEnd, hints: RateHints, end: Time) {
        let Gate::Go(permit) = self.asks(now) else {
            panic!("nothing delays the call at {now:?}");
        };
        self.limiter.settle(permit, ended, &hints, end);
    }
}

fn refused() -> CallEnd {
    CallEnd::RateLimited(Some(Duration::from_secs(5)))
}

/// The file that the processes share.
fn file(folder: &Path) -> PathBuf {
    let file = fs::read_dir(folder).unwrap().next().unwrap();
    file.unwrap().path()
}

#[test]
fn processes_together_stay_within_one_rate() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits::default().requests_per_minute(600.0).burst(10);
    let processes = [(); 4].map(|()| process(folder.path(), limits));
    let mut started = 0_u32;
    for ms in (0..60_000).step_by(5) {
        for process in &processes {
            if let Gate::Go(permit) = process.asks(at(ms)) {
                started += 1;
                let ended = CallEnd::Replied(None);
                (process.limiter).settle(permit, ended, &RateHints::default(), at(ms));
            }
        }
        let allowed = 10.0 + ms as f64 / 100.0 + 0.01;
        assert!(f64::from(started) <= allowed, "{ms} ms");
    }
    assert!(started >= 605, "only {started} of 610 used");
}

#[test]
fn a_pause_of_one_process_applies_to_all() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = [(); 2].map(|()| process(folder.path(), Limits::default()));
    assert!(b.goes(at(1)));
    a.calls(at(1), refused(), RateHints::default(), at(10));
    assert_eq!(b.asks(at(200)), Gate::NotUntil(at(5010)));
    assert!(b.goes(at(5010)));
}

#[test]
fn limits_are_those_of_each_process_and_what_is_used_up_is_shared() {
    let folder = tempfile::tempdir().unwrap();
    let given = Limits::default().requests_per_minute(60.0).burst(1);
    let (a, b) = (
        process(folder.path(), given),
        process(folder.path(), Limits::default()),
    );
    let none = RateHints::default();
    a.calls(at(1), CallEnd::Replied(None), none, at(1));
    assert!((0..5).all(|_| b.goes(at(1))));
    // Processes without a known limit keep what others have written.
    assert!(!process(folder.path(), given).goes(at(2)));
    // Once its own reply reports the limit, b includes the use by a.
    let requests = Some(crate::base::usage::RateWindow {
        limit: 60,
        period: Duration::from_secs(60),
        remaining: Some(60),
        reset: None,
    });
    let hints = RateHints {
        requests,
        tokens: None,
    };
    b.calls(at(200), CallEnd::Replied(None), hints, at(300));
    assert!(a.goes(at(1_001)) && !b.goes(at(1_002)) && b.goes(at(2_100)));
}

/// A process that is suspended while it holds the lock delays calls of others once in a while, not each call.
#[test]
fn a_long_held_lock_is_not_retried_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits::default().requests_per_minute(60.0).burst(10);
    let [a, b] = [(); 2].map(|()| process(folder.path(), limits));
    let holder = File::open(file(folder.path())).unwrap();
    holder.lock().unwrap();
    assert!(a.goes(at(1)));
    holder.unlock().unwrap();
    assert!((0..10).all(|_| b.goes(at(2))));
    assert!(a.goes(at(50)), "a decides by itself for now");
    assert!(!a.goes(at(150)), "a includes the use by b");
}

/// The clock of the processes that wrote the file before was set back by one day.
fn wall_of_tomorrow(now: Time) -> u64 {
    virtual_wall(now) + 86_400_000_000_000
}

#[test]
fn a_clock_that_is_set_back_or_forward_delays_no_call() {
    let folder = tempfile::tempdir().unwrap();
    let open = |wall| process_at(folder.path(), Limits::default(), wall);
    let (yesterday, tomorrow) = (open(virtual_wall), open(wall_of_tomorrow));
    let hints = RateHints::default();
    tomorrow.calls(at(1), refused(), hints, at(10));
    // A pause with a time of the next day is not adopted. Own pauses last as long as requested, whatever other processes
    // write.
    yesterday.calls(at(200), refused(), hints, at(300));
    assert_eq!(yesterday.asks(at(400)), Gate::NotUntil(at(5300)));
    assert_eq!(tomorrow.asks(at(500)), Gate::NotUntil(at(5010)));
    assert_eq!(yesterday.asks(at(5299)), Gate::NotUntil(at(5300)));
    assert!(tomorrow.goes(at(5010)) && yesterday.goes(at(5300)));
}

#[test]
fn invalid_values_in_a_file_stop_no_process() {
    let wall = virtual_wall(at(0));
    let pause = |seconds: u64| {
        let until = wall.saturating_add(seconds.saturating_mul(1_000_000_000));
        format!(r#"{{"paused_until":{until},"written":{wall}}}"#)
    };
    let requests = |requests: &str| {
        let text = format!(r#"{{"requests":{{{requests}}},"paused_until":0,"written":WALL}}"#);
        text.replace("WALL", &wall.to_string())
    };
    for (text, ms, goes) in [
        (String::new(), 1, true),
        ("{".into(), 1, true),
        ("[1,2]".into(), 1, true),
        // A pause that no run makes is not taken over.
        (pause(3_599), 1, false),
        (pause(3_700), 1, true),
        (pause(u64::MAX), 1, true),
        (requests(r#""level":1e999,"at":WALL"#), 1, true),
        (requests(r#""level":-1,"at":18446744073709551615"#), 1, true),
        // At most a minute of the limit is missing.
        (requests(r#""level":-1e308,"at":WALL"#), 59_000, false),
        (requests(r#""level":-1e308,"at":WALL"#), 61_000, true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits::default().requests_per_minute(600.0);
        let process = process(folder.path(), limits);
        fs::write(file(folder.path()), &text).unwrap();
        assert_eq!(process.goes(at(ms)), goes, "{text} after {ms} ms");
    }
}
