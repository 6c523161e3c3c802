//! What requests will cost: a pure computation from their size.

use serde::Serialize;

use crate::base::{Timestamp, Usage, Usd};

use super::prices::ModelPrices;

/// The size of requests to one model that are to be sent.
///
/// ```
/// use std::time::SystemTime;
/// use batchwright::{Estimate, Prices, Request};
/// let request = Request::new("Is this text about a river, a lake or the sea? ...");
/// let mut estimate = Estimate::default();
/// (0..1_000).for_each(|_| estimate.add(request.estimated_tokens(), Some(10)));
/// assert_eq!(estimate.max_output_tokens, Some(10_000));
///
/// let prices = Prices::default();
/// let model = prices.of_model("openai", "gpt-4o-mini").expect("in the table");
/// let now = SystemTime::now().into();
/// let sync = estimate.cost(&model, "", now).expect("priced");
/// let batch = estimate.cost(&model, "batch", now).expect("priced");
/// assert!(sync.input < sync.most.unwrap() && batch.most < sync.most);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Estimate {
    /// Number of requests.
    pub requests: u64,
    /// Input tokens of all of them, roughly.
    pub input_tokens: u64,
    /// The most output tokens of all answers together; `None` if a request sets no limit.
    pub max_output_tokens: Option<u64>,
}

/// No requests.
impl Default for Estimate {
    fn default() -> Self {
        Self {
            requests: 0,
            input_tokens: 0,
            max_output_tokens: Some(0),
        }
    }
}

/// What requests will cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EstimatedCost {
    /// The cost of the input alone.
    pub input: Usd,
    /// The cost with answers of the maximum length; `None` if nothing limits it.
    pub most: Option<Usd>,
}

impl Estimate {
    /// Adds a request with this number of input tokens, and the most tokens that its answer may have, if that is set.
    pub fn add(&mut self, input_tokens: u32, max_tokens: Option<u32>) {
        self.add_all(&Self {
            requests: 1,
            input_tokens: input_tokens.into(),
            max_output_tokens: max_tokens.map(u64::from),
        });
    }

    /// Adds other requests.
    pub fn add_all(&mut self, other: &Self) {
        self.requests += other.requests;
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        let limits = self.max_output_tokens.zip(other.max_output_tokens);
        self.max_output_tokens = limits.map(|(one, other)| one.saturating_add(other));
    }

    /// The cost at the prices of a tier at a point in time: `""` is the standard tier, `batch` and `flex` others. `None` if
    /// the tier has no known price. Nothing limits the cost of a model that bills searches, because nobody knows how many it
    /// will make.
    pub fn cost(
        &self,
        prices: &ModelPrices<'_>,
        tier: &str,
        at: Timestamp,
    ) -> Option<EstimatedCost> {
        let entry = prices.entry(tier, at)?;
        let entry = entry.of_length(self.input_tokens / self.requests.max(1));
        let cost = |output_tokens| {
            entry.cost_of_tokens(&Usage {
                input_tokens: self.input_tokens,
                output_tokens,
                ..Usage::default()
            })
        };
        let limit = self.max_output_tokens;
        let limit = limit.filter(|_| self.requests == 0 || !prices.bills_searches);
        Some(EstimatedCost {
            input: cost(0)?,
            most: limit.and_then(cost),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::prices::Prices;

    const PRICES: &str = r#"{"providers": {"*": {"models": [{"models": ["m"], "prices": [
        {"input": 1, "output": 10, "above": [{"tokens": 1000, "input": 2, "output": 20}]},
        {"tier": "batch", "input": 0.5, "output": 5}]}]}}}"#;

    fn cost(estimate: &Estimate, tier: &str) -> Option<(f64, Option<f64>)> {
        let prices = Prices::none().overridden("test", PRICES).unwrap();
        let model = prices.of_model("openai", "m").unwrap();
        let cost = estimate.cost(&model, tier, Timestamp(0))?;
        Some((cost.input.dollars(), cost.most.map(Usd::dollars)))
    }

    #[test]
    fn the_cost_is_that_of_the_input_and_at_most_that_of_the_longest_answers() {
        let mut estimate = Estimate::default();
        assert_eq!(cost(&estimate, ""), Some((0.0, Some(0.0))));
        (0..1_000).for_each(|_| estimate.add(1_000, Some(100)));
        assert_eq!(cost(&estimate, ""), Some((1.0, Some(2.0))));
        assert_eq!(cost(&estimate, "batch"), Some((0.5, Some(1.0))));
        assert_eq!(cost(&estimate, "flex"), None, "it has no price");
        // Longer requests have other prices.
        let mut long = Estimate::default();
        (0..500).for_each(|_| long.add(2_000, Some(200)));
        assert_eq!(cost(&long, ""), Some((2.0, Some(4.0))));
        // One answer without a limit is enough.
        estimate.add(0, None);
        assert_eq!(cost(&estimate, "").map(|(_, most)| most), Some(None));
    }
}
