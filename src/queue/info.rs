//! Descriptions of processes for people.

use serde::{Deserialize, Serialize};

use crate::base::id::{JobId, ProcessId};
use crate::money::deadline::DeadlinePlan;

use super::budget::ProcessBudget;

/// The description of a process for people: its name, the source of its jobs, and the place for its results. The
/// queue only stores it. Set it with [`JobQueue::described`](crate::JobQueue::described).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ProcessInfo {
    /// The display name.
    pub name: Option<String>,
    /// The source of its jobs, for example the path of a file.
    pub input: Option<String>,
    /// The file for its results, as an absolute path; `None` if they can go to any file.
    pub output: Option<String>,
    /// Data that the host needs to resume the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The provider for its prompts.
    pub provider: Option<String>,
    /// The shell command that resumes it.
    pub command: Option<String>,
    /// The parent job, whose [children](crate::queue::Children) are the jobs of this process. It collects their
    /// results, and they are deleted with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentJob>,
    /// The only consumer of the results, for example a batch of the server. Others can read the results and cancel the
    /// process, but they can neither consume nor delete anything of it, nor add jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collector: Option<String>,
    /// Whether it is a call whose caller waits for it. The ledger does not list it by itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub direct: bool,
    /// Who owns the process at a server: the name of the token that created it, at most 64 bytes. The first jobs fix it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The deadline of a [run](crate::files::QueueRun), and its decisions so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<DeadlinePlan>,
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

    /// The display name. Default: none.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The source of its jobs. Default: none.
    pub fn input(mut self, input: impl Into<String>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// The only file for its results. Default: any file.
    pub fn output(mut self, output: impl Into<String>) -> Self {
        self.output = Some(output.into());
        self
    }

    /// Data that the host needs to resume the process. Default: none.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// The provider for its prompts. Default: unknown.
    pub fn provider(mut self, provider: impl Into<String>) -> Self {
        self.provider = Some(provider.into());
        self
    }

    /// The shell command that resumes it. Default: none.
    pub fn command(mut self, command: impl Into<String>) -> Self {
        self.command = Some(command.into());
        self
    }

    /// The only consumer of its results: only a queue that is [described](crate::JobQueue::described) with the same
    /// collector can consume or delete them. Default: none, so that any program can.
    pub fn collector(mut self, collector: impl Into<String>) -> Self {
        self.collector = Some(collector.into());
        self
    }

    /// Marks the process as a call whose caller waits for it, so that the [ledger](crate::Ledger) does not list it by
    /// itself once it is gone. Default: it is listed, unless it has a single job.
    pub fn direct(mut self) -> Self {
        self.direct = true;
        self
    }

    /// The owner of the process. Default: none.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// The budget of a new process. Default: none. [`JobQueue::set_budget`](crate::JobQueue::set_budget) changes it.
    pub fn budget(mut self, budget: ProcessBudget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// The parent job of its jobs. Default: none.
    pub(super) fn child_of(mut self, parent: ParentJob) -> Self {
        self.parent = Some(parent);
        self
    }
}
