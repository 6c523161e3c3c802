//! Simulations of the queue on a clock moved by hand.

mod scene;

pub(crate) use scene::{check_time, run_seeds};
