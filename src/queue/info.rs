//! What people are told of a process.

use serde::{Deserialize, Serialize};

use crate::base::id::{JobId, ProcessId};

/// What people are told of a process: its name, where its jobs came from, and where its results belong.
/// The queue keeps it and does nothing with it. Whoever enqueues gives it with
/// [`JobQueue::described`](crate::JobQueue::described).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ProcessInfo {
    /// The name that people know it by.
    pub name: Option<String>,
    /// Where its jobs came from, such as the path of a file.
    pub input: Option<String>,
    /// The file that its results belong to, as an absolute path; `None` where they may go anywhere.
    pub output: Option<String>,
    /// What the host itself needs when it comes back to the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The provider that its prompts are meant for.
    pub provider: Option<String>,
    /// The command that comes back to it, as a shell takes it.
    pub command: Option<String>,
    /// The job whose [children](crate::queue::Children) its jobs are. It collects their results, and they go
    /// with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentJob>,
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
    /// Nothing is told.
    pub fn new() -> Self {
        Self::default()
    }

    /// The name that people know it by. Default: none.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Where its jobs came from. Default: not told.
    pub fn input(mut self, input: impl Into<String>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// The file that its results belong to, and no other place. Default: anywhere.
    pub fn output(mut self, output: impl Into<String>) -> Self {
        self.output = Some(output.into());
        self
    }

    /// What the host itself needs when it comes back to the process. Default: nothing.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// The provider that its prompts are meant for. Default: not known.
    pub fn provider(mut self, provider: impl Into<String>) -> Self {
        self.provider = Some(provider.into());
        self
    }

    /// The command that comes back to it. Default: none.
    pub fn command(mut self, command: impl Into<String>) -> Self {
        self.command = Some(command.into());
        self
    }

    /// The job whose children its jobs are. Default: none.
    pub(super) fn child_of(mut self, parent: ParentJob) -> Self {
        self.parent = Some(parent);
        self
    }
}
