//! What a call used, in the one unit that all providers charge for.

use serde::{Deserialize, Serialize};

/// Tokens used by one call, normalised over all providers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens read, cached ones included.
    pub input_tokens: u64,
    /// Tokens read from the provider's prompt cache.
    pub cached_input_tokens: u64,
    /// Tokens written, reasoning included.
    pub output_tokens: u64,
    /// Tokens spent on reasoning.
    pub reasoning_tokens: u64,
}

/// A client of the user's may state any number, so a sum ends at the largest there is.
impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        for (sum, tokens) in [
            (&mut self.input_tokens, other.input_tokens),
            (&mut self.cached_input_tokens, other.cached_input_tokens),
            (&mut self.output_tokens, other.output_tokens),
            (&mut self.reasoning_tokens, other.reasoning_tokens),
        ] {
            *sum = sum.saturating_add(tokens);
        }
    }
}

impl Usage {
    /// What several used together; nothing if none says what it used.
    pub(crate) fn sum(all: impl Iterator<Item = Self>) -> Option<Self> {
        all.reduce(|mut sum, usage| {
            sum += usage;
            sum
        })
    }
}

/// What one call or all calls of an item used and cost, as far as the provider said so.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Paid {
    pub usage: Option<Usage>,
    pub cost_usd: Option<f64>,
}

impl Paid {
    pub(crate) fn is_known(&self) -> bool {
        self.usage.is_some() || self.cost_usd.is_some()
    }

    /// Tokens used for input and output.
    pub(crate) fn tokens(&self) -> Option<(u64, u64)> {
        self.usage.map(|u| (u.input_tokens, u.output_tokens))
    }
}

/// Tokens are summed as far as they are known; a cost of which a part is unknown is unknown.
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
        };
        let mut sum = absurd;
        sum += absurd;
        assert_eq!((sum.input_tokens, sum.output_tokens), (u64::MAX, u64::MAX));
        assert_eq!((sum.cached_input_tokens, sum.reasoning_tokens), (2, 4));
    }
}
