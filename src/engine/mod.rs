//! The engine completes many slow, rate-limited, failing tasks.
//!
//! In scope: which task starts when, limits, retries, fallback, circuit breakers, threads. Out of scope: prompts,
//! providers, files, databases.
//!
//! The engine knows a task by the quota it shares and its probable cost, and an outcome by success or an error kind
//! with hints. [`dispatch`] decides, with [`limiter`] and [`route`]; [`run`] executes the decisions with threads.

pub(crate) mod availability;
mod bucket;
pub mod budget;
pub(crate) mod dispatch;
pub(crate) mod feeder;
pub(crate) mod limited_by;
pub mod limiter;
mod outliers;
mod pace;
pub mod quota;
mod quota_state;
pub mod route;
pub(crate) mod run;
pub(crate) mod waiting;
mod window;
pub(crate) mod work;

#[cfg(test)]
mod pace_model;
#[cfg(test)]
mod pace_simulation;
#[cfg(test)]
pub(crate) mod simulation;
