//! What limits a run at the moment, by one word.

use std::time::Duration;

use crate::base::Time;

use super::quota_status::LearnedLimit;

/// What limits a run. At each moment it is exactly one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Quota,
    Cooldown,
    Backoff,
    /// All slots are in use, and items wait for one.
    Slots,
    /// Calls are in flight, and no other item is ready.
    Calls,
    Disk,
    Source,
}

/// The word for each, in the order of the variants.
const WORDS: [&str; 7] = [
    "quota",
    "cooldown",
    "backoff",
    "concurrency",
    "provider",
    "disk",
    "source",
];
/// Minimum time that the current limit is determined from.
const LATELY: Duration = Duration::from_secs(1);

/// What limited the run most in about the last second.
#[derive(Debug, Default)]
pub(super) struct Lately {
    spent: [Duration; WORDS.len()],
    since: Option<(Limit, Time)>,
    word: Option<&'static str>,
    learned: Option<LearnedLimit>,
}

/// The word for what limits a run, and the learned limit that delays its calls while that is the quota.
pub(crate) type LimitedBy = (Option<&'static str>, Option<LearnedLimit>);

impl Lately {
    /// From now on `limit` limits the run.
    pub(super) fn account(&mut self, limit: Limit, now: Time) {
        if let Some((before, since)) = self.since.replace((limit, now)) {
            self.spent[before as usize] += now.since(since);
        }
    }

    /// What limits the run; `learned` is the learned limit that delays calls at this moment.
    pub(super) fn limited_by(&mut self, learned: Option<LearnedLimit>, now: Time) -> LimitedBy {
        if let Some((limit, _)) = self.since {
            self.account(limit, now);
        }
        self.learned = learned.or(self.learned);
        if self.spent.iter().sum::<Duration>() >= LATELY {
            let longest = self.spent.iter().zip(WORDS).max_by_key(|(time, _)| **time);
            self.word = longest.map(|(_, word)| word);
            self.spent = Default::default();
        }
        if self.word.is_some_and(|word| word != "quota") {
            self.learned = None;
        }
        (self.word, self.learned.filter(|_| self.word.is_some()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_part_of_a_second_names_the_limit_and_a_learned_one_stays_known_meanwhile() {
        let limit = LearnedLimit {
            unit: "requests",
            per_minute: 60,
        };
        let at = |ms| Time::ZERO.after(Duration::from_millis(ms));
        let mut lately = Lately::default();
        lately.account(Limit::Calls, at(0));
        lately.account(Limit::Quota, at(100));
        assert_eq!(lately.limited_by(Some(limit), at(500)), (None, None));
        // A call has just started.
        let quota = (Some("quota"), Some(limit));
        assert_eq!(lately.limited_by(None, at(1000)), quota);
        assert_eq!(lately.limited_by(None, at(2000)), quota);
        lately.account(Limit::Slots, at(2000));
        let slots = (Some("concurrency"), None);
        assert_eq!(lately.limited_by(None, at(3000)), slots);
    }
}
