//! What was paid for calls.

use derive_setters::Setters;

use super::brief::Name;
use super::day::Day;
use super::usage::Paid;
use super::usd::Usd;

/// What was paid on a day to a provider, for a model at a tier, with a key, for a run. See [`Ledger`](crate::Ledger).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, derive_more::Debug, Setters)]
#[non_exhaustive]
pub struct Charge {
    /// The day (UTC) on which the calls ended.
    #[setters(skip)]
    pub day: Day,
    /// The provider's name; empty if it is unknown.
    #[setters(into)]
    #[debug("{:?}", Name(provider))]
    pub provider: String,
    /// The model, as named by the replies, or by the requests if the replies name none.
    #[debug("{:?}", model.as_deref().map(Name))]
    pub model: Option<String>,
    /// The service tier: `standard`, `batch`, `flex`, or another one in the provider's words.
    #[setters(skip)]
    #[debug("{:?}", Name(tier))]
    pub tier: String,
    /// The fingerprint of the API key: a part of its hash, which identifies the key and does not reveal it.
    #[debug("{:?}", key.as_deref().map(Name))]
    pub key: Option<String>,
    /// The id of the process in the queue, or the output file of the run.
    #[debug("{:?}", run.as_deref().map(Name))]
    pub run: Option<String>,
    /// The server token that created the process.
    #[debug("{:?}", owner.as_deref().map(Name))]
    pub owner: Option<String>,
    /// Sums of the calls.
    #[setters(skip)]
    pub sum: ChargeSum,
}

/// Sums of calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct ChargeSum {
    /// Calls that were billed, failed ones included. Each request in a batch counts.
    pub calls: u64,
    /// Calls of unknown cost.
    pub unpriced: u64,
    /// Input tokens, including cached ones.
    pub input_tokens: u64,
    /// Input tokens read from the provider's prompt cache.
    pub cached_input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// The cost of all other calls.
    pub cost_usd: Usd,
}

/// The tier of calls at the provider's usual price.
pub(crate) const STANDARD_TIER: &str = "standard";

impl Charge {
    /// A charge for calls of unknown provider at the standard tier.
    pub fn new(day: Day, sum: ChargeSum) -> Self {
        Self {
            day,
            provider: String::new(),
            model: None,
            tier: STANDARD_TIER.to_owned(),
            key: None,
            run: None,
            owner: None,
            sum,
        }
    }

    /// Whether the other charge differs at most in its sums.
    pub(crate) fn is_same_payment(&self, other: &Self) -> bool {
        self.day == other.day
            && self.model == other.model
            && self.provider == other.provider
            && self.tier == other.tier
            && self.key == other.key
            && self.run == other.run
            && self.owner == other.owner
    }

    /// Sets the tier; empty means `standard`.
    pub fn tier(mut self, tier: &str) -> Self {
        self.tier.clear();
        self.tier
            .push_str(if tier.is_empty() { STANDARD_TIER } else { tier });
        self
    }
}

impl ChargeSum {
    /// One call with these tokens and this cost, which may be unknown.
    pub fn call(
        [input_tokens, cached_input_tokens, output_tokens]: [u64; 3],
        cost_usd: Option<Usd>,
    ) -> Self {
        Self {
            calls: 1,
            unpriced: u64::from(cost_usd.is_none()),
            input_tokens,
            cached_input_tokens,
            output_tokens,
            cost_usd: cost_usd.unwrap_or_default(),
        }
    }

    /// The cost, if it is known for any call.
    pub fn known_cost(&self) -> Option<Usd> {
        (self.unpriced == 0 || self.cost_usd > Usd::ZERO).then_some(self.cost_usd)
    }
}

impl From<Paid> for ChargeSum {
    fn from(paid: Paid) -> Self {
        let usage = paid.usage.unwrap_or_default();
        let tokens = [
            usage.input_tokens,
            usage.cached_input_tokens,
            usage.output_tokens,
        ];
        Self::call(tokens, paid.cost_usd)
    }
}

/// Sums saturate.
impl std::ops::AddAssign for ChargeSum {
    fn add_assign(&mut self, other: Self) {
        for (sum, more) in [
            (&mut self.calls, other.calls),
            (&mut self.unpriced, other.unpriced),
            (&mut self.input_tokens, other.input_tokens),
            (&mut self.cached_input_tokens, other.cached_input_tokens),
            (&mut self.output_tokens, other.output_tokens),
        ] {
            *sum = sum.saturating_add(more);
        }
        self.cost_usd += other.cost_usd;
    }
}
