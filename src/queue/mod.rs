//! The durable queue: jobs in a database, workers that carry them out, and hosts that enqueue them and
//! take the results.
//!
//! [`JobQueue`](crate::JobQueue) is the host's side, [`Worker`](crate::Worker) the other. Start with the
//! [guide](crate::queue_guide).
//!
//! | to | use |
//! |---|---|
//! | say what a process is for, for people | [`ProcessInfo`] |
//! | see how far a process is | [`ProcessState`], [`Counts`], [`Spent`]; as progress with [`Tracker`] |
//! | look at one job | [`JobState`], [`JobStatus`], [`AttemptError`]; briefly [`Item`] |
//! | take results | [`Results`], [`JobResult`]; in two steps [`Delivery`], [`Receipt`] |
//! | see why adding or taking ended early | [`EnqueueError`], [`ConsumeError`] |
//! | say how many jobs run at once | [`Scale`] |
//! | see what a worker did | [`WorkerReport`] |
//! | know what shares a quota | [`Lane`] |
//! | enqueue prompts as jobs of the built-in kinds | [`COMPLETION`], [`EMBEDDING`] |
//! | choose how the database is opened | [`SqliteOptions`], [`Durability`], [`SqliteStore`] |
//! | look at its health | [`Finding`], [`Verdict`] |
//! | put the queue on a database of your own | [`unstable::JobStore`](crate::unstable::JobStore) |

mod backlog;
pub(crate) mod batch;
mod controls;
mod due_times;
pub(crate) mod handler;
mod history;
pub(crate) mod host;
pub(crate) mod info;
pub(crate) mod job;
mod kinds;
mod maintenance;
mod progress_reporter;
pub(crate) mod prompts;
pub(crate) mod scale;
#[cfg(test)]
mod simulation;
pub(crate) mod store;
mod task;
pub(crate) mod tracker;
mod work;
pub(crate) mod worker;
pub(crate) mod worker_run;

pub use host::{ConsumeError, EnqueueError, Results};
pub use info::ProcessInfo;
pub use job::{
    AttemptError, COMPLETION, Counts, EMBEDDING, JobResult, JobState, JobStatus, PRIORITIES,
    ProcessState, Spent,
};
pub use scale::Scale;
pub use store::sqlite::{Durability, SqliteOptions, SqliteStore};
pub use store::{Delivery, Finding, Item, Lane, Receipt, Verdict};
pub use tracker::Tracker;
pub use worker_run::WorkerReport;
