//! A job in the hands of a worker.

use std::sync::{Arc, OnceLock};

use serde_json::value::RawValue;

use crate::base::clock::Time;
use crate::base::error::Error;
use crate::llm::request::Request;

use super::children::Awaited;
use super::history::History;
use super::job::Spent;
use super::kind::Kind;
use super::store::ClaimedJob;

/// A job on its way.
pub(crate) struct JobTask {
    pub claimed: ClaimedJob,
    pub kind: Arc<Kind>,
    pub history: History,
    /// The payload of a prompt, once somebody has read it.
    pub request: OnceLock<Result<Arc<Request>, Error>>,
    /// Since when it has waited for room, if it has.
    pub waiting_since: Option<Time>,
    /// The version of the kinds it was claimed under.
    pub kinds_version: u64,
}

/// What a call made of each job of its pack.
pub(crate) type Done = Vec<JobEnd>;

/// What a call made of a job.
pub(crate) enum JobEnd {
    /// Its result, and what that used.
    Result(Box<RawValue>, Option<Spent>),
    /// It failed although the call brought results to others.
    Failed(Error),
    /// It waits for others.
    Wait(Awaited),
}

impl JobEnd {
    /// Why the job failed, if it did.
    pub fn error(&self) -> Option<&Error> {
        match self {
            Self::Failed(error) => Some(error),
            Self::Result(..) | Self::Wait(_) => None,
        }
    }
}
