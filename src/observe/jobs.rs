//! Jobs of a queue that a worker runs, and their ends.

use std::time::Duration;

use crate::base::{Error, JobId, ProcessId};

/// Receives every finished job, and how many slots of the worker are in use.
pub trait JobObserver: Send + Sync {
    /// The outcome of a job was recorded. Called on a thread of the worker, which waits until it returns.
    fn on_job_end(&self, job: &EndedJob<'_>);

    /// `used` of the worker's `slots` have a job; called about ten times a second. Default: does nothing.
    fn on_slots(&self, _used: usize, _slots: usize) {}

    /// What limited the worker in about the last second, as in
    /// [`Progress::limited_by`](crate::Progress::limited_by); called about ten times a second. Default: does nothing.
    fn on_limit(&self, _limited_by: &'static str) {}
}

/// A finished job, without its contents.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct EndedJob<'a> {
    /// Its id and the id of its process; `None` if its answer came with a batch.
    pub ids: Option<(ProcessId, JobId)>,
    /// Its kind.
    pub kind: &'a str,
    /// The provider that was called last; `None` if a handler of the host ran the job.
    pub provider: Option<&'a str>,
    /// The reason if it failed.
    pub error: Option<&'a Error>,
    /// Time from the start of its first call to its outcome, including waits before retries; for a job in a batch, from
    /// the creation of the batch.
    pub took: Duration,
}
