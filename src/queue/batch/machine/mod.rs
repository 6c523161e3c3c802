//! A batch as a state machine: pure, without calls, files or clocks.
//!
//! A [`Record`] is what the row of a batch says: its [`State`], with a diagram of all of them, and what
//! every batch has. [`next()`] decides from it, and from the [`Facts`] beside it, which [`Step`] is to be
//! taken. What comes of that is an [`Event`]; [`apply()`] makes the next record of it, and tells as
//! [`Effect`]s what else is to be done. Whoever carries out steps and effects decides nothing.

mod apply;
mod bisect;
mod effect;
mod event;
mod next;
mod reconcile;
mod record;
mod results;
mod state;
mod status;
mod submit;
#[cfg(test)]
mod tests;

pub(super) use apply::apply;
pub(crate) use apply::is_cut_off;
pub(super) use effect::{Division, Effect, ItemEnds, OtherHalf};
pub(super) use event::{Collected, Event, Facts, ItemsSettled, Written};
pub(super) use next::{Step, next};
pub(super) use record::{Record, key, new_label, number};
pub(super) use state::{Formed, Input, Reconciling, Results, State, Submitting};
