//! When a quota was in cooldown, to account for the time of items that waited.

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::Time;

/// Number of cooldowns kept; older ones are forgotten.
const MOST: usize = 64;

/// Start and end of cooldowns, in order and without overlap.
#[derive(Debug, Default, Clone)]
pub(super) struct CoolDowns(VecDeque<(Time, Time)>);

impl CoolDowns {
    /// Records a cooldown until `until`, if that is in the future.
    pub(super) fn note(&mut self, until: Time, now: Time) {
        if until <= now {
            return;
        }
        match self.0.back_mut().filter(|(_, end)| *end >= now) {
            Some((_, end)) => *end = until.max(*end),
            None => {
                if self.0.len() == MOST {
                    self.0.pop_front();
                }
                self.0.push_back((now, until));
            }
        }
    }

    /// How long the quota was in cooldown between `from` and `to`.
    pub(super) fn between(&self, from: Time, to: Time) -> Duration {
        let later = self.0.iter().rev().take_while(|(_, end)| *end > from);
        later
            .map(|(start, end)| to.min(*end).since(from.max(*start)))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_pauses_count_once_and_old_ones_are_forgotten() {
        let mut cool_downs = CoolDowns::default();
        let at = Time::from_nanos;
        cool_downs.note(at(5), at(9));
        cool_downs.note(at(20), at(10));
        cool_downs.note(at(30), at(15));
        cool_downs.note(at(30), at(29));
        cool_downs.note(at(50), at(40));
        let between = |from, to| cool_downs.between(at(from), at(to)).as_nanos();
        assert_eq!(
            (between(0, 100), between(0, 10), between(30, 40)),
            (30, 0, 0)
        );
        assert_eq!(
            (between(12, 45), between(45, 48), between(60, 90)),
            (23, 3, 0)
        );
        for n in 1..1_000 {
            cool_downs.note(at(100 * n + 50), at(100 * n));
        }
        assert_eq!(cool_downs.0.len(), MOST);
    }
}
