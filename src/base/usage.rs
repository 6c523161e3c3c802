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
