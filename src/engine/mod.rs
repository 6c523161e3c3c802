//! The engine: takes many slow, rate-limited, failing units of work to completion.
//!
//! It knows no prompt and no provider. Of a task it asks what shares its quota and what it is
//! likely to cost; of an outcome, success or an error kind with hints. [`dispatch`] decides,
//! [`limit`] and [`route`] are asked in one place each, [`run`] turns the crank with threads.

pub(crate) mod availability;
mod breaker;
mod bucket;
mod calls_out;
pub(crate) mod class;
mod cool_downs;
pub(crate) mod counters;
mod critical;
pub(crate) mod dispatch;
mod exclusions;
pub(crate) mod feeder;
mod first_replies;
pub mod item_time;
pub(crate) mod jitter;
pub mod limiter;
pub(crate) mod loading;
mod pace;
pub(crate) mod pack;
mod pauses;
mod quota;
mod quota_state;
pub mod quota_status;
mod refusals;
pub mod route;
pub(crate) mod run;
mod shared_quota;
mod slot_cost;
mod stop;
pub mod time_split;
pub(crate) mod trail;
pub(crate) mod waiting;
mod window;
pub(crate) mod work;

#[cfg(test)]
mod pace_model;
#[cfg(test)]
mod pace_simulation;
#[cfg(test)]
pub(crate) mod simulation;
