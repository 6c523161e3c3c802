//! How fast requests in batches are answered, as the provider reports it: plain numbers, with the time as a value.

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::Time;

/// The recent rate is that of this part of the time since the first batch.
const RECENT_PART: u32 = 4;

/// Measures the progress of batches.
#[derive(Debug, Clone, Default)]
pub(crate) struct BatchRate {
    began: Option<Time>,
    every: Duration,
    /// The number of answers when it changed, and at the last report.
    reports: VecDeque<(Time, u64)>,
}

impl BatchRate {
    /// The provider has answered this many requests in all. `every` is the time between two reports.
    pub fn report(&mut self, now: Time, answered: u64, every: Duration) {
        self.every = every;
        let began = *self.began.get_or_insert(now);
        // Progress is reported in steps, so the recent time has several of them.
        let recent = (now.since(began) / RECENT_PART).max(every * 3);
        let before = self.reports.back().map_or(0, |(_, before)| *before);
        // The time before the first answer shows nothing.
        if answered > before {
            self.reports.push_back((now, answered));
        }
        // One report before the recent time shows where that began.
        while self.reports.len() > 1 && now.since(self.reports[1].0) > recent {
            self.reports.pop_front();
        }
    }

    /// Answers per second in the recent time; `None` before two reports of answers, and if no time has passed since.
    pub fn per_second(&self, now: Time) -> Option<f64> {
        let (from, before) = *self.reports.front()?;
        let (last, answered) = *self.reports.back()?;
        let is_silent = now.since(last) > self.every * 2;
        // Time since the last report shows nothing before the next one is due.
        let seconds = if is_silent { now } else { last }.since(from).as_secs_f64();
        if answered == before && !is_silent {
            return None;
        }
        Some((answered - before) as f64 / seconds.max(0.001))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::ZERO.after(Duration::from_secs(seconds))
    }

    const EVERY: Duration = Duration::from_secs(10);

    #[test]
    fn the_rate_is_the_recent_one_and_a_stalled_batch_has_none() {
        let mut rate = BatchRate::default();
        rate.report(at(0), 0, EVERY);
        assert_eq!(rate.per_second(at(0)), None);
        for second in (10..=1000).step_by(10) {
            rate.report(at(second), 2 * second, EVERY);
        }
        let moving = rate.per_second(at(1000)).unwrap();
        assert!((1.9..2.1).contains(&moving), "{moving}");
        for second in (1010..=1500).step_by(10) {
            rate.report(at(second), 2000, EVERY);
        }
        let stalled = rate.per_second(at(1500)).unwrap();
        assert!(stalled < 0.1, "{stalled}");
    }
}
