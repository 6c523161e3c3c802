//! Prices of models.

use std::collections::HashMap;

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

    pub(super) fn get(&self, model: &str, tier: SimTier) -> Option<&SimPrice> {
        self.0.get(&(model.to_owned(), tier))
    }
}
