//! Recent failures of jobs, counted by kind and message.

use std::collections::{HashMap, VecDeque};

use batchwright::progress::Timestamp;

const HOUR: i64 = 3_600_000;
const HOURS: i64 = 24;
/// Maximum number of different messages per hour; further failures are counted only by kind.
const MOST: usize = 200;
/// Number of stored characters of a message.
const LONGEST: usize = 300;

type Counts = HashMap<(&'static str, String), u64>;

/// Failures of the last day, an hour at a time.
#[derive(Default)]
pub(crate) struct Failures {
    hours: VecDeque<(i64, Counts)>,
}

impl Failures {
    pub fn count(&mut self, kind: &'static str, message: &str, now: Timestamp) {
        let hour = now.0 / HOUR;
        self.forget_before(hour - HOURS);
        if self.hours.back().is_none_or(|(last, _)| *last < hour) {
            self.hours.push_back((hour, Counts::new()));
        }
        let Some((_, counts)) = self.hours.back_mut() else {
            return;
        };
        let mut named = (kind, message.chars().take(LONGEST).collect());
        if counts.len() >= MOST && !counts.contains_key(&named) {
            named.1 = "other messages".to_owned();
        }
        *counts.entry(named).or_default() += 1;
    }

    /// Kind, message and how often, the most frequent first.
    pub fn of_a_day(&mut self, now: Timestamp) -> Vec<(&'static str, String, u64)> {
        self.forget_before(now.0 / HOUR - HOURS);
        let mut sums = Counts::new();
        for (named, count) in self.hours.iter().flat_map(|(_, counts)| counts) {
            *sums.entry(named.clone()).or_default() += count;
        }
        let mut all: Vec<_> = sums
            .into_iter()
            .map(|((kind, message), count)| (kind, message, count))
            .collect();
        all.sort_by(|a, b| (b.2, a.0, &a.1).cmp(&(a.2, b.0, &b.1)));
        all
    }

    fn forget_before(&mut self, hour: i64) {
        while self.hours.front().is_some_and(|(first, _)| *first <= hour) {
            self.hours.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_for_a_day_and_in_bounded_memory() {
        let mut failures = Failures::default();
        let at = |hours: i64| Timestamp(1_000 * HOUR + hours * HOUR);
        failures.count("auth", "no key", at(0));
        failures.count("auth", "no key", at(20));
        for n in 0..10 * MOST {
            failures.count("invalid", &format!("bad {n}"), at(20));
        }
        let told = failures.of_a_day(at(20));
        assert_eq!(
            told.iter().map(|one| one.2).sum::<u64>(),
            2 + 10 * MOST as u64
        );
        assert!(told.len() <= 2 * MOST + 2);
        assert_eq!(
            (told[0].1.as_str(), told[1].1.as_str()),
            ("other messages", "no key")
        );
        let later = failures.of_a_day(at(24));
        assert!(later.contains(&("auth", "no key".to_owned(), 1)));
        assert!(failures.of_a_day(at(44)).is_empty());
    }
}
