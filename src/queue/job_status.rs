//! The states of a job.

use serde::{Deserialize, Serialize};

/// The state of a job.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    strum::IntoStaticStr,
)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobStatus {
    /// The job waits for a worker, for its due time, or until its process is sealed.
    Pending,
    /// A worker processes it.
    InProgress,
    /// It has its result.
    Completed,
    /// The job failed permanently.
    Failed,
    /// The job was cancelled before it ended.
    Cancelled,
}

impl JobStatus {
    /// True if the state is final, except for a requeue.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// The name used in JSON.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}
