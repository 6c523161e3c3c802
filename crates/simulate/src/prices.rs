//! What a provider charges: a price per token for each model.

use std::collections::HashMap;

use super::prompt::Tokens;

/// The prices of a model for calls, in picodollars (10⁻¹² US dollars) per token: the same number as millionths of a
/// dollar per million tokens. See [`SimConfig::price`](super::SimConfig::price).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SimPrice {
    /// Input tokens that were not read from a cache.
    pub input: u64,
    /// Input tokens that were read from a cache.
    pub cached_input: u64,
    /// Output tokens, including reasoning.
    pub output: u64,
}

impl SimPrice {
    /// Prices of input and output; cached input costs like other input.
    pub const fn new(input: u64, output: u64) -> SimPrice {
        SimPrice {
            input,
            cached_input: input,
            output,
        }
    }
}

/// The part of the price that is charged for requests of batches, and for calls at the flex tier: a half.
const REDUCED: u64 = 2;

/// The prices of all models.
#[derive(Debug, Clone, Default)]
pub(super) struct PriceList(HashMap<String, SimPrice>);

impl PriceList {
    pub(super) fn set(&mut self, model: String, price: SimPrice) {
        self.0.insert(model, price);
    }

    /// The cost of a reply with these tokens, in picodollars; 0 if the model has no price.
    pub(super) fn cost(&self, model: &str, tokens: Tokens, reduced: bool) -> u64 {
        let price = self.0.get(model).copied().unwrap_or_default();
        let cost = (tokens.prompt - tokens.cached) * price.input
            + tokens.cached * price.cached_input
            + tokens.completion() * price.output;
        if reduced { cost / REDUCED } else { cost }
    }
}
