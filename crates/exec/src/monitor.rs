//! The commands of a run while it is in progress.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

use super::record::{CommandJob, JobRecord, JobStatus};

/// Maximum number of ended commands that are still shown.
const MOST_RECENT: usize = 100;

/// Number of commands by state. Commands that were not read yet are not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JobCounts {
    /// Read and waiting.
    pub pending: u64,
    /// Running.
    pub running: u64,
    /// Ended with exit code 0.
    pub completed: u64,
    /// Failed permanently.
    pub failed: u64,
    /// Not finished because the run ended.
    pub cancelled: u64,
}

impl JobCounts {
    /// Counts a command that has ended.
    pub(super) fn ended(&mut self, status: JobStatus) {
        match status {
            JobStatus::Completed => self.completed += 1,
            JobStatus::Failed => self.failed += 1,
            _ => self.cancelled += 1,
        }
    }
}

/// Shows the commands of a runner during its runs, from any thread. Clones show the same, and several runs of one
/// runner add up. It contains the waiting and running commands and the last hundred that ended, without their
/// output, so its memory does not grow with the run.
#[derive(Debug, Clone, Default)]
pub struct Monitor(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// By their position in the source.
    open: BTreeMap<u64, JobRecord>,
    recent: VecDeque<JobRecord>,
    counts: JobCounts,
}

impl Monitor {
    /// The last hundred commands that ended, in the order of their ends, and then the running and waiting ones, in the
    /// order of the input.
    pub fn records(&self) -> Vec<JobRecord> {
        let state = self.0.lock();
        let all = state.recent.iter().chain(state.open.values());
        all.cloned().collect()
    }

    /// Number of commands by state.
    pub fn counts(&self) -> JobCounts {
        let state = self.0.lock();
        let open = state.open.values();
        let running = open.filter(|record| record.status == JobStatus::Running);
        let running = running.count() as u64;
        JobCounts {
            running,
            pending: state.open.len() as u64 - running,
            ..state.counts
        }
    }

    pub(super) fn read(&self, index: u64, job: Arc<CommandJob>) {
        self.0.lock().open.insert(index, JobRecord::pending(job));
    }

    /// An attempt begins, or has ended: then the command waits for the next one, or for its record.
    pub(super) fn set(&self, index: u64, status: JobStatus, attempts: u32) {
        if let Some(record) = self.0.lock().open.get_mut(&index) {
            (record.status, record.attempts) = (status, attempts);
        }
    }

    pub(super) fn ended(&self, index: u64, record: &JobRecord) {
        let mut state = self.0.lock();
        state.open.remove(&index);
        state.counts.ended(record.status);
        if state.recent.len() == MOST_RECENT {
            state.recent.pop_front();
        }
        let mut record = record.clone();
        if let Some(result) = &mut record.result {
            (result.stdout, result.stderr) = Default::default();
        }
        state.recent.push_back(record);
    }
}
