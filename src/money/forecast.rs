//! Whether a deadline can be met, before a run: a pure computation.

use std::time::Duration;

use crate::base::Timestamp;

use super::call_rate::CallPace;
use super::deadline::{Deadline, Way, WayPrices};
use super::estimate::Bounds;
use super::outlook::{BatchPace, Outlook};

/// The time between two polls of a new batch.
const POLL: Duration = Duration::from_secs(10);

/// What a run with a [`Deadline`] would decide at its start.
///
/// ```
/// use std::time::Duration;
/// use batchwright::Deadline;
/// use batchwright::plan::{Bounds, DeadlineForecast, Way, WayPrices};
/// let deadline = Deadline::within(Duration::from_secs(8 * 3600))?;
/// let hours = |hours: u64| Duration::from_secs(hours * 3600);
/// let hours = |most| Bounds::new(hours(most), hours(most));
/// let ways = [Way::Batch, Way::Sync];
/// let minute = Duration::from_secs(60);
/// let of = |calls, keeps_results| {
///     let prices = WayPrices::default();
///     DeadlineForecast::new(deadline, 1000, calls, &ways, prices, minute, keeps_results)
/// };
/// let known = |forecast: DeadlineForecast| (forecast.way, forecast.is_met);
/// assert_eq!(known(of(hours(1), true)), (Way::Batch, Some(true)));
/// // All depends on the batches.
/// assert_eq!(known(of(hours(20), true)), (Way::Batch, None));
/// // A batch that stalls after its first answers is not withdrawn, because they would be lost.
/// assert_eq!(known(of(hours(1), false)), (Way::Batch, None));
/// # Ok::<(), batchwright::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DeadlineForecast {
    /// The way in which the run begins.
    pub way: Way,
    /// Whether the deadline will be met, because standard calls alone meet it. `None` if that is unknown: because the
    /// duration of calls is unknown, because only batches may be fast enough, or because the provider does not keep the
    /// results of a batch that is cancelled, so that a batch that stalls after its first answers cannot be withdrawn.
    pub is_met: Option<bool>,
    /// The decision and its reason, in one line.
    pub reason: String,
}

impl DeadlineForecast {
    /// The forecast for this many items. `calls` is the time that standard calls need for all of them, `ways` are those
    /// that the provider has, `cancel_wait` is the time that it may need to cancel a batch, and `keeps_results` is whether
    /// it [keeps](crate::unstable::BatchClient::keeps_cancelled_results) the results of a batch that is cancelled.
    /// `LlmManager::deadline_forecast` knows these of its provider.
    pub fn new(
        deadline: Deadline,
        items: u64,
        calls: Bounds<Duration>,
        ways: &[Way],
        prices: WayPrices,
        cancel_wait: Duration,
        keeps_results: bool,
    ) -> Self {
        let now: Timestamp = std::time::SystemTime::now().into();
        let pace = |seconds: Duration, measured| CallPace {
            per_second: items as f64 / seconds.as_secs_f64().max(0.001),
            call_seconds: 0.0,
            measured,
        };
        // Without a longest time, calls are taken to need twice the shortest one.
        let sync = calls
            .high
            .map_or_else(|| pace(calls.low, false), |high| pace(high, true));
        let has = |way| ways.contains(&way);
        let outlook = Outlook {
            left: deadline.left_at(now),
            spent: Duration::ZERO,
            waiting: items,
            in_batches: 0,
            returning: 0,
            unmovable: 0,
            elsewhere: 0,
            now: None,
            was_safe: false,
            has_withdrawn: false,
            batch: has(Way::Batch).then_some(BatchPace {
                per_second: None,
                least: POLL * 3,
                every: POLL,
                watched: Duration::ZERO,
                keeps_results,
                cancel: cancel_wait,
            }),
            flex: has(Way::Flex).then_some(CallPace {
                measured: false,
                ..sync
            }),
            backoff: Duration::ZERO,
            longest_flex: Duration::ZERO,
            slots: 1,
            sync,
            prices,
        };
        let decision = outlook.decide();
        let left = outlook.left;
        let may_stall = decision.way == Way::Batch && !keeps_results;
        let is_late = calls.low > left && decision.way != Way::Batch;
        Self {
            way: decision.way,
            is_met: match calls.high {
                _ if is_late || left.is_zero() => Some(false),
                Some(_) if decision.is_safe && !may_stall => Some(true),
                _ => None,
            },
            reason: decision.reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_duration_is_not_zero() {
        let deadline = Deadline::within(Duration::from_secs(8 * 3600)).unwrap();
        let hour = Duration::from_secs(3600);
        let reason = |high| {
            let calls = Bounds {
                low: Duration::ZERO,
                high,
            };
            let ways = [Way::Batch, Way::Sync];
            let prices = WayPrices::default();
            DeadlineForecast::new(deadline, 30, calls, &ways, prices, hour / 60, true).reason
        };
        assert!(reason(None).contains("standard calls need an unknown time"));
        assert!(reason(Some(hour)).contains("standard calls need about 1 h 6 min"));
    }
}
