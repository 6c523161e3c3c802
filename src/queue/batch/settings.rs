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
    /// How long a worker that ends when no job is left waits for missing results of an ended batch. If the next
    /// request would be later than this after the first one, the worker ends without them. They stay at the provider,
    /// and the next worker requests them at once. Default: 600 s.
    pub(crate) results_wait: Duration,
    /// The maximum number of result bytes per request of a batch, on average. If a download is longer, its beginning
    /// is read, and the other results count as [missing](crate::batch::BatchInfo::uncollected). Default: 16 MiB.
    pub(crate) max_result_bytes: u64,
    /// What to do with a batch that was not found by then. Default: [`OnUnknown::Resubmit`] if its input file can be
    /// deleted first, so that it can no longer start; otherwise [`OnUnknown::Hold`].
    pub(crate) on_unknown: Option<OnUnknown>,
}

impl Default for BatchSettings {
    fn default() -> Self {
        Self {
            poll_interval: None,
            reconcile_wait: Duration::from_secs(300),
            results_wait: Duration::from_secs(600),
            max_result_bytes: 16 << 20,
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
/// Wait before missing results are requested again: at first,
const RESULTS_SOONEST: Duration = Duration::from_secs(5);
/// at most while the provider keeps them,
const RESULTS_LATEST: Duration = Duration::from_secs(3600);
/// and afterwards.
const RESULTS_EXPIRED: Duration = Duration::from_secs(86_400);
/// Maximum part by which waits are lengthened, so that many batches spread.
const JITTER: f64 = 0.1;
/// How often the provider's list is read before a batch counts as not created.
pub(super) const LISTINGS: u32 = 4;

/// How often a batch is sent again while its account has no room for it.
const HOLD: Duration = Duration::from_secs(60);
/// Interval of searches for a batch on hold.
const BETWEEN_LISTINGS_OF_HELD: Duration = Duration::from_secs(300);

impl Settings {
    /// The settings of the batch strategy: `batch.poll_interval`, `batch.reconcile_wait` and
    /// `batch.on_unknown`. Missing results are waited for twice as long as a lost batch.
    ///
    /// # Errors
    /// When one of them has an invalid value.
    pub fn batch_settings(&self) -> Result<BatchSettings, Error> {
        let reconcile_wait = self.batch_reconcile_wait()?;
        Ok(BatchSettings {
            poll_interval: self.batch_poll_interval()?,
            reconcile_wait,
            results_wait: 2 * reconcile_wait,
            on_unknown: self.batch_on_unknown()?,
            ..BatchSettings::default()
        })
    }
}

impl BatchSettings {
    /// The wait until the next poll of a batch of this age.
    pub(super) fn poll(&self, age: Duration, asked: Option<Duration>, jitter: f64) -> Duration {
        if let Some(exact) = self.poll_interval {
            return exact;
        }
        let own = (age / PART).clamp(SOONEST, LATEST);
        lengthened(asked.unwrap_or(own).min(LATEST), jitter)
    }

    /// The wait before a batch is sent again for which its account had no room.
    pub(super) fn hold(&self) -> Duration {
        self.poll_interval.unwrap_or(HOLD).min(HOLD)
    }

    /// The wait after this many consecutive failures. It never ends, because a billed batch must be fetched.
    pub(in crate::queue::batch) fn after_failures(
        &self,
        failures: u32,
        asked: Option<Duration>,
        jitter: f64,
    ) -> Duration {
        let least = self.poll_interval.unwrap_or(SOONEST / 2);
        let own = least.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let longest = |exact: Duration| LATEST.min(exact.saturating_mul(20));
        let longest = self.poll_interval.map_or(LATEST, longest);
        let asked = asked.unwrap_or_default().min(MOST_ASKED);
        lengthened(own.min(longest).max(asked), jitter)
    }

    /// The wait before missing results are fetched again after `fetches` attempts; `kept` while the provider keeps
    /// them. It doubles each time, independent of the poll interval.
    pub(super) fn fetch_again(
        &self,
        fetches: u32,
        kept: bool,
        asked: Option<Duration>,
        jitter: f64,
    ) -> Duration {
        if !kept {
            return RESULTS_EXPIRED;
        }
        let first = self.poll_interval.unwrap_or(RESULTS_SOONEST);
        let first = first.clamp(Duration::from_millis(10), RESULTS_SOONEST);
        let own = first.saturating_mul(1 << fetches.saturating_sub(1).min(20));
        let asked = asked.unwrap_or_default();
        lengthened(own.max(asked).min(RESULTS_LATEST), jitter)
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

    /// What to do with a batch that was not found.
    pub(super) fn policy(&self, uploads: bool) -> OnUnknown {
        self.on_unknown.unwrap_or(if uploads {
            OnUnknown::Resubmit
        } else {
            OnUnknown::Hold
        })
    }
}

fn lengthened(wait: Duration, jitter: f64) -> Duration {
    wait.mul_f64(1.0 + JITTER * jitter.clamp(0.0, 1.0))
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
        for (settings, age, asked, jitter, wait) in [
            (adaptive, 0, None, 0.0, 10),
            (adaptive, 60, None, 0.0, 10),
            (adaptive, 300, None, 0.0, 30),
            (adaptive, 3000, None, 0.0, 300),
            (adaptive, 86_000, None, 0.0, 300),
            (adaptive, 3000, None, 1.0, 330),
            (adaptive, 0, Some(45), 0.0, 45),
            (exact, 9000, Some(45), 1.0, 2),
        ] {
            let found = settings.poll(seconds(age), asked.map(seconds), jitter);
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
            let found = default.after_failures(failures, asked.map(seconds), 0.0);
            assert_eq!(found, seconds(wait), "{failures}");
        }
        for (interval, first) in [(None, 5), (Some(1), 1), (Some(900), 5)] {
            let settings = default.poll_interval(interval.map(seconds));
            let wait = |fetches| settings.fetch_again(fetches, true, None, 0.0);
            assert_eq!((wait(1), wait(4)), (seconds(first), seconds(8 * first)));
            assert_eq!([wait(13), wait(4_000_000)], [RESULTS_LATEST; 2]);
            assert_eq!(settings.fetch_again(1, false, None, 0.0), RESULTS_EXPIRED);
            let asked = Some(seconds(600));
            assert_eq!(settings.fetch_again(1, true, asked, 0.0), seconds(600));
        }
        let all = default.between_listings(false) * (LISTINGS - 1);
        assert_eq!(all, default.reconcile_wait);
        const { assert!(LISTINGS >= 3) };
    }
}
