//! How long requests will take under the limits: a pure computation.

use std::time::Duration;

use serde::Serialize;

use super::estimate::{Bounds, Estimate};

/// The limits of the calls to one model. Default: none is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct CallLimits {
    /// Calls per minute.
    pub requests_per_minute: Option<f64>,
    /// Input and output tokens per minute.
    pub tokens_per_minute: Option<f64>,
}

/// What limits the speed of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BindingLimit {
    /// The requests per minute of a model.
    RequestsPerMinute,
    /// The tokens per minute of a model.
    TokensPerMinute,
    /// The number of calls in flight.
    Concurrency,
}

/// The expected duration of a run. Waits for retries and an unavailable provider are not included.
///
/// ```
/// use std::time::Duration;
/// use batchwright::Estimate;
/// use batchwright::plan::{
///     BindingLimit, CallLimits, DurationEstimate, InputSize, ModelReplies, Workload,
/// };
/// let mut work = Workload::default();
/// (0..600).for_each(|_| work.add(InputSize::of_text("Name a prime."), Some(10)));
/// let estimate = Estimate::new(&work, &ModelReplies::default(), &ModelReplies::default());
/// let limits = CallLimits { requests_per_minute: Some(60.0), ..CallLimits::default() };
/// let duration = DurationEstimate::new(&[(&estimate, limits)], Some((5, 50)));
/// // 600 calls at 60 per minute. No earlier reply shows how long a call takes, so the end is open.
/// assert_eq!(duration.range.low, Duration::from_secs(600));
/// assert_eq!(duration.range.high, None);
/// assert_eq!(duration.limited_by, Some(BindingLimit::RequestsPerMinute));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DurationEstimate {
    /// The duration.
    pub range: Bounds<Duration>,
    /// The limit that determines it; `None` if no limit and no duration of a call is known.
    pub limited_by: Option<BindingLimit>,
}

impl DurationEstimate {
    /// The duration of requests to one or more models, each with the limits of its calls. `in_flight` is the number of
    /// calls in flight at first and at most; `None` if it is unknown, as without a usable provider.
    ///
    /// The limits of different models apply side by side, and their calls share the calls in flight.
    pub fn new(parts: &[(&Estimate, CallLimits)], in_flight: Option<(usize, usize)>) -> Self {
        let mut bound = [
            (BindingLimit::RequestsPerMinute, Bounds::new(0.0, 0.0)),
            (BindingLimit::TokensPerMinute, Bounds::new(0.0, 0.0)),
            (BindingLimit::Concurrency, calls_in_flight(parts, in_flight)),
        ];
        for (estimate, limits) in parts {
            let calls = estimate.calls as f64;
            let tokens = estimate.input_tokens + estimate.output_tokens;
            let rates = [
                (limits.requests_per_minute, Bounds::new(calls, calls)),
                (
                    limits.tokens_per_minute,
                    Bounds {
                        low: tokens.low as f64,
                        high: tokens.high.map(|high| high as f64),
                    },
                ),
            ];
            for ((_, longest), (limit, amount)) in bound.iter_mut().zip(rates) {
                let Some(limit) = limit.filter(|limit| *limit > 0.0) else {
                    continue;
                };
                let seconds = |amount: f64| amount * 60.0 / limit;
                longest.low = longest.low.max(seconds(amount.low));
                longest.high = longest
                    .high
                    .zip(amount.high)
                    .map(|(longest, amount)| longest.max(seconds(amount)));
            }
        }
        let longest = bound
            .iter()
            .max_by(|(_, a), (_, b)| a.low.total_cmp(&b.low));
        let limited_by = longest.filter(|(_, range)| range.low > 0.0);
        let high = bound.iter().map(|(_, range)| range.high);
        let high = high
            .reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b)))
            .flatten();
        let low = longest.map_or(0.0, |(_, range)| range.low);
        Self {
            range: Bounds {
                low: duration(low),
                high: high.map(duration),
            },
            limited_by: limited_by.map(|(limit, _)| *limit),
        }
    }
}

/// The seconds that the calls need if only their number in flight is limited.
fn calls_in_flight(
    parts: &[(&Estimate, CallLimits)],
    in_flight: Option<(usize, usize)>,
) -> Bounds<f64> {
    let with_calls = parts.iter().filter(|(estimate, _)| estimate.calls > 0);
    let busy: Bounds<f64> = with_calls
        .map(|(estimate, _)| {
            let calls = estimate.calls as f64;
            let seconds = estimate.call_seconds.unwrap_or(Bounds::from(0.0));
            Bounds {
                low: calls * seconds.low,
                high: seconds.high.map(|high| calls * high),
            }
        })
        .sum();
    match in_flight {
        Some((start, most)) => Bounds {
            low: busy.low / most.max(1) as f64,
            high: busy.high.map(|high| high / start.max(1) as f64),
        },
        // Only no calls at all have a known end.
        None => Bounds {
            low: 0.0,
            high: busy.high.filter(|high| *high == 0.0),
        },
    }
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}
