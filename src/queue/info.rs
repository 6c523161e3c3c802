//! Descriptions of processes for people.

use derive_setters::Setters;
use serde::{Deserialize, Serialize};

use crate::base::{JobId, ProcessId};

use super::budget::ProcessBudget;

/// The description of a process for people: its name, the source of its jobs, and the place for its results. The
/// queue only stores it. Set it with [`JobQueue::described`](crate::JobQueue::described).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Setters)]
#[setters(strip_option)]
#[serde(default)]
#[non_exhaustive]
pub struct ProcessInfo {
    /// The display name.
    #[setters(into)]
    pub name: Option<String>,
    /// The source of its jobs, for example the path of a file.
    #[setters(into)]
    pub input: Option<String>,
    /// The file for its results, as an absolute path; `None` if they can go to any file.
    #[setters(into)]
    pub output: Option<String>,
    /// Data that the host needs to resume the process.
    #[setters(into)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The provider for its prompts.
    #[setters(into)]
    pub provider: Option<String>,
    /// The shell command that resumes it.
    #[setters(into)]
    pub command: Option<String>,
    /// The parent job, whose [children](crate::queue::Children) are the jobs of this process. It collects their
    /// results, and they are deleted with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[setters(skip)]
    pub parent: Option<ParentJob>,
    /// The only consumer of the results, for example a batch of the server. Others can read the results and cancel the
    /// process, but neither consume nor delete it.
    #[setters(into)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collector: Option<String>,
    /// What its jobs may cost together. Only the first jobs set it; [`ProcessState::budget`](super::ProcessState::budget)
    /// has the budget of a stored process.
    #[serde(skip)]
    pub budget: Option<ProcessBudget>,
}

/// A job that waits for the jobs of another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentJob {
    /// The process it belongs to.
    pub process_id: ProcessId,
    /// Its id.
    pub job_id: JobId,
}

impl ProcessInfo {
    /// An empty description.
    pub fn new() -> Self {
        Self::default()
    }

    /// The parent job of its jobs. Default: none.
    pub(super) fn child_of(mut self, parent: ParentJob) -> Self {
        self.parent = Some(parent);
        self
    }
}
