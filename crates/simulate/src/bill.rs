//! The bill: what a provider would charge for a reply, read from the usage that the reply reports.

use serde_json::Value;

use super::dialect::Dialect;
use super::prices::{PriceList, SimPrice, SimTier};

/// The cost of the reply with this body, in picodollars; 0 if the model has no price.
pub(super) fn cost(
    list: &PriceList,
    dialect: Dialect,
    model: &str,
    tier: SimTier,
    body: &[u8],
) -> u64 {
    let Some(price) = list.get(model, tier) else {
        return 0;
    };
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    used(dialect, &body).cost(price)
}

/// Tokens of a reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Used {
    /// All input tokens.
    input: u64,
    /// The part of the input that was read from a cache.
    cached: u64,
    /// The part that was written to a cache for less than an hour.
    written_5m: u64,
    written_1h: u64,
    /// All output tokens, with reasoning.
    output: u64,
}

impl Used {
    fn cost(self, price: &SimPrice) -> u64 {
        let written = self.written_5m + self.written_1h;
        let plain = self.input - self.cached - written;
        plain * price.input
            + self.cached * price.cached_input
            + self.written_5m * price.cache_write
            + self.written_1h * price.cache_write_1h
            + self.output * price.output
    }
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
                written_5m: of("/usage/prompt_tokens_details/cache_write_tokens"),
                output: completion.max(total.saturating_sub(input)),
                ..Used::default()
            }
        }
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
        assert_eq!(read.cost(&price), 100 + 40 + 3 * 125 + 2 * 200 + 8 * 500);
    }

    #[test]
    fn a_model_without_a_price_costs_nothing_at_that_tier() {
        let mut list = PriceList::default();
        list.set("m".into(), SimTier::Batch, SimPrice::new(1, 1));
        let body = br#"{"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}"#;
        let cost = |tier| super::cost(&list, Dialect::default(), "m", tier, body);
        assert_eq!((cost(SimTier::Batch), cost(SimTier::Standard)), (15, 0));
    }
}
