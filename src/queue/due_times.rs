//! Due times are times of day, which all processes understand, and the time of day can be put right at any
//! moment: what was due in a second is due in three hours then.

use std::time::Duration;

use crate::base::clock::{Clock, Time, Timestamp};
use crate::base::error::Error;

use super::store::{JobStore, WorkerId};

/// Less than this much is how clocks are kept, not how they are corrected.
const SET_BACK: Duration = Duration::from_secs(1);
/// How often due times are looked at although nothing was noticed: another process may have written one
/// by the clock as it was.
const AGAIN: Duration = Duration::from_secs(60);
/// Both clocks are read within this time, or what they say is not of one moment.
const ONE_MOMENT: Duration = Duration::from_millis(100);

/// Notices that the time of day was set back, and has due times follow it.
pub(super) struct DueTimes {
    worker: WorkerId,
    /// No job waits for longer.
    longest: Duration,
    /// When both clocks were last read.
    last: (Time, Timestamp),
    /// By how much the time of day was set back and due times were not.
    behind: Duration,
    next: Time,
}

impl DueTimes {
    /// Watches from now on.
    pub(super) fn new(worker: WorkerId, longest: Duration, clock: &dyn Clock) -> Self {
        Self {
            worker,
            longest,
            last: (clock.now(), clock.wall()),
            behind: Duration::ZERO,
            next: Time::ZERO,
        }
    }

    /// Jobs may wait for so long from now on; those there are may wait for as long as before.
    pub(super) fn allow(&mut self, longest: Duration) {
        self.longest = self.longest.max(longest);
    }

    /// Looks at the clock, and at due times if there is reason to. Returns how many were changed.
    pub(super) fn look(&mut self, clock: &dyn Clock, store: &dyn JobStore) -> Result<u64, Error> {
        let (now, wall) = (clock.now(), clock.wall());
        if clock.now().since(now) > ONE_MOMENT {
            return Ok(0);
        }
        let back = set_back(self.last, (now, wall));
        self.last = (now, wall);
        if !back.is_zero() {
            self.behind += back;
            log::warn!(
                "the clock was set back by {} s; waiting jobs come due that much sooner",
                back.as_secs()
            );
        }
        if self.behind.is_zero() && now < self.next {
            return Ok(0);
        }
        let changed = store.pull_due_times(self.worker, self.behind, self.longest, wall)?;
        self.behind = Duration::ZERO;
        self.next = now.after(AGAIN);
        Ok(changed)
    }
}

/// By how much the time of day was set back between two moments.
fn set_back(from: (Time, Timestamp), to: (Time, Timestamp)) -> Duration {
    let passed = to.0.since(from.0);
    let should_be = from.1.after(passed);
    match should_be.since(to.1) {
        back if back >= SET_BACK => back,
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_step_back_is_a_correction() {
        let at = |mono, wall| {
            (
                Time::ZERO.after(Duration::from_millis(mono)),
                Timestamp(wall),
            )
        };
        let back = |to| set_back(at(1_000, 500_000), to).as_millis();
        assert_eq!(back(at(1_050, 500_050)), 0);
        assert_eq!(back(at(1_050, 499_900)), 0, "kept in step");
        assert_eq!(back(at(1_050, 900_000)), 0, "asleep, or set forward");
        assert_eq!(back(at(61_000, 500_000)), 60_000);
        assert_eq!(back(at(1_050, 400_000)), 100_050);
    }
}
