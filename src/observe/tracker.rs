//! The rate of work and its expected end, computed only from counts.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::progress::percent;

/// After this time, the memory of the rate no longer grows.
const LONGEST_MEMORY: f64 = 3600.0;
/// The weight of recent work: with this exponent, the last fifth of the time has half of the weight. 1 would be the
/// average since the beginning.
const POWER: i32 = 3;
/// Number of settled items, or half of all items if they are fewer, from which the end is estimated.
const ENOUGH: u64 = 10;
/// Estimates above this are dropped: 30 years, in seconds.
const FARTHEST: f64 = 1e9;

/// A rate that converges while work is even, and follows when it changes.
///
/// It is an average over the time since the beginning, in which a moment at `t` has the weight `t²`: forward decay
/// with a monomial (Cormode, Shkapenyuk, Srivastava, Xu: *Forward Decay: A Practical Time Decay Model for Streaming
/// Systems*, ICDE 2009). Its memory grows with the run, so its error shrinks like that of an average. The error of
/// a moving average of fixed length does not shrink below what its length allows, and a short one shows every pause
/// for a rate limit as the end of all progress. After the first hour the memory stays the same, which makes it a
/// moving average with exponential decay.
///
/// The result does not depend on how often it is read.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    /// Seconds since the beginning.
    at: f64,
    settled: u64,
    rate: f64,
}

impl Pace {
    /// A rate that starts with this number of settled items and their average rate.
    pub(crate) fn begun(settled: u64, rate: f64) -> Self {
        Self {
            at: 0.0,
            settled,
            rate,
        }
    }

    /// Number of settled items.
    pub(crate) fn settled(&self) -> u64 {
        self.settled
    }

    /// Records the number of settled items at this time after the beginning. The number never decreases.
    pub(crate) fn advance(&mut self, elapsed: Duration, settled: u64) {
        let now = elapsed.as_secs_f64();
        let span = now - self.at;
        // Items that were settled in no time are counted with the next period.
        if span > 0.0 {
            let lately = settled.saturating_sub(self.settled) as f64 / span;
            let kept = kept(self.at, now);
            self.rate = self.rate * kept + lately * (1.0 - kept);
            self.at = now;
            self.settled = self.settled.max(settled);
        }
    }

    /// The rate per second; 0 before it can be determined.
    pub(crate) fn rate(&self) -> f64 {
        self.rate
    }

    /// The expected time for this number of items. `None` while too few are settled.
    pub(crate) fn time_for(&self, left: u64) -> Option<Duration> {
        if left == 0 {
            return Some(Duration::ZERO);
        }
        let time = left as f64 / self.rate;
        if !is_enough(self.settled, left) {
            return None;
        }
        // Neither without a rate nor with one that is almost zero.
        (time < FARTHEST).then(|| Duration::from_secs_f64(time))
    }
}

/// Whether enough items are settled to estimate when the rest will end.
fn is_enough(settled: u64, left: u64) -> bool {
    settled >= ENOUGH.min((settled.saturating_add(left)).div_ceil(2))
}

/// The share that the weight of the time before `from` still has at `to`.
fn kept(from: f64, to: f64) -> f64 {
    let (young, old) = (
        |at: f64| at.min(LONGEST_MEMORY),
        |at: f64| at.max(LONGEST_MEMORY),
    );
    let growing = (young(from) / young(to)).powi(POWER);
    let steady = (old(from) - old(to)) * f64::from(POWER) / LONGEST_MEMORY;
    growing * steady.exp()
}

/// Computes rate, success and expected end from counts.
///
/// ```
/// use batchwright::progress::ProgressTracker;
/// let mut tracker = ProgressTracker::new(Some(100));
/// tracker.update(40, 10);
/// let info = tracker.get_progress();
/// assert_eq!((info.percent, info.success_rate), (Some(50.0), Some(0.8)));
/// assert!(tracker.estimate_remaining_time().is_some());
/// ```
#[derive(Debug, Clone)]
pub struct ProgressTracker {
    started: Instant,
    total: Option<u64>,
    completed: u64,
    failed: u64,
    pace: Pace,
}

impl ProgressTracker {
    /// A tracker that starts now; `total` is the number of items, if known.
    pub fn new(total: Option<u64>) -> Self {
        Self {
            started: Instant::now(),
            total,
            completed: 0,
            failed: 0,
            pace: Pace::default(),
        }
    }

    /// Sets the number of items, or `None` if it is unknown.
    pub fn set_total(&mut self, total: Option<u64>) {
        self.total = total;
    }

    /// Sets how many items have succeeded and failed since the start. Smaller numbers than before are ignored.
    pub fn update(&mut self, completed: u64, failed: u64) {
        self.update_at(self.started.elapsed(), completed, failed);
    }

    fn update_at(&mut self, elapsed: Duration, completed: u64, failed: u64) {
        self.completed = self.completed.max(completed);
        self.failed = self.failed.max(failed);
        self.pace.advance(elapsed, self.settled());
    }

    fn settled(&self) -> u64 {
        self.completed.saturating_add(self.failed)
    }

    fn left(&self) -> Option<u64> {
        Some(self.total?.saturating_sub(self.settled()))
    }

    /// The current state.
    pub fn get_progress(&self) -> ProgressInfo {
        self.progress_at(self.started.elapsed())
    }

    fn progress_at(&self, elapsed: Duration) -> ProgressInfo {
        let mut pace = self.pace;
        pace.advance(elapsed, self.settled());
        let settled = self.settled();
        let share = |part: u64, whole: u64| part as f64 / whole as f64;
        ProgressInfo {
            total: self.total,
            completed: self.completed,
            failed: self.failed,
            percent: self
                .total
                .filter(|total| *total > 0)
                .map(|total| percent(settled, total).min(100.0)),
            success_rate: (settled > 0).then(|| share(self.completed, settled)),
            rate: pace.rate(),
            elapsed,
            eta: self.left().and_then(|left| pace.time_for(left)),
        }
    }

    /// Time to the end at the present rate. `None` without a total, and before 10 items, or half of a smaller total, are
    /// settled.
    ///
    /// The estimate converges: the latest items have the highest weight, and the memory grows with the run up to an
    /// hour, in which the last fifth of the time has half of the weight (forward decay with a monomial, Cormode et al.,
    /// ICDE 2009).
    pub fn estimate_remaining_time(&self) -> Option<Duration> {
        self.get_progress().eta
    }
}

/// The state of a [`ProgressTracker`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ProgressInfo {
    /// Number of items, if known.
    pub total: Option<u64>,
    /// Items that have succeeded.
    pub completed: u64,
    /// Items that have failed.
    pub failed: u64,
    /// Settled part of the total, 0 to 100 with one decimal, rounded down; `None` without a total.
    pub percent: Option<f64>,
    /// Successful part of the settled items, 0 to 1; `None` before the first one.
    pub success_rate: Option<f64>,
    /// Settled items per second, with the highest weight on the latest ones.
    pub rate: f64,
    /// Time since the start.
    pub elapsed: Duration,
    /// Time to the end at this rate, see [`ProgressTracker::estimate_remaining_time`].
    pub eta: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// Updates a tracker with ends that occur one by one, with these gaps.
    fn told(total: u64, gaps: impl IntoIterator<Item = f64>) -> (ProgressTracker, f64) {
        let mut tracker = ProgressTracker::new(Some(total));
        let mut at = 0.0;
        for (done, gap) in gaps.into_iter().enumerate() {
            at += gap;
            tracker.update_at(seconds(at), done as u64 + 1, 0);
        }
        (tracker, at)
    }

    proptest! {
        /// Random ends, as in a Poisson process: after 3,000 ends, one standard deviation of the estimate is sqrt(9 /
        /// (5 * 3,000)), 2.4 %.
        #[test]
        fn the_expected_end_converges(
            random in prop::collection::vec(1e-6_f64..1.0, 3000),
            mean in 1e-4_f64..1.0,
        ) {
            let (tracker, at) = told(6000, random.iter().map(|x| -x.ln() * mean));
            let left = tracker.progress_at(seconds(at)).eta.unwrap().as_secs_f64();
            let truth = 3000.0 * mean;
            prop_assert!((left / truth - 1.0).abs() < 0.15, "{left} for {truth}");
        }

        #[test]
        fn odd_counts_never_give_an_invalid_time(
            looks in prop::collection::vec((0_u64..10_000_000, any::<u64>(), any::<u64>()), 0..50),
            total in any::<Option<u64>>(),
        ) {
            let mut tracker = ProgressTracker::new(total);
            for (at, completed, failed) in looks {
                tracker.update_at(Duration::from_micros(at), completed, failed);
                let info = tracker.progress_at(Duration::from_micros(at));
                prop_assert!(info.rate.is_finite() && info.rate >= 0.0, "{info:?}");
                prop_assert!(info.percent.is_none_or(|p| (0.0..=100.0).contains(&p)), "{info:?}");
                prop_assert!(info.success_rate.is_none_or(|s| (0.0..=1.0).contains(&s)), "{info:?}");
            }
        }

        #[test]
        fn the_rate_does_not_depend_on_how_often_it_is_read(
            looks in prop::collection::btree_set(1_u32..7200, 0..100),
        ) {
            let (mut rare, mut often) = (Pace::default(), Pace::default());
            rare.advance(seconds(7200.0), 14_400);
            for look in looks.into_iter().chain([7200]) {
                often.advance(seconds(look.into()), u64::from(look) * 2);
            }
            prop_assert!((rare.rate() - 2.0).abs() < 1e-9 && (often.rate() - 2.0).abs() < 1e-9);
        }
    }

    #[test]
    fn a_change_of_the_rate_is_followed_within_the_same_time() {
        // Ten a second for a minute, then one a second.
        let gaps = |slow: usize| (0..600).map(|_| 0.1).chain((0..slow).map(|_| 1.0));
        let rate = |(tracker, at): (ProgressTracker, f64)| tracker.progress_at(seconds(at)).rate;
        let (before, after) = (rate(told(10_000, gaps(0))), rate(told(10_000, gaps(60))));
        assert!((before - 10.0).abs() < 0.01, "{before}");
        // The first minute still has an eighth of the weight.
        assert!((after - (10.0 + 7.0) / 8.0).abs() < 0.01, "{after}");
        // In a run of a day, the memory is an hour, not a day.
        let mut pace = Pace::default();
        pace.advance(seconds(86_400.0), 864_000);
        pace.advance(seconds(90_000.0), 867_600);
        assert!((pace.rate() - 1.0).abs() < 0.5, "{}", pace.rate());
    }

    #[test]
    fn while_nothing_ends_the_expected_end_moves_later() {
        let (tracker, at) = told(100, (0..50).map(|_| 1.0));
        let eta = |later: f64| tracker.progress_at(seconds(at + later)).eta.unwrap();
        assert_eq!(eta(0.0).as_secs(), 50);
        assert!(eta(1.0) < eta(10.0) && eta(10.0) < eta(100.0));
    }

    #[test]
    fn without_a_total_or_an_outcome_there_is_no_expected_end() {
        let mut tracker = ProgressTracker::new(Some(10));
        assert_eq!(tracker.progress_at(seconds(5.0)).eta, None);
        tracker.update_at(seconds(6.0), 1, 1);
        // Two of ten items are too few: the others may take much longer, or wait for hours.
        assert_eq!(tracker.progress_at(seconds(6.0)).eta, None);
        tracker.set_total(Some(4));
        assert!(tracker.progress_at(seconds(6.0)).eta.is_some());
        tracker.set_total(Some(1000));
        assert_eq!(tracker.progress_at(seconds(6.0)).eta, None);
        tracker.update_at(seconds(7.0), 9, 1);
        assert!(tracker.progress_at(seconds(7.0)).eta.is_some());
        tracker.set_total(None);
        let info = tracker.progress_at(seconds(7.0));
        assert_eq!((info.eta, info.percent), (None, None));
        assert_eq!(info.success_rate, Some(0.9));
        tracker.set_total(Some(2));
        assert_eq!(tracker.progress_at(seconds(7.0)).eta, Some(Duration::ZERO));
    }
}
