//! What is known of a batch, and what is next for it: pure, without calls, files or clocks.

pub(crate) mod next;
mod reconcile;
pub(crate) mod record;
mod status;
mod submit;
mod uncollected;
