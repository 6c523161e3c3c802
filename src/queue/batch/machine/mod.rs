//! What is known of a batch, and what is next for it: pure, without calls, files or clocks.

mod apply;
mod bisect;
mod effect;
mod event;
mod legacy;
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
pub(super) use effect::{Division, Effect, ItemEnds, OtherHalf};
pub(super) use event::{Collected, Event, Facts, ItemsSettled, Written};
pub(super) use next::{Step, next};
pub(super) use record::{Record, key, new_label, number};
pub(super) use state::{Formed, Input, Reconciling, Results, State, Submitting};
