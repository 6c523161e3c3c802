//! Jobs of a queue while a worker carries them out, and their ends.

use std::sync::Arc;
use std::time::Duration;

use crate::base::answer_listener::AnswerListener;
use crate::base::error::Error;
use crate::base::id::{JobId, ProcessId};

/// Hears of every job that has its outcome, and of how busy the worker is.
pub trait JobObserver: Send + Sync {
    /// The outcome of a job is recorded. Called on a thread of the worker, which waits for it.
    fn on_job_end(&self, job: &EndedJob<'_>);

    /// So many of the worker's slots have a job; told about ten times a second. Default: nothing is done.
    fn on_slots(&self, _used: usize, _slots: usize) {}

    /// The listener that receives the answer of a prompt in pieces while it arrives. It is requested before each call of
    /// the job, on the thread that makes the call. Default: none, and the call is not streamed.
    fn listener(&self, _process: ProcessId, _job: JobId) -> Option<Arc<dyn AnswerListener>> {
        None
    }
}

/// A job that has its outcome, without anything that is in it.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct EndedJob<'a> {
    /// Its id and that of its process; `None` where its answer came with a batch.
    pub ids: Option<(ProcessId, JobId)>,
    /// Its kind.
    pub kind: &'a str,
    /// Who was asked last; `None` where a handler of the host carried it out.
    pub provider: Option<&'a str>,
    /// Why it failed, if it did.
    pub error: Option<&'a Error>,
    /// From the start of its first call to its outcome, waits between tries included; of one in a batch, from the
    /// batch's creation.
    pub took: Duration,
}
