//! Due times are times of day, which all OS processes share, and the time of day can be corrected at any moment. If
//! it is set back by three hours, a job due in a second would wait for three hours.

use std::time::Duration;

use crate::base::{Clock, Error, Time, Timestamp};

use super::store::{JobStore, WorkerId};

/// Smaller differences are drift, not corrections.
const SET_BACK: Duration = Duration::from_secs(1);
/// Interval of checks of due times without a noticed correction: another OS process may have written one before a
/// correction.
const AGAIN: Duration = Duration::from_secs(60);
/// Both clocks must be read within this time, otherwise the readings cannot be compared.
const ONE_MOMENT: Duration = Duration::from_millis(100);

/// Notices that the time of day was set back, and corrects due times.
pub(super) struct DueTimes {
    worker: WorkerId,
    /// The longest wait of any job.
    longest: Duration,
    /// The last reading of both clocks.
    last: (Time, Timestamp),
    /// Correction that was not applied to due times yet.
    behind: Duration,
    next: Time,
}

impl DueTimes {
    /// Starts to watch the clock.
    pub(super) fn new(worker: WorkerId, longest: Duration, clock: &dyn Clock) -> Self {
        Self {
            worker,
            longest,
            last: (clock.now(), clock.wall()),
            behind: Duration::ZERO,
            next: Time::ZERO,
        }
    }

    /// Raises the longest wait of new jobs; existing ones keep theirs.
    pub(super) fn allow(&mut self, longest: Duration) {
        self.longest = self.longest.max(longest);
    }

    /// Checks the clock, and due times if necessary. Returns how many were changed.
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

/// How far the time of day was set back between two readings.
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
