//! The reports of a run: progress while it runs, and a summary at its end.

pub mod calls;
pub mod causes;
pub(crate) mod drive;
pub mod jobs;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod progress;
pub mod tally;
pub mod tracker;
