//! How often batches are polled, and what happens to those that cannot be found.

use std::time::Duration;

use derive_setters::Setters;

use crate::base::Error;
use crate::config::choices::OnUnknown;
use crate::config::settings::Settings;

/// Settings of the batch strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Setters)]
pub struct BatchSettings {
    /// The time between two polls of a batch. Default: from 10 s for a new batch to 5 minutes for a batch older than
    /// 50 minutes, or as its provider requests.
    pub(crate) poll_interval: Option<Duration>,
    /// How long to search for a batch whose creation got no reply, with at least 4 searches, before it counts as not
    /// created. After its input file was deleted, the same wait and another search follow. Default: 300 s.
    pub(crate) reconcile_wait: Duration,
    /// What to do with a batch that was not found by then. Default: [`OnUnknown::Resubmit`] if its input file can be
    /// deleted first, so that it can no longer start; otherwise [`OnUnknown::Hold`].
    pub(crate) on_unknown: Option<OnUnknown>,
}

impl Default for BatchSettings {
    fn default() -> Self {
        Self {
            poll_interval: None,
            reconcile_wait: Duration::from_secs(300),
            on_unknown: None,
        }
    }
}

/// First poll of a batch after this time,
const SOONEST: Duration = Duration::from_secs(10);
/// later polls after this part of its age,
const PART: u32 = 10;
/// and at most after this time.
const LATEST: Duration = Duration::from_secs(300);
/// Longest wait before a poll that a provider can request, because results are not kept for ever.
const MOST_ASKED: Duration = Duration::from_secs(3600);
/// First wait before missing results are requested again, at most the time above while the provider keeps them,
const RESULTS_SOONEST: Duration = Duration::from_secs(5);
/// and afterwards.
const RESULTS_EXPIRED: Duration = Duration::from_secs(86_400);
/// How often the provider's list is read before a batch counts as not created.
pub(super) const LISTINGS: u32 = 4;

/// When a batch for which its account has no room is sent again first, and at the latest.
const HOLD: Duration = Duration::from_secs(60);
const LONGEST_HOLD: Duration = Duration::from_secs(30 * 60);
/// When a batch is tried again that was refused for a reason that others share, first and at the latest.
const HALT: Duration = Duration::from_secs(3600);
const LONGEST_HALT: Duration = Duration::from_secs(24 * 3600);
/// Interval of searches for a batch on hold.
const BETWEEN_LISTINGS_OF_HELD: Duration = Duration::from_secs(300);

impl Settings {
    /// The settings of the batch strategy: `batch.poll_interval`, `batch.reconcile_wait` and
    /// `batch.on_unknown`.
    ///
    /// # Errors
    /// When one of them has an invalid value.
    pub fn batch_settings(&self) -> Result<BatchSettings, Error> {
        Ok(BatchSettings {
            poll_interval: self.batch_poll_interval()?,
            reconcile_wait: self.batch_reconcile_wait()?,
            on_unknown: self.batch_on_unknown()?,
        })
    }
}

impl BatchSettings {
    /// The wait until the next poll of a batch of this age.
    pub(super) fn poll(&self, age: Duration, asked: Option<Duration>) -> Duration {
        let own = (age / PART).clamp(SOONEST, LATEST);
        let adaptive = asked.unwrap_or(own).min(LATEST);
        self.poll_interval.unwrap_or(adaptive)
    }

    /// How long a worker that ends when no job is left waits for missing results of an ended batch. If the next
    /// request would be later than this after the first one, the worker ends without them. They stay at the provider,
    /// and the next worker requests them at once.
    pub(super) fn results_wait(&self) -> Duration {
        2 * self.reconcile_wait
    }

    /// The wait before a batch is sent again for which its account had no room this many times.
    pub(super) fn room(&self, waits: u32, asked: Option<Duration>) -> Duration {
        let first = self.poll_interval.unwrap_or(HOLD).min(HOLD);
        doubled(first, waits, LONGEST_HOLD, asked)
    }

    /// The wait before a batch is tried that was refused this many times for a reason that others share.
    pub(super) fn halted(&self, tries: u32) -> Duration {
        doubled(HALT, tries, LONGEST_HALT, None)
    }

    /// The wait after this many consecutive failures. It never ends, because a billed batch must be fetched.
    pub(in crate::queue::batch) fn after_failures(
        &self,
        failures: u32,
        asked: Option<Duration>,
    ) -> Duration {
        let first = self.poll_interval.unwrap_or(SOONEST / 2);
        let longest = |exact: Duration| LATEST.min(exact.saturating_mul(20));
        let longest = self.poll_interval.map_or(LATEST, longest);
        doubled(first, failures, longest, asked)
    }

    /// The wait before missing results are fetched again after `fetches` attempts; `kept` while the provider keeps
    /// them. It doubles each time, independent of the poll interval.
    pub(super) fn fetch_again(
        &self,
        fetches: u32,
        kept: bool,
        asked: Option<Duration>,
    ) -> Duration {
        if !kept {
            return RESULTS_EXPIRED;
        }
        let first = self.poll_interval.unwrap_or(RESULTS_SOONEST);
        let first = first.clamp(Duration::from_millis(10), RESULTS_SOONEST);
        doubled(first, fetches, MOST_ASKED, asked)
    }

    /// The wait between two reads of the provider's list.
    pub(super) fn between_listings(&self, held: bool) -> Duration {
        let between = self.reconcile_wait / (LISTINGS - 1);
        if held {
            between.max(self.poll_interval.unwrap_or(BETWEEN_LISTINGS_OF_HELD))
        } else {
            between
        }
    }
}

/// A wait that doubles with each of these times, or what the provider requests, if that is longer.
fn doubled(first: Duration, times: u32, longest: Duration, asked: Option<Duration>) -> Duration {
    let own = first.saturating_mul(1 << times.saturating_sub(1).min(20));
    own.min(longest)
        .max(asked.unwrap_or_default().min(MOST_ASKED))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_older_a_batch_the_rarer_the_looks() {
        let adaptive = BatchSettings::default();
        let exact = adaptive.poll_interval(Some(seconds(2)));
        for (settings, age, asked, wait) in [
            (adaptive, 0, None, 10),
            (adaptive, 60, None, 10),
            (adaptive, 300, None, 30),
            (adaptive, 3000, None, 300),
            (adaptive, 86_000, None, 300),
            (adaptive, 0, Some(45), 45),
            (exact, 9000, Some(45), 2),
        ] {
            let found = settings.poll(seconds(age), asked.map(seconds));
            assert_eq!(found, seconds(wait), "{age}");
        }
    }

    #[test]
    fn failures_and_missing_results_are_waited_out_ever_longer_but_not_for_ever() {
        let default = BatchSettings::default();
        for (failures, asked, wait) in [
            (1, None, 5),
            (2, None, 10),
            (5, None, 80),
            (9, None, 300),
            (4_000_000, None, 300),
            (1, Some(900), 900),
        ] {
            let found = default.after_failures(failures, asked.map(seconds));
            assert_eq!(found, seconds(wait), "{failures}");
        }
        for (interval, first) in [(None, 5), (Some(1), 1), (Some(900), 5)] {
            let settings = default.poll_interval(interval.map(seconds));
            let wait = |fetches| settings.fetch_again(fetches, true, None);
            assert_eq!((wait(1), wait(4)), (seconds(first), seconds(8 * first)));
            assert_eq!([wait(13), wait(4_000_000)], [MOST_ASKED; 2]);
            assert_eq!(settings.fetch_again(1, false, None), RESULTS_EXPIRED);
            let asked = Some(seconds(600));
            assert_eq!(settings.fetch_again(1, true, asked), seconds(600));
        }
        let all = default.between_listings(false) * (LISTINGS - 1);
        assert_eq!(all, default.reconcile_wait);
        const { assert!(LISTINGS >= 3) };
    }
}
