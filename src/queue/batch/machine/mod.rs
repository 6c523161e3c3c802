//! A batch as a pure state machine, without calls, files or clocks.
//!
//! A [`Record`] is the content of the row of a batch: its [`State`] (with a diagram of all states) and what every
//! batch has. [`next()`] decides from it and the [`Facts`] which [`Step`] to take. The outcome is an [`Event`].
//! [`apply()`] makes the next record from it, and returns what else to do as [`Effect`]s. The code that executes
//! steps and effects decides nothing.

mod apply;
mod event;
mod state;
mod status;
mod submit;
#[cfg(test)]
pub(super) mod tests;

pub(super) use apply::{AWAY, apply};
pub(crate) use event::is_cut_off;
pub(super) use event::{Collected, Effect, Event, Facts, ItemEnds, ItemsSettled};
pub(super) use event::{Results, Step, Written, next};
pub(super) use state::{Record, Refusals, State, Uncollected, key, new_label, number};
