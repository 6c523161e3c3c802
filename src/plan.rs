//! From settings to work: what they come to, to be looked at and changed before anything is started.
//!
//! [`LlmManager`](crate::LlmManager) goes all of this way by itself.
//!
//! | to | use |
//! |---|---|
//! | choose the providers that settings mean | [`ProviderQuery`], [`ProviderChoice`], [`ProviderChoiceError`] |
//! | see whether work goes out in batches, and why or why not | [`EffectiveStrategy`] |
//! | see what a route is made of, and which providers it skips | [`RoutePlan`], [`RouteStep`], [`SkippedStep`] |
//! | see how many calls a run makes at once | [`Concurrency`] |
//! | hear what came of settings that changed meanwhile | [`SettingsEvent`] |
#![cfg_attr(
    feature = "queue",
    doc = "| see what a worker is made of | [`WorkerPlan`] |"
)]

pub use crate::llm::route::SkippedStep;
#[cfg(feature = "queue")]
pub use crate::manager::WorkerPlan;
pub use crate::manager::{
    Concurrency, EffectiveStrategy, ProviderChoice, ProviderChoiceError, ProviderQuery, RoutePlan,
    RouteStep, SettingsEvent,
};
