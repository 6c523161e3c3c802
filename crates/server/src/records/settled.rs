//! The time by which stored data expires. A clock that is ahead for some minutes must not delete anything, because a
//! clock that is put right brings nothing back.

use std::time::{Duration, Instant};

use batchwright::progress::Timestamp;
use parking_lot::Mutex;

use crate::shapes;

/// How long a clock that was set forward must stay so before data expires by it.
const GRACE: Duration = Duration::from_secs(600);
/// By how much the clock may get ahead of the monotonic one otherwise.
const TOLERANCE: Duration = Duration::from_secs(60);

/// The time that was last believed.
#[derive(Debug, Clone, Copy)]
struct Settled {
    time: Timestamp,
    at: Instant,
    /// Since when the clock has been ahead of that.
    ahead_since: Option<Instant>,
}

impl Settled {
    /// The time of the clock, or the continuation of the last time while the clock has just been set forward.
    fn advance(&mut self, clock: Timestamp, now: Instant) -> Timestamp {
        let expected = self.time.after(now.duration_since(self.at));
        if clock.since(expected) > TOLERANCE {
            let since = *self.ahead_since.get_or_insert(now);
            if now.duration_since(since) < GRACE {
                return expected;
            }
        }
        *self = Self::new(clock, now);
        clock
    }

    fn new(time: Timestamp, at: Instant) -> Self {
        Self {
            time,
            at,
            ahead_since: None,
        }
    }
}

/// The time by which data of this server expires.
pub(crate) fn time() -> Timestamp {
    static LAST: Mutex<Option<Settled>> = Mutex::new(None);
    let (clock, now) = (shapes::now(), Instant::now());
    let mut last = LAST.lock();
    last.get_or_insert_with(|| Settled::new(clock, now))
        .advance(clock, now)
}

/// The same in seconds since 1970.
pub(crate) fn seconds() -> u64 {
    u64::try_from(time().0 / 1000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_ahead_for_a_while_lets_nothing_expire() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let clock = |seconds: i64| Timestamp(1_700_000_000_000 + seconds * 1000);
        let ahead = 40 * 86_400;
        let mut settled = Settled::new(clock(0), start);
        assert_eq!(settled.advance(clock(30), at(30)), clock(30));
        // It is set forward, and back again.
        for second in [40, 400, 639] {
            let time = settled.advance(clock(second + ahead), at(second as u64));
            assert_eq!(time, clock(second));
        }
        assert_eq!(settled.advance(clock(640), at(640)), clock(640));
        // It stays so.
        let time = settled.advance(clock(700 + ahead), at(700));
        assert_eq!(time, clock(700));
        let time = settled.advance(clock(1300 + ahead), at(1300));
        assert_eq!(time, clock(1300 + ahead));
        // It is set back.
        assert_eq!(settled.advance(clock(1310), at(1310)), clock(1310));
    }
}
