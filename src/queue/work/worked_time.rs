//! Measures a worker's time, and reports it to each process with the ends of its jobs.

use std::collections::HashMap;

use crate::base::ProcessId;
use crate::engine::time_split::TimeSplit;
use crate::engine::work::Settled;

use crate::queue::job::ProcessState;
use crate::queue::store::Settlement;

use super::SettledPack;

/// The worker's measured time, and the part that was reported to each process.
#[derive(Default)]
pub(super) struct WorkedTime {
    pub now: TimeSplit,
    reported: HashMap<ProcessId, TimeSplit>,
}

/// Limit of tracked processes. Beyond it, a process loses its start time, and that time counts as idle.
const MOST_PROCESSES: usize = 10_000;

impl WorkedTime {
    /// Records that the worker receives jobs of these processes.
    pub(super) fn begin(&mut self, processes: impl Iterator<Item = ProcessId>) {
        for process in processes {
            if self.reported.len() >= MOST_PROCESSES && !self.reported.contains_key(&process) {
                self.reported.clear();
            }
            self.reported.entry(process).or_insert(self.now);
        }
    }

    /// Adds the worker's time since the last report to one end of each process. Returns these processes.
    pub(super) fn add_to(&self, done: &[SettledPack], ends: &mut [Settlement]) -> Vec<ProcessId> {
        let jobs = done.iter().flat_map(|settled| match settled {
            Settled::Final(ticket, _) | Settled::Later(ticket, ..) | Settled::Unsent(ticket, _) => {
                &ticket.task
            }
        });
        let mut processes: Vec<ProcessId> = Vec::new();
        for (member, end) in jobs.zip(ends) {
            let process = member.task.claimed.process_id;
            if processes.contains(&process) {
                continue;
            }
            if let Some(before) = self.reported.get(&process) {
                end.worked = Some(Box::new(self.now.since(before)));
                processes.push(process);
            }
        }
        processes
    }

    /// Records that the time of these processes was reported up to a moment, with their current states.
    pub(super) fn mark_reported(
        &mut self,
        processes: Vec<ProcessId>,
        until: TimeSplit,
        states: &[ProcessState],
    ) {
        self.reported
            .extend(processes.into_iter().map(|process| (process, until)));
        for state in states.iter().filter(|state| state.is_finished()) {
            self.reported.remove(&state.process_id);
        }
    }
}
