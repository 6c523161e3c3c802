//! The plan from settings to work, which can be read and changed before the work starts.
//!
//! [`LlmManager::new`](crate::LlmManager::new) makes a plan with default options.
//!
//! | to | use |
//! |---|---|
//! | decide about providers, models, keys and limits | [`ProviderPlan`] by the settings and [`ProviderOptions`]; [`ProviderPlanError`] |
//! | see whether prompts go into batches, and why | [`EffectiveStrategy`] |
//! | see the providers that a route skips | [`SkippedStep`] |
//! | see the number of calls in flight | [`Concurrency`] |
//! | receive the effect of changed settings | [`SettingsEvent`] |
//! | estimate tokens and cost with [`Estimate`](crate::Estimate) | [`EstimatedCost`] |

pub use crate::assembly::{
    Concurrency, EffectiveStrategy, ProviderOptions, ProviderPlan, ProviderPlanError, SettingsEvent,
};
pub use crate::llm::estimate::EstimatedCost;
pub use crate::llm::route::SkippedStep;
