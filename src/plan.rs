//! From settings to work: what they come to, to be looked at and changed before anything is started.
//!
//! [`LlmManager`](crate::LlmManager) goes all of this way by itself.
//!
//! | to | use |
//! |---|---|
//! | choose providers according to the settings | [`ProviderQuery`], [`ProviderChoice`], [`ProviderChoiceError`] |
//! | see whether prompts go into batches, and why | [`EffectiveStrategy`] |
//! | see the providers of a route, and those that it skips | [`RoutePlan`], [`RouteStep`], [`SkippedStep`] |
//! | see the number of calls in flight | [`Concurrency`] |
//! | receive the effect of changed settings | [`SettingsEvent`] |
#![cfg_attr(
    feature = "queue",
    doc = "| see the parts of a worker | [`WorkerPlan`] |"
)]

pub use crate::llm::route::SkippedStep;
#[cfg(feature = "queue")]
pub use crate::manager::WorkerPlan;
pub use crate::manager::{
    Concurrency, EffectiveStrategy, ProviderChoice, ProviderChoiceError, ProviderQuery, RoutePlan,
    RouteStep, SettingsEvent,
};
