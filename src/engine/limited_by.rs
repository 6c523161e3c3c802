//! What limits a run at the moment, by one word.

use std::time::Duration;

use strum::VariantNames;

use crate::base::Time;

/// What limits a run. At each moment it is exactly one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum Limit {
    Quota,
    Cooldown,
    Backoff,
    /// All slots are in use, and items wait for one.
    Concurrency,
    /// Calls are in flight, and no other item is ready.
    Provider,
    Disk,
    Source,
}

/// The word for each, in the order of the variants.
pub(crate) const WORDS: &[&str] = Limit::VARIANTS;
/// Minimum time that the current limit is determined from.
const LATELY: Duration = Duration::from_secs(1);

/// What limited the run most in about the last second.
#[derive(Debug, Default)]
pub(crate) struct Lately {
    spent: [Duration; WORDS.len()],
    since: Option<(Limit, Time)>,
    word: Option<&'static str>,
}

impl Lately {
    /// From now on `limit` limits the run.
    pub(super) fn account(&mut self, limit: Limit, now: Time) {
        if let Some((before, since)) = self.since.replace((limit, now)) {
            self.spent[before as usize] += now.since(since);
        }
    }

    pub(crate) fn limited_by(&mut self, now: Time) -> Option<&'static str> {
        if let Some((limit, _)) = self.since {
            self.account(limit, now);
        }
        if self.spent.iter().sum::<Duration>() >= LATELY {
            let longest = self.spent.iter().zip(WORDS).max_by_key(|(time, _)| **time);
            self.word = longest.map(|(_, word)| *word);
            self.spent = Default::default();
        }
        self.word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_part_of_a_second_names_the_limit() {
        let at = |ms| Time::ZERO.after(Duration::from_millis(ms));
        let mut lately = Lately::default();
        lately.account(Limit::Provider, at(0));
        lately.account(Limit::Quota, at(100));
        assert_eq!(lately.limited_by(at(500)), None);
        assert_eq!(lately.limited_by(at(1000)), Some("quota"));
        assert_eq!(lately.limited_by(at(2000)), Some("quota"));
        lately.account(Limit::Concurrency, at(2000));
        assert_eq!(lately.limited_by(at(3000)), Some("concurrency"));
    }
}
