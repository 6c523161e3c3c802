//! What a run shows of itself: progress while it goes on, a summary when it has ended.

pub mod progress;
pub mod tally;
pub mod tracker;
