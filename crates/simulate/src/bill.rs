//! The bill: what a provider would charge for a reply, read from the usage that the reply reports.

use std::collections::HashMap;

use serde_json::Value;

use super::dialect::Dialect;

/// The prices of a model, in picodollars (10⁻¹² US dollars) per token: the same number as millionths of a dollar per
/// million tokens. See [`SimConfig::price`](super::SimConfig::price).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SimPrice {
    /// Input tokens that were neither read from a cache nor written to one.
    pub input: u64,
    /// Input tokens that were read from a cache.
    pub cached_input: u64,
    /// Input tokens that were written to a cache for five minutes.
    pub cache_write: u64,
    /// Input tokens that were written to a cache for an hour.
    pub cache_write_1h: u64,
    /// Output tokens, including reasoning.
    pub output: u64,
}

impl SimPrice {
    /// Prices of input and output; cached input costs like other input.
    pub const fn new(input: u64, output: u64) -> SimPrice {
        SimPrice {
            input,
            cached_input: input,
            cache_write: input,
            cache_write_1h: input,
            output,
        }
    }

    fn cost(&self, used: Used) -> u64 {
        let written = used.written_5m + used.written_1h;
        let plain = used.input - used.cached - written;
        plain * self.input
            + used.cached * self.cached_input
            + used.written_5m * self.cache_write
            + used.written_1h * self.cache_write_1h
            + used.output * self.output
    }
}

/// How the provider sells a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SimTier {
    /// Calls.
    Standard,
    /// Calls at the flex tier.
    Flex,
    /// Requests of batches.
    Batch,
}

/// The prices of all models.
#[derive(Debug, Clone, Default)]
pub(super) struct PriceList(HashMap<(String, SimTier), SimPrice>);

impl PriceList {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn set(&mut self, model: String, tier: SimTier, price: SimPrice) {
        self.0.insert((model, tier), price);
    }

    /// The cost of the reply with this body, in picodollars; 0 if the model has no price.
    pub(super) fn cost(&self, dialect: Dialect, model: &str, tier: SimTier, body: &[u8]) -> u64 {
        let Some(price) = self.0.get(&(model.to_owned(), tier)) else {
            return 0;
        };
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        price.cost(used(dialect, &body))
    }
}

/// Tokens of a reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Used {
    /// All input tokens.
    input: u64,
    /// The part of the input that was read from a cache.
    cached: u64,
    written_5m: u64,
    written_1h: u64,
    /// All output tokens, with reasoning.
    output: u64,
}

/// Reads the usage as the vendors' documentation defines it.
fn used(dialect: Dialect, body: &Value) -> Used {
    let number = |path: &str| body.pointer(path).and_then(Value::as_u64);
    let of = |path: &str| number(path).unwrap_or(0);
    match dialect {
        // The input is all of the prompt. Some vendors leave reasoning out of the completion, but not out of the total.
        Dialect::OpenAi(_) => {
            let input = of("/usage/prompt_tokens");
            let completion = of("/usage/completion_tokens");
            let total = of("/usage/total_tokens");
            let details = number("/usage/prompt_tokens_details/cached_tokens");
            let cached = details.or(number("/usage/num_cached_tokens"));
            Used {
                input,
                cached: cached
                    .or(number("/usage/prompt_cache_hit_tokens"))
                    .unwrap_or(0),
                output: completion.max(total.saturating_sub(input)),
                ..Used::default()
            }
        }
        Dialect::Responses => Used {
            input: of("/usage/input_tokens"),
            cached: of("/usage/input_tokens_details/cached_tokens"),
            output: of("/usage/output_tokens"),
            ..Used::default()
        },
        // The input is what was neither read from a cache nor written to one.
        Dialect::Anthropic => {
            let cached = of("/usage/cache_read_input_tokens");
            let written = of("/usage/cache_creation_input_tokens");
            let written_1h = of("/usage/cache_creation/ephemeral_1h_input_tokens");
            Used {
                input: of("/usage/input_tokens") + cached + written,
                cached,
                written_5m: written - written_1h,
                written_1h,
                output: of("/usage/output_tokens"),
            }
        }
        Dialect::Gemini => Used {
            input: of("/usageMetadata/promptTokenCount"),
            cached: of("/usageMetadata/cachedContentTokenCount"),
            output: of("/usageMetadata/candidatesTokenCount")
                + of("/usageMetadata/thoughtsTokenCount"),
            ..Used::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Vendor;

    #[test]
    fn each_vendor_counts_parts_of_the_input_in_its_own_way() {
        let openai = json!({"usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 18,
            "prompt_tokens_details": {"cached_tokens": 4}}});
        let responses = json!({"usage": {"input_tokens": 10, "output_tokens": 8,
            "input_tokens_details": {"cached_tokens": 4}}});
        let gemini = json!({"usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 3,
            "thoughtsTokenCount": 5, "cachedContentTokenCount": 4}});
        let expected = Used {
            input: 10,
            cached: 4,
            output: 8,
            ..Used::default()
        };
        for (dialect, body) in [
            (Dialect::OpenAi(Some(Vendor::Xai)), openai),
            (Dialect::Responses, responses),
            (Dialect::Gemini, gemini),
        ] {
            assert_eq!(used(dialect, &body), expected, "{dialect:?}");
        }
        let anthropic = json!({"usage": {"input_tokens": 1, "cache_read_input_tokens": 4,
            "cache_creation_input_tokens": 5, "output_tokens": 8,
            "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 2}}});
        let read = used(Dialect::Anthropic, &anthropic);
        assert_eq!((read.input, read.cached), (10, 4));
        let price = SimPrice {
            input: 100,
            cached_input: 10,
            cache_write: 125,
            cache_write_1h: 200,
            output: 500,
        };
        assert_eq!(price.cost(read), 100 + 40 + 3 * 125 + 2 * 200 + 8 * 500);
    }

    #[test]
    fn a_model_without_a_price_costs_nothing_at_that_tier() {
        let mut list = PriceList::default();
        list.set("m".into(), SimTier::Batch, SimPrice::new(1, 1));
        let body = br#"{"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}"#;
        let cost = |tier| list.cost(Dialect::default(), "m", tier, body);
        assert_eq!((cost(SimTier::Batch), cost(SimTier::Standard)), (15, 0));
    }
}
