//! What the commands do, a file or folder each. What they take is in [`crate::args`].

pub mod cancel;
pub mod config;
pub mod doctor;
pub mod exec;
pub mod export;
pub mod move_queue;
pub mod providers;
pub mod results;
pub mod retry;
pub mod run;
pub mod scan;
pub mod serve;
pub mod shell;
pub mod simulate;
mod simulate_batches;
pub mod status;
pub mod submit;
pub mod work;
pub mod workers;
