//! What requests will cost: a pure computation from their size and from earlier replies.

use std::iter::Sum;
use std::ops::Add;

use serde::Serialize;

use crate::base::{Timestamp, Usage, Usd};

use super::prices::ModelPrices;
use super::replies::{ModelReplies, Moments};
use super::workload::Workload;

/// Fewer replies to requests of the same input say too little.
const FEWEST_OF_INPUT: u64 = 5;
/// The same for replies to requests of other inputs.
const FEWEST_EARLIER: u64 = 20;
/// The width of ranges in standard errors, before the correction for few replies: 98 % of a normal distribution.
const WIDTH: f64 = 2.33;
/// Other prompts have other ratios of bytes to tokens: the least width for them.
const OTHER_PROMPTS: f64 = 0.15;
/// Requests that are larger or smaller by this factor say little about the ratio of bytes to tokens.
const SIMILAR_SIZE: f64 = 4.0;

/// A range. `high` is `None` if nothing limits it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Bounds<T> {
    /// The lower end.
    pub low: T,
    /// The upper end.
    pub high: Option<T>,
}

impl<T> Bounds<T> {
    /// A range between two numbers.
    pub const fn new(low: T, high: T) -> Self {
        Self {
            low,
            high: Some(high),
        }
    }

    /// A range without an upper end.
    pub const fn from(low: T) -> Self {
        Self { low, high: None }
    }
}

impl<T: Add<Output = T>> Add for Bounds<T> {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            low: self.low + other.low,
            high: self.high.zip(other.high).map(|(one, other)| one + other),
        }
    }
}

impl<T: Add<Output = T> + Default> Sum for Bounds<T> {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::new(T::default(), T::default()), Self::add)
    }
}

/// What a number of an [`Estimate`] was computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EstimateBasis {
    /// The size of the requests in bytes.
    RequestSize,
    /// The tokens of the requests, counted with the tokenizer of the model. For this, the library needs the feature
    /// `tokenizer`.
    Tokenizer,
    /// The limit that the requests set for the length of an answer.
    MaxTokens,
    /// Replies of the same model to requests of other inputs.
    EarlierReplies,
    /// Replies to other requests of the same input, such as a sample.
    SameInput,
    /// Nothing.
    Unknown,
}

/// The tokens that requests to one model will use, and what follows from them. A plain computation: it makes no calls and
/// reads no files.
///
/// ```
/// use std::time::SystemTime;
/// use batchwright::plan::{InputSize, ModelReplies, Workload};
/// use batchwright::{Estimate, Prices};
/// let mut work = Workload::default();
/// for _ in 0..1_000 {
///     work.add(InputSize::of_text("Is this text about a river, a lake or the sea? ..."), Some(10));
/// }
/// let estimate = Estimate::new(&work, &ModelReplies::default(), &ModelReplies::default());
/// assert_eq!(estimate.output_tokens.high, Some(10_000));
///
/// let prices = Prices::default();
/// let model = prices.of_model("openai", "gpt-4o-mini").expect("in the table");
/// let now = SystemTime::now().into();
/// let sync = estimate.cost(&model, "", now).expect("priced");
/// let batch = estimate.cost(&model, "batch", now).expect("priced");
/// assert!(sync.low < sync.high.unwrap() && batch.high < sync.high);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Estimate {
    /// Number of requests.
    pub requests: u64,
    /// Input tokens of all of them.
    pub input_tokens: Bounds<u64>,
    /// What these are computed from.
    pub input_from: EstimateBasis,
    /// Output tokens of all answers, including reasoning. The upper end is open if nothing limits their length.
    pub output_tokens: Bounds<u64>,
    /// What these are computed from.
    pub output_from: EstimateBasis,
    /// The mean duration of a call in seconds, if there are replies.
    pub call_seconds: Option<Bounds<f64>>,
    /// Number of calls. Embeddings share calls.
    pub calls: u64,
    /// The cost according to replies to requests of the same input, if all of their costs are known. It is for models
    /// without a known price whose provider reports the cost.
    pub reported_cost: Option<Bounds<Usd>>,
    #[serde(skip)]
    shortest: u64,
    #[serde(skip)]
    longest: u64,
    /// The largest share of input that may be cached.
    #[serde(skip)]
    most_cached: f64,
    /// Whether replies report that input was written to the cache, and whether for an hour.
    #[serde(skip)]
    writes_cache: (bool, bool),
}

impl Estimate {
    /// The estimate for these requests, from replies to other requests of the same input, and from replies of the same
    /// model to other inputs. Few replies, and replies to other inputs, lead to wide ranges.
    ///
    /// The ranges contain the usual cost of one answer for each request. Calls that are billed although they fail, such as
    /// retries of answers in a wrong format, are included only if the replies of the same input include them.
    pub fn new(work: &Workload, of_input: &ModelReplies, earlier: &ModelReplies) -> Self {
        let (input_tokens, input_from) = input(work, of_input, earlier);
        let (output_tokens, output_from) = output(work, of_input, earlier);
        let told = [of_input, earlier];
        let any = |count: fn(&ModelReplies) -> u64| told.iter().any(|replies| count(replies) > 0);
        let costs_known = of_input.calls >= FEWEST_OF_INPUT && of_input.priced == of_input.calls;
        Self {
            requests: work.requests,
            input_tokens,
            input_from,
            output_tokens,
            output_from,
            call_seconds: seconds(of_input, earlier),
            calls: work.requests.div_ceil(work.per_call),
            reported_cost: costs_known.then(|| {
                let (low, high) = total(&of_input.cost, of_input.calls, work.requests);
                let usd = |dollars: f64| Usd::from_dollars(dollars).unwrap_or_default();
                Bounds::new(usd(low.max(0.0)), usd(high))
            }),
            shortest: work.shortest,
            longest: work.longest,
            most_cached: most_cached(work, of_input, earlier),
            writes_cache: (
                any(|replies| replies.cache_write_tokens),
                any(|replies| replies.cache_write_1h_tokens),
            ),
        }
    }

    /// The cost at the prices of a tier at a point in time: `""` is the standard tier, `batch` and `flex` others. `None` if
    /// the tier has no known price. Only the lower end counts input that the provider may read from its cache: as much as
    /// earlier replies report, or what several requests share. The upper end is open if the model bills searches, because
    /// nobody knows how many it will make.
    pub fn cost(&self, prices: &ModelPrices<'_>, tier: &str, at: Timestamp) -> Option<Bounds<Usd>> {
        let entry = prices.entry(tier, at)?;
        if self.requests == 0 {
            return Some(Bounds::new(Usd::ZERO, Usd::ZERO));
        }
        let input = self.input_tokens.low;
        let cheapest = Usage {
            input_tokens: input,
            cached_input_tokens: (input as f64 * self.most_cached) as u64,
            output_tokens: self.output_tokens.low,
            ..Usage::default()
        };
        let low = entry.of_length(self.shortest).cost_of_tokens(&cheapest)?;
        let ends = self.input_tokens.high.zip(self.output_tokens.high);
        let ends = ends.filter(|_| !prices.bills_searches());
        let high = ends.map(|(input_tokens, output_tokens)| {
            let (writes, for_an_hour) = self.writes_cache;
            let dearest = Usage {
                input_tokens,
                output_tokens,
                cache_write_tokens: if writes { input_tokens } else { 0 },
                cache_write_1h_tokens: if for_an_hour { input_tokens } else { 0 },
                ..Usage::default()
            };
            entry.of_length(self.longest).cost_of_tokens(&dearest)
        });
        match high {
            Some(unknown @ None) => unknown.map(Bounds::from),
            Some(Some(high)) => Some(Bounds::new(low.min(high), high)),
            None => Some(Bounds::from(low)),
        }
    }
}

/// The largest share of input that may be cached. Replies to the same input show it.
fn most_cached(work: &Workload, of_input: &ModelReplies, earlier: &ModelReplies) -> f64 {
    let reported = of_input.most_cached.max(earlier.most_cached);
    if of_input.calls >= FEWEST_OF_INPUT {
        return reported;
    }
    let shared = work.shared as f64 / work.input.likely.max(1) as f64;
    reported.max(shared.min(1.0))
}

/// The range of the sum over `further` values, if `n` others are known.
fn total(known: &Moments, n: u64, further: u64) -> (f64, f64) {
    let mean = known.sum / n as f64;
    let error = known.deviation(n) * standard_errors(n, Some(further));
    around(further as f64 * mean, further as f64 * error)
}

/// The range around a number with this error. Lengths vary more upwards than downwards, so it is as wide by its factor on
/// both sides.
fn around(number: f64, error: f64) -> (f64, f64) {
    if number <= 0.0 {
        return (0.0, error);
    }
    let factor = (error / number).exp();
    (number / factor, number * factor)
}

/// The width of a range for the mean of `further` values, or of all if that is `None`, in standard deviations of the `n`
/// known ones. The factor for few values approximates Student's t distribution.
fn standard_errors(n: u64, further: Option<u64>) -> f64 {
    let n = n as f64;
    let factor = WIDTH + (WIDTH.powi(3) + WIDTH) / (4.0 * (n - 1.0));
    let of_mean = 1.0 / n + further.map_or(0.0, |further| 1.0 / further.max(1) as f64);
    factor * of_mean.sqrt()
}

fn input(
    work: &Workload,
    of_input: &ModelReplies,
    earlier: &ModelReplies,
) -> (Bounds<u64>, EstimateBasis) {
    let likely = work.input.likely.max(work.requests) as f64;
    if of_input.calls >= FEWEST_OF_INPUT {
        let (ratio, deviation) = ratio(of_input);
        let errors = standard_errors(of_input.calls, Some(work.requests));
        let error = work.requests as f64 * deviation * errors;
        let (low, high) = around(ratio * likely, error);
        return (rounded(low, high), EstimateBasis::SameInput);
    }
    let by_size = Bounds::new(work.input.least, work.input.most);
    if work.requests > 0 && work.input.is_counted {
        return (by_size, EstimateBasis::Tokenizer);
    }
    if earlier.calls < FEWEST_EARLIER {
        return (by_size, EstimateBasis::RequestSize);
    }
    let (ratio, deviation) = ratio(earlier);
    let calls = earlier.calls as f64;
    let relative = 2.0 * deviation * calls / earlier.input.sum.max(1.0);
    let width = relative.clamp(OTHER_PROMPTS, 0.9);
    let mut tokens = rounded(
        ratio * likely * (1.0 - width),
        ratio * likely * (1.0 + width),
    );
    let mean = likely / work.requests.max(1) as f64;
    let size = mean * calls / earlier.size.sum.max(1.0);
    if !(1.0 / SIMILAR_SIZE..=SIMILAR_SIZE).contains(&size) {
        tokens.low = tokens.low.min(by_size.low);
        tokens.high = tokens.high.max(by_size.high);
    }
    (tokens, EstimateBasis::EarlierReplies)
}

/// Reported tokens per estimated token, and the standard deviation of the tokens that this ratio leaves unexplained.
fn ratio(replies: &ModelReplies) -> (f64, f64) {
    let (size, input) = (&replies.size, &replies.input);
    let ratio = input.sum / size.sum.max(1.0);
    let squares =
        input.squares - 2.0 * ratio * replies.size_by_input + ratio * ratio * size.squares;
    let variance = squares / (replies.calls.max(2) - 1) as f64;
    (ratio, variance.max(0.0).sqrt())
}

fn output(
    work: &Workload,
    of_input: &ModelReplies,
    earlier: &ModelReplies,
) -> (Bounds<u64>, EstimateBasis) {
    let limit = work.output_limit();
    let least = limit.map_or(work.requests, |limit| limit.min(work.requests));
    let (range, from) = if of_input.calls >= FEWEST_OF_INPUT {
        let (low, high) = total(&of_input.output, of_input.calls, work.requests);
        (rounded(low, high), EstimateBasis::SameInput)
    } else if let Some(mean) = earlier
        .mean_output_tokens()
        .filter(|_| earlier.calls >= FEWEST_EARLIER)
    {
        let quantile = |share| earlier.output_quantile(share).unwrap_or_default() as f64;
        let requests = work.requests as f64;
        let (low, high) = (quantile(0.1).min(mean), quantile(0.9).max(mean));
        // Quantiles are rounded up by at most a quarter.
        let range = rounded(requests * low * 0.75, requests * high);
        (range, EstimateBasis::EarlierReplies)
    } else {
        let from = match limit {
            Some(_) => EstimateBasis::MaxTokens,
            None => EstimateBasis::Unknown,
        };
        (Bounds::from(least), from)
    };
    let high = match (range.high, limit) {
        (Some(high), Some(limit)) => Some(high.min(limit)),
        (high, limit) => high.or(limit),
    };
    let low = range.low.max(least);
    let low = high.map_or(low, |high| low.min(high));
    (Bounds { low, high }, from)
}

/// Whole numbers around a range.
fn rounded(low: f64, high: f64) -> Bounds<u64> {
    Bounds::new(low.max(0.0).floor() as u64, high.max(0.0).ceil() as u64)
}

fn seconds(of_input: &ModelReplies, earlier: &ModelReplies) -> Option<Bounds<f64>> {
    let mean = |replies: &ModelReplies| replies.seconds.sum / replies.timed as f64;
    if of_input.timed >= FEWEST_OF_INPUT {
        let n = of_input.timed;
        let (mean, error) = (
            mean(of_input),
            of_input.seconds.deviation(n) * standard_errors(n, None),
        );
        let (low, high) = around(mean, error);
        Some(Bounds::new(low, high))
    } else if earlier.timed >= FEWEST_EARLIER {
        let mean = mean(earlier);
        Some(Bounds::new(mean / 2.0, mean * 2.0))
    } else {
        None
    }
}

#[cfg(test)]
#[path = "estimate_tests.rs"]
mod tests;
