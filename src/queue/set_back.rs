//! Due times are times of day, which all OS processes share, and the time of day can be corrected at any moment. If
//! it is set back by three hours, a job due in a second would wait for three hours.

use std::time::Duration;

use crate::base::{Clock, Time, Timestamp};

/// Smaller differences are drift, not corrections.
const SET_BACK: Duration = Duration::from_secs(1);
/// Both clocks must be read within this time, otherwise the readings cannot be compared.
const ONE_MOMENT: Duration = Duration::from_millis(100);

/// Notices that the time of day was set back.
pub(super) struct ClockWatch {
    /// The last reading of both clocks.
    last: (Time, Timestamp),
}

impl ClockWatch {
    /// Starts to watch the clock.
    pub(super) fn new(clock: &dyn Clock) -> Self {
        Self {
            last: (clock.now(), clock.wall()),
        }
    }

    /// Whether the time of day was set back since the last call.
    pub(super) fn is_set_back(&mut self, clock: &dyn Clock) -> bool {
        let (now, wall) = (clock.now(), clock.wall());
        if clock.now().since(now) > ONE_MOMENT {
            return false;
        }
        let before = std::mem::replace(&mut self.last, (now, wall));
        is_set_back(before, (now, wall))
    }
}

/// Whether the time of day was set back between two readings.
fn is_set_back(from: (Time, Timestamp), to: (Time, Timestamp)) -> bool {
    let passed = to.0.since(from.0);
    from.1.after(passed).since(to.1) >= SET_BACK
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
        let is_back = |to| is_set_back(at(1_000, 500_000), to);
        assert!(!is_back(at(1_050, 500_050)));
        assert!(!is_back(at(1_050, 499_900)), "kept in step");
        assert!(!is_back(at(1_050, 900_000)), "asleep, or set forward");
        assert!(is_back(at(61_000, 500_000)));
        assert!(is_back(at(1_050, 400_000)));
    }
}
