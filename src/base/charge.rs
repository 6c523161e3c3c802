//! What a call was billed.

use super::usd::Usd;

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
