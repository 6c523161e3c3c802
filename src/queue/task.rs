//! A job that a worker has claimed.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::value::RawValue;

use crate::base::{Charge, Error, Time};
use crate::llm::request::Request;

use super::account::Part;
use super::history::History;
use super::job::Spent;
use super::kind::Kind;
use super::store::ClaimedJob;

/// A claimed job.
pub(crate) struct JobTask {
    pub claimed: ClaimedJob,
    pub kind: Arc<Kind>,
    pub history: History,
    /// The request of a prompt, once its payload was read.
    pub request: OnceLock<Result<Arc<Request>, Error>>,
    /// Its part in the budget of its process.
    pub part: Mutex<Option<Part>>,
    /// Since when it has waited for capacity.
    pub waiting_since: Option<Time>,
    /// The version of the kinds at its claim.
    pub kinds_version: u64,
}

/// The outcomes of a call, one per job of its pack.
pub(crate) type Done = Vec<JobEnd>;

/// The outcome of a job's call.
pub(crate) enum JobEnd {
    /// Its result, its usage, and what the call was billed.
    Result(Box<RawValue>, Option<Spent>, Option<Box<Charge>>),
    /// It failed although the call returned results for others.
    Failed(Error),
    /// It waits for other jobs, and looks again after this time.
    Wait(Duration),
}

impl JobEnd {
    /// The error of a failed job.
    pub fn error(&self) -> Option<&Error> {
        match self {
            Self::Failed(error) => Some(error),
            Self::Result(..) | Self::Wait(_) => None,
        }
    }
}
