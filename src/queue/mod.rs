//! The durable queue: jobs in a database, workers that carry them out, and hosts that hand them over
//! and take the results.

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
