//! Public information about a worker: its machine, whether it is alive, and the jobs that it holds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::Timestamp;

use super::WorkerId;

/// Maximum number of stored characters of a problem.
const MOST_TROUBLE: usize = 500;

/// A worker's report about itself. The store keeps the last one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// Version of batchwright. Empty until the worker has reported once.
    pub version: String,
    /// Maximum number of jobs that it runs at once.
    pub slots: u64,
    /// Number of jobs that it runs now, without those in batches.
    pub busy: u64,
    /// Jobs that it has completed since it started, including those in batches.
    pub completed: u64,
    /// Jobs that have failed permanently with it since it started.
    pub failed: u64,
    /// Why the worker's jobs do not progress, for example a rejected API key, a cooldown, or an open circuit breaker.
    /// `None` if calls succeed.
    pub trouble: Option<String>,
}

/// A registered worker of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerInfo {
    /// Its number in the store.
    pub id: WorkerId,
    /// Name of its machine.
    pub host: String,
    /// Number of its OS process on that machine.
    pub pid: u32,
    /// When it started, by the clock of its machine.
    pub started_at: Timestamp,
    /// False after a crash, until another worker takes over its jobs. In a database on a server: its lease has ended.
    pub is_alive: bool,
    /// Time since it renewed its lease, by the clock of the database server. `None` for a worker whose lease was
    /// ended, and for a queue in a file: there a file lock shows whether a worker is alive.
    pub heartbeat_age: Option<Duration>,
    /// Number of jobs that it has claimed, including those that have not started.
    pub jobs: u64,
    /// Number of batches at a provider that it owns.
    pub batches: u64,
    /// Its last report.
    pub status: WorkerStatus,
}

impl WorkerInfo {
    /// A living worker on `host` that holds nothing and has not reported yet.
    pub fn new(id: WorkerId, host: impl Into<String>, pid: u32, started_at: Timestamp) -> Self {
        Self {
            id,
            host: host.into(),
            pid,
            started_at,
            is_alive: true,
            heartbeat_age: None,
            jobs: 0,
            batches: 0,
            status: WorkerStatus::default(),
        }
    }
}

impl WorkerStatus {
    /// The status of a worker of this version that has not started a job.
    pub(crate) fn of_program(slots: usize) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            slots: slots as u64,
            ..Self::default()
        }
    }

    /// Serializes the report for a store.
    pub(super) fn to_json(&self) -> String {
        let mut short = self.clone();
        short.trouble = self
            .trouble
            .as_ref()
            .map(|why| why.chars().take(MOST_TROUBLE).collect());
        serde_json::to_string(&short).unwrap_or_default()
    }

    /// Reads a stored report. A report in the format of another version counts as missing.
    pub(super) fn from_json(text: Option<String>) -> Self {
        text.and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default()
    }
}
