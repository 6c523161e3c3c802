//! Time limits of a call. Time in which the process was stopped does not count: a reply that arrived meanwhile is in
//! time.

use std::time::{Duration, Instant};

use ureq::Timeout;
use ureq::unversioned::transport::{NextTimeout, time};

/// The longest wait in one piece. If a piece takes much longer than that, the process was stopped.
const WAIT_STEP: Duration = Duration::from_secs(1);
/// A delay from which the process counts as stopped. On a busy machine a thread waits for less.
const STOPPED: Duration = Duration::from_millis(500);

/// ureq ends a call whose time is over without asking its transport whether the process was stopped. Therefore ureq
/// gets a limit that is this much longer, and the waits here end the call at its real limit.
pub(in crate::llm) const BEYOND: Duration = Duration::from_secs(30 * 24 * 3600);

/// The time that is left for a call.
#[derive(Default)]
pub(super) struct Patience {
    /// The total time in which the process was stopped, or did not read.
    stopped: Duration,
    /// The end of each limit by the clock, which goes on while the process is stopped. ureq reports a limit that has
    /// ended as zero, however long ago it ended.
    ends: Vec<(Timeout, Instant)>,
}

impl Patience {
    /// Excludes this time from the limits.
    pub fn extend(&mut self, time: Duration) {
        self.stopped += time;
    }

    /// The rest of a limit, without the time in which the process was stopped.
    pub fn what_is_left(&mut self, mut limit: NextTimeout) -> NextTimeout {
        let end = self.end(limit);
        if let Some(left) = self.left(end) {
            limit.after = left.into();
        }
        limit
    }

    /// Waits in pieces.
    pub fn wait(
        &mut self,
        limit: NextTimeout,
        mut wait: impl FnMut(NextTimeout) -> Result<bool, ureq::Error>,
    ) -> Result<bool, ureq::Error> {
        let end = self.end(limit);
        let mut waited = Duration::ZERO;
        loop {
            let started = Instant::now();
            let left = self.left(end);
            let still = limit.per_read.map(|most| most.saturating_sub(waited));
            for (left, reason) in [(left, limit.reason), (still, Timeout::PerRead)] {
                if left == Some(Duration::ZERO) {
                    return Err(ureq::Error::Timeout(reason));
                }
            }
            let piece = left.into_iter().chain(still).fold(WAIT_STEP, Duration::min);
            let result = wait(NextTimeout {
                after: piece.into(),
                per_read: None,
                ..limit
            });
            let took = started.elapsed();
            if took > piece + STOPPED {
                self.stopped += took
            } else {
                waited += took
            }
            match result {
                Err(ureq::Error::Timeout(reason)) if reason == limit.reason => {}
                ended => return ended,
            }
        }
    }

    fn end(&mut self, limit: NextTimeout) -> Option<Instant> {
        let time::Duration::Exact(mut after) = limit.after else {
            return None;
        };
        // A connection through a proxy is tracked twice. The inner one gets the limit of a piece from the outer one,
        // which is much shorter.
        if limit.reason == Timeout::PerCall && after > BEYOND / 2 {
            after = after.saturating_sub(BEYOND);
        }
        let end = Instant::now().checked_add(after)?;
        let known = self.ends.iter_mut().find(|(of, _)| *of == limit.reason);
        match known {
            Some((_, known)) if after.is_zero() => return Some(*known),
            Some((_, known)) => *known = end,
            None => self.ends.push((limit.reason, end)),
        }
        Some(end)
    }

    fn left(&self, end: Option<Instant>) -> Option<Duration> {
        let end = end?.checked_add(self.stopped)?;
        Some(end.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;

    fn limit(millis: u64) -> NextTimeout {
        NextTimeout {
            after: (BEYOND + Duration::from_millis(millis)).into(),
            reason: Timeout::PerCall,
            ..NextTimeout::default()
        }
    }

    #[test]
    fn what_a_stop_took_does_not_count() {
        let mut patience = Patience::default();
        let mut pieces = 0;
        let read = patience.wait(limit(100), |piece| {
            pieces += 1;
            if pieces > 1 {
                return Ok(true);
            }
            sleep(*piece.after + 2 * STOPPED);
            Err(ureq::Error::Timeout(piece.reason))
        });
        assert!(read.unwrap(), "it is read once more");
        // The clock of the call's maker went on, so nothing seems to be left.
        assert!(!patience.what_is_left(limit(0)).after.is_zero());
        assert!(patience.wait(limit(0), |_| Ok(true)).unwrap());
    }

    #[test]
    fn the_time_in_which_nobody_wanted_to_read_does_not_count() {
        let mut patience = Patience::default();
        assert!(patience.wait(limit(10), |_| Ok(true)).unwrap());
        sleep(Duration::from_millis(20));
        assert!(patience.what_is_left(limit(0)).after.is_zero());
        patience.extend(Duration::from_secs(60));
        assert!(!patience.what_is_left(limit(0)).after.is_zero());
    }

    #[test]
    fn a_connection_within_another_waits_as_long_as_it_is_told() {
        let (mut outer, mut inner) = (Patience::default(), Patience::default());
        let mut looks = 0;
        let read = outer.wait(limit(60_000), |piece| {
            assert!(!inner.what_is_left(piece).after.is_zero());
            inner.wait(piece, |_| {
                looks += 1;
                Ok(true)
            })
        });
        assert!(read.unwrap());
        assert_eq!(looks, 1);
    }

    #[test]
    fn a_silent_server_is_waited_for_as_long_as_was_said() {
        let mut patience = Patience::default();
        let silent = |piece: NextTimeout| {
            sleep(*piece.after);
            Err(ureq::Error::Timeout(piece.reason))
        };
        let ended = patience.wait(limit(50), silent);
        assert!(matches!(ended, Err(ureq::Error::Timeout(Timeout::PerCall))));
        let ended = patience.wait(limit(0), |_| panic!("its time is up"));
        assert!(matches!(ended, Err(ureq::Error::Timeout(Timeout::PerCall))));
        let mut per_read = limit(1_000_000);
        per_read.per_read = Some(time::Duration::from_millis(50));
        let ended = patience.wait(per_read, silent);
        assert!(matches!(ended, Err(ureq::Error::Timeout(Timeout::PerRead))));
    }
}
