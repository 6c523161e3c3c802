//! What replies report: usage and cost of calls, in amounts of money, and limits. Decoders translate it into one format for
//! all dialects, so differences between vendors are handled in one place.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The usage of one call, in the same format for all providers. Unreported counts are 0; JSON omits those after the
/// first four.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Input tokens, including those read from and written to the cache.
    pub input_tokens: u64,
    /// Input tokens read from the provider's prompt cache.
    pub cached_input_tokens: u64,
    /// Output tokens, including reasoning.
    pub output_tokens: u64,
    /// Tokens spent on reasoning.
    pub reasoning_tokens: u64,
    /// Input tokens written to the provider's prompt cache, for any duration.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cache_write_tokens: u64,
    /// The part of `cache_write_tokens` that is cached for 5 minutes, if Anthropic reports it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cache_write_5m_tokens: u64,
    /// The part of `cache_write_tokens` that is cached for an hour, if Anthropic reports it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cache_write_1h_tokens: u64,
    /// Input tokens of audio.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub input_audio_tokens: u64,
    /// Input tokens of images.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub input_image_tokens: u64,
    /// Output tokens of audio.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub output_audio_tokens: u64,
    /// Output tokens of images.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub output_image_tokens: u64,
    /// Calls of tools that the provider executed itself, such as searches.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub server_tool_calls: u64,
    /// The part of `server_tool_calls` that are web searches.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub web_search_calls: u64,
    /// Sources that a search used, which xAI charges for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sources_used: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A custom client can report any number, so sums saturate.
impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, mut other: Self) {
        for (sum, count) in self.counts().into_iter().zip(other.counts()) {
            *sum = sum.saturating_add(*count);
        }
    }
}

impl Usage {
    /// All counts, in the order of the fields.
    fn counts(&mut self) -> [&mut u64; 14] {
        [
            &mut self.input_tokens,
            &mut self.cached_input_tokens,
            &mut self.output_tokens,
            &mut self.reasoning_tokens,
            &mut self.cache_write_tokens,
            &mut self.cache_write_5m_tokens,
            &mut self.cache_write_1h_tokens,
            &mut self.input_audio_tokens,
            &mut self.input_image_tokens,
            &mut self.output_audio_tokens,
            &mut self.output_image_tokens,
            &mut self.server_tool_calls,
            &mut self.web_search_calls,
            &mut self.sources_used,
        ]
    }

    /// The sum of several; `None` if there are no counts.
    pub(crate) fn sum(all: impl Iterator<Item = Self>) -> Option<Self> {
        all.reduce(|mut sum, usage| {
            sum += usage;
            sum
        })
    }
}

/// Reported usage and cost of one call, or of all calls of an item.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Paid {
    pub usage: Option<Usage>,
    pub cost_usd: Option<Usd>,
}

impl Paid {
    pub(crate) fn new(usage: Option<Usage>, cost_usd: Option<Usd>) -> Self {
        Self { usage, cost_usd }
    }

    pub(crate) fn is_known(&self) -> bool {
        self.usage.is_some() || self.cost_usd.is_some()
    }

    /// Whether tokens were used but their cost is unknown.
    pub(crate) fn is_unpriced(&self) -> bool {
        self.usage.is_some() && self.cost_usd.is_none()
    }

    /// Input and output tokens.
    pub(crate) fn tokens(&self) -> Option<(u64, u64)> {
        self.usage.map(|u| (u.input_tokens, u.output_tokens))
    }
}

/// Sums the known tokens. If one cost is unknown, the sum is unknown.
impl std::ops::Add for Paid {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let usage = match (self.usage, other.usage) {
            (Some(mut usage), Some(other)) => {
                usage += other;
                Some(usage)
            }
            (usage, other) => usage.or(other),
        };
        let costs = self.cost_usd.zip(other.cost_usd);
        Self {
            usage,
            cost_usd: costs.map(|(one, other)| one + other),
        }
    }
}

/// An amount in US dollars: a whole number of picodollars (10⁻¹² dollars). Token prices are whole numbers in this
/// unit, so costs and their sums are exact. The largest amount is about 18 million dollars; sums saturate there.
///
/// In JSON it is a number of dollars. [`Display`](fmt::Display) rounds to millionths of a dollar (half up), or to
/// hundredths of a cent from one dollar on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Usd(u64);

const PICOS: u64 = 1_000_000_000_000;
const PICOS_IN_A_MICRO: u64 = 1_000_000;

impl Usd {
    /// Zero.
    pub const ZERO: Self = Self(0);

    /// The amount of `picos` picodollars (10⁻¹² dollars).
    pub const fn from_picos(picos: u64) -> Self {
        Self(picos)
    }

    /// The nearest amount to a number of dollars; `None` if it is negative or not a number.
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        let picos = (dollars * PICOS as f64).round();
        (dollars >= 0.0).then_some(Self(picos as u64))
    }

    /// The amount in picodollars (10⁻¹² dollars).
    pub const fn picos(self) -> u64 {
        self.0
    }

    /// The amount in millionths of a dollar, rounded half up.
    pub const fn micros(self) -> u64 {
        (self.0 / PICOS_IN_A_MICRO) + (self.0 % PICOS_IN_A_MICRO) / (PICOS_IN_A_MICRO / 2)
    }

    /// The amount in dollars. Below 2,000 dollars, no picodollar is lost.
    pub fn dollars(self) -> f64 {
        self.0 as f64 / PICOS as f64
    }

    /// The amount that is left without `other`; zero if that is larger.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Usd {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Usd {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Usd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::add)
    }
}

/// `$0.001235`; `<$0.000001` for less than half a millionth, so that only zero is shown as zero.
impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.micros(), self.0) {
            (0, 0) => f.write_str("$0"),
            (0, _) => f.write_str("<$0.000001"),
            (micros, _) if micros < 1_000_000 => write!(f, "$0.{micros:06}"),
            (micros, _) => {
                let hundredths = (micros + 50) / 100;
                write!(f, "${}.{:04}", hundredths / 10_000, hundredths % 10_000)
            }
        }
    }
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.dollars())
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let dollars = f64::deserialize(deserializer)?;
        Self::from_dollars(dollars).ok_or_else(|| D::Error::custom("a negative amount of dollars"))
    }
}

/// What a call was billed, or its part for one job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Charge {
    /// The model, as named by the reply, or by the request if the reply names none.
    pub model: Option<String>,
    /// 1; 0 for each further job of a call for several jobs.
    pub calls: u64,
    /// Input tokens, including cached ones.
    pub input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// The cost, if it is known.
    pub cost_usd: Option<Usd>,
}

/// One reported limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateWindow {
    /// Units (requests or tokens) allowed per [`period`](Self::period).
    pub limit: u64,
    /// The period of `limit`, usually one minute; a day for some vendors.
    pub period: Duration,
    /// Units left when the server accepted the call, if reported.
    pub remaining: Option<u64>,
    /// Time until the full allowance is available again, if reported.
    pub reset: Option<Duration>,
}

/// The limits that one reply reports; empty if it reports none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateHints {
    /// Requests per period.
    pub requests: Option<RateWindow>,
    /// Tokens per period.
    pub tokens: Option<RateWindow>,
}

impl RateHints {
    /// Whether the reply reports no limit.
    pub fn is_empty(&self) -> bool {
        self.requests.is_none() && self.tokens.is_none()
    }

    /// Whether the reply reports a used-up allowance.
    pub(crate) fn is_used_up(&self) -> bool {
        let windows = [self.requests, self.tokens].into_iter().flatten();
        windows
            .map(|window| window.remaining)
            .any(|left| left == Some(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_of_absurd_counts_stays_a_number() {
        let absurd = Usage {
            input_tokens: u64::MAX,
            cached_input_tokens: 1,
            output_tokens: u64::MAX,
            reasoning_tokens: 2,
            ..Usage::default()
        };
        let mut sum = absurd;
        sum += absurd;
        assert_eq!((sum.input_tokens, sum.output_tokens), (u64::MAX, u64::MAX));
        assert_eq!((sum.cached_input_tokens, sum.reasoning_tokens), (2, 4));
    }

    /// Each count with its name in JSON, so that no sum leaves one out.
    #[test]
    fn every_count_is_summed_and_written_unless_it_is_zero() {
        let plain =
            r#"{"input_tokens":1,"cached_input_tokens":0,"output_tokens":0,"reasoning_tokens":0}"#;
        let usage: Usage = serde_json::from_str(plain).unwrap();
        assert_eq!(serde_json::to_string(&usage).unwrap(), plain);
        let names = "input_tokens cached_input_tokens output_tokens reasoning_tokens cache_write_tokens \
                     cache_write_5m_tokens cache_write_1h_tokens input_audio_tokens input_image_tokens \
                     output_audio_tokens output_image_tokens server_tool_calls web_search_calls sources_used";
        let all = |factor: usize| -> serde_json::Value {
            let counts = names.split(' ').zip(1..);
            let fields = counts.map(|(name, count)| (name.to_owned(), (count * factor).into()));
            serde_json::Map::from_iter(fields).into()
        };
        let mut usage: Usage = serde_json::from_value(all(1)).unwrap();
        usage += usage;
        assert_eq!(serde_json::to_value(usage).unwrap(), all(2));
    }
}

#[cfg(test)]
mod usd_tests {
    use super::*;

    #[test]
    fn every_amount_below_two_thousand_dollars_is_read_from_json_as_it_was_written() {
        let mut picos = 1;
        while picos < 1_000 * PICOS {
            for amount in [picos, picos + 1, picos * 2 - 1] {
                let json = serde_json::to_string(&Usd(amount)).unwrap();
                assert_eq!(serde_json::from_str::<Usd>(&json).unwrap(), Usd(amount));
            }
            picos = picos * 3 + 7;
        }
        assert!(serde_json::from_str::<Usd>("-1").is_err());
        assert_eq!(Usd::from_dollars(f64::NAN), None);
        assert_eq!(Usd::from_dollars(1e300), Some(Usd(u64::MAX)));
    }

    #[test]
    fn amounts_are_shown_rounded_but_never_as_zero() {
        let shown = |picos| Usd(picos).to_string();
        assert_eq!(shown(0), "$0");
        assert_eq!(shown(1), "<$0.000001");
        assert_eq!(shown(500_000), "$0.000001");
        assert_eq!(shown(12_345_678_900), "$0.012346");
        assert_eq!(shown(1_234_550_000_000), "$1.2346");
        assert_eq!(shown(12_999_999_999_999), "$13.0000");
        assert_eq!(shown(999_999_600_000), "$1.0000");
    }
}
