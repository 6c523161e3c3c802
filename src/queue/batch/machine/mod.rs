//! What is known of a batch, and what is next for it: pure, without calls, files or clocks.

pub(crate) mod next;
pub(crate) mod record;
