//! Many prompts: all at once from a slice, streamed from an iterator, or from a file whose
//! results are its checkpoint.

use std::time::Duration;

pub mod appender;
mod backlog;
mod call;
#[cfg(feature = "queue")]
pub(crate) mod checkpoint;
mod compact;
mod convert;
pub mod file;
mod file_turn;
pub(crate) mod input;
mod kept;
mod lines;
mod list;
mod measure;
mod on_disk;
pub(crate) mod open_output;
pub mod options;
#[cfg(test)]
mod pack_simulation;
pub mod prompts;
mod replies;
pub mod requests;
pub(crate) mod results;
pub mod run;
mod sinks;
mod spool;
mod stream;
mod work;

/// More threads than this are a slip of the finger, not a plan.
const MOST_THREADS: usize = 10_000;

/// Why a number of calls in flight is not possible.
fn bad_concurrency(concurrency: usize) -> Option<String> {
    (!(1..=MOST_THREADS).contains(&concurrency))
        .then(|| format!("the concurrency must be from 1 to {MOST_THREADS}, not {concurrency}"))
}

/// How often progress is told.
const TICK: Duration = Duration::from_millis(100);
