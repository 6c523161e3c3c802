//! Descriptions of processes for people, and their budgets.

use derive_setters::Setters;
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Serialize, Serializer};

use crate::base::{JobId, ProcessId, Usd};

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
}

// The budget of a process.

/// What the calls and batches of a process may cost together, including those of its child processes.
///
/// Before a call, what is spent, the most that calls in flight and open batches can cost, and the most that this call can
/// cost must not exceed the limit. A call of unknown outcome counts as the most that it can cost, a job of a worker that died
/// as the mean of the calls before. If the next call does not fit, the process waits until a batch has cost less than it
/// could, or until it gets a [higher limit](crate::queue::Store::set_budget). A worker does not count the calls in flight of
/// other workers: by so many calls the limit may be exceeded. A job whose call has no known upper bound fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessBudget {
    /// The limit.
    pub limit: Usd,
    /// What is spent, or reserved for open batches.
    pub used: Usd,
    /// What is reserved for open batches.
    pub held: Usd,
    /// The most that the next call can cost, if that does not fit; `None` while jobs can start.
    pub needed: Option<Usd>,
}

/// For people and programs: `{"limit": 12.5, "used": 3.25, "held": 0, "paused": null, "needed": null}`.
impl Serialize for ProcessBudget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("ProcessBudget", 5)?;
        fields.serialize_field("limit", &self.limit)?;
        fields.serialize_field("used", &self.used)?;
        fields.serialize_field("held", &self.held)?;
        fields.serialize_field("paused", &self.why())?;
        fields.serialize_field("needed", &self.needed)?;
        fields.end()
    }
}

impl ProcessBudget {
    /// A new budget, without anything spent.
    pub fn of(limit: Usd) -> Self {
        Self::new(limit, Usd::ZERO)
    }

    /// A new budget, with what was spent before.
    pub fn new(limit: Usd, used: Usd) -> Self {
        Self {
            limit,
            used,
            held: Usd::ZERO,
            needed: None,
        }
    }

    /// Why no job of the process starts, as a sentence; `None` if jobs can start.
    pub fn why(&self) -> Option<String> {
        let (limit, used, needed) = (self.limit, self.used, self.needed?);
        let spent = if self.held > Usd::ZERO {
            "spent or reserved"
        } else {
            "spent"
        };
        let next = if needed > Usd::ZERO {
            format!(", and the next call could cost {needed}")
        } else {
            String::new()
        };
        Some(format!(
            "the budget of {limit} is used up: {used} is {spent}{next}"
        ))
    }
}
