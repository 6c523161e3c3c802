//! How many requests in the batches of a run were answered, and how fast.

use std::collections::HashMap;
use std::time::Duration;

use crate::base::Time;
use crate::money::batch_rate::BatchRate;
use crate::queue::batch::OwnBatch;
use crate::queue::store::BatchNo;

/// A rate that an earlier run has noted holds until batches were polled so often.
const POLLS: u32 = 4;

/// Measures the batches of a run.
#[derive(Default)]
pub(super) struct BatchProgress {
    rate: BatchRate,
    /// When the first batch was seen.
    since: Option<Time>,
    every: Duration,
    /// The answers of each batch, when it was first seen and at last. They stay when a batch is gone, because another
    /// worker may take it over.
    answers: HashMap<BatchNo, (u64, u64)>,
    /// The rate that an earlier run has noted.
    noted: Option<f64>,
}

impl BatchProgress {
    pub fn with_noted(noted: Option<f64>) -> Self {
        Self {
            noted,
            ..Self::default()
        }
    }

    /// Takes in where the batches stand. `first` is the time until a batch is polled first.
    pub fn report(&mut self, own: &[OwnBatch], first: Duration, now: Time) {
        let every = own.iter().filter_map(|batch| batch.every).max();
        self.every = every.unwrap_or(first);
        for batch in own.iter().filter(|batch| batch.is_sent) {
            // Answers of before show nothing about the rate now.
            let answered = batch.answered.unwrap_or(0);
            let (_, last) = self.answers.entry(batch.no).or_insert((answered, answered));
            *last = answered.max(*last);
        }
        if self.answers.is_empty() {
            return;
        }
        self.since.get_or_insert(now);
        let new = self.answers.values().map(|(before, last)| last - before);
        self.rate.report(now, new.sum(), self.every);
    }

    /// The time between two polls.
    pub fn every(&self) -> Duration {
        self.every
    }

    /// How long batches have been observed.
    pub fn watched(&self, now: Time) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// Answers per second; what an earlier run has noted, until that is known.
    pub fn per_second(&self, now: Time) -> Option<f64> {
        let is_early = self.watched(now) < self.every * POLLS;
        let noted = self.noted.filter(|_| is_early);
        self.rate.per_second(now).or(noted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(no: i64, answered: u64) -> OwnBatch {
        OwnBatch {
            no: BatchNo(no),
            process: None,
            name: no.to_string(),
            items: 10_000,
            answered: Some(answered),
            withdrawn: None,
            is_sent: true,
            has_ended: false,
            is_stuck: false,
            is_left: false,
            may_be_cancelled: true,
            every: Some(FIRST),
        }
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO.after(Duration::from_secs(seconds))
    }

    const FIRST: Duration = Duration::from_secs(10);

    #[test]
    fn answers_are_counted_once_though_another_worker_takes_the_batch_over() {
        let mut progress = BatchProgress::default();
        progress.report(&[batch(1, 5000)], FIRST, at(0));
        progress.report(&[batch(1, 5010)], FIRST, at(10));
        assert_eq!(
            progress.per_second(at(10)),
            None,
            "one report shows no rate"
        );
        progress.report(&[batch(1, 5020)], FIRST, at(20));
        // The worker is replaced; then another batch is adopted in a second scan.
        progress.report(&[], FIRST, at(21));
        progress.report(&[batch(1, 5020)], FIRST, at(22));
        progress.report(&[batch(1, 5030), batch(2, 3000)], FIRST, at(30));
        assert_eq!(progress.per_second(at(30)), Some(1.0));
    }

    #[test]
    fn the_noted_rate_holds_until_the_batches_were_polled() {
        let mut progress = BatchProgress::with_noted(Some(2.0));
        progress.report(&[batch(1, 500)], FIRST, at(0));
        assert_eq!(progress.per_second(at(20)), Some(2.0));
        progress.report(&[batch(1, 500)], FIRST, at(50));
        assert_eq!(progress.per_second(at(50)), None);
    }
}
