//! Processes that a job waits for: found by it, ended with it, counted with it.

use std::collections::BTreeSet;

use batchwright::progress::Timestamp;
use batchwright::queue::{JobCounts, JobStatus, ProcessInfo, QueueTotals};
use batchwright::{Error, ProcessId};

use super::data::{Data, Place, Process, Row, invalid};

impl Data {
    /// The key of the job that a new process with this info is for.
    pub fn parent(&self, info: Option<&ProcessInfo>) -> Result<Option<i64>, Error> {
        let Some(parent) = info.and_then(|info| info.parent) else {
            return Ok(None);
        };
        let key = self.key_of(parent.job_id);
        let open = |key: &i64| !self.jobs[key].place.has_ended() && !self.is_stopped(key >> 32);
        match key.filter(open) {
            Some(key) => Ok(Some(key)),
            None => Err(invalid("the job needs no more jobs").with_claim_lost()),
        }
    }

    fn of(&self, is_parent: impl Fn(i64) -> bool) -> Vec<i64> {
        let all = self.processes.iter();
        let children = all.filter(|(_, process)| process.parent.is_some_and(&is_parent));
        children.map(|(no, _)| *no).collect()
    }

    /// Where the jobs of those stand whose parent is this job.
    pub fn children(&self, job: i64) -> Option<JobCounts> {
        let processes = self.of(|key| key == job);
        let mut totals = QueueTotals::default();
        let states = processes.into_iter().filter_map(|no| self.state(no));
        states.for_each(|state| totals.add(&state));
        (totals.jobs.total > 0).then_some(totals.jobs)
    }

    /// These processes and all below them, each behind its parent.
    pub fn family(&self, mut processes: Vec<i64>) -> Vec<i64> {
        let mut at = 0;
        while at < processes.len() {
            let no = processes[at];
            processes.extend(self.of(|key| key >> 32 == no));
            at += 1;
        }
        processes
    }

    /// The ids of those that are meant by these; of all when empty.
    pub fn scope(&self, processes: &[ProcessId]) -> Option<BTreeSet<ProcessId>> {
        let named = processes.iter().filter_map(|id| self.number(*id)).collect();
        let ids = self.family(named);
        let ids = ids.iter().map(|no| self.processes[no].id).collect();
        (!processes.is_empty()).then_some(ids)
    }

    /// Processes below one whose parents have failed or were cancelled, deepest first.
    pub fn to_retry(&self, no: i64) -> Vec<i64> {
        let mut below = self.family(vec![no]);
        below.retain(|other| {
            let parent = self.processes[other].parent;
            let row = parent.and_then(|key| self.jobs.get(&key));
            row.is_some_and(|row| {
                matches!(
                    row.place,
                    Place::Ended(JobStatus::Failed | JobStatus::Cancelled)
                )
            })
        });
        below.reverse();
        below
    }

    pub fn is_open(&self, process: ProcessId) -> bool {
        let keys = self.number(process).map_or(0..0, Self::keys);
        let mut rows = self.jobs.range(keys);
        rows.any(|(_, row)| !row.place.has_ended())
    }

    /// Wakes the jobs that wait for what has no open job now.
    pub fn wake_parents(&mut self, now: Timestamp) {
        let waiting = self
            .jobs
            .iter()
            .filter(|(_, row)| row.place == Place::Awaiting);
        let woken = waiting.filter(|(_, row)| !row.awaits.iter().all(|id| self.is_open(*id)));
        let woken: Vec<i64> = woken.map(|(key, _)| *key).collect();
        for key in woken {
            self.jobs.get_mut(&key).unwrap().look_again(now);
        }
    }

    /// A job has its outcome, or is gone.
    pub fn job_ended(&mut self, job: i64, for_good: bool) {
        for child in self.of(|key| key == job) {
            let family = self.family(vec![child]);
            for no in &family {
                self.hand_on(*no, job >> 32);
            }
            let worth = |row: &Row| {
                !row.place.has_ended() || row.place == Place::Ended(JobStatus::Completed)
            };
            let kept = |no: &i64| self.jobs.range(Self::keys(*no)).any(|(_, row)| worth(row));
            if for_good || !family.iter().any(kept) {
                self.remove(&family);
            }
        }
    }

    /// Counts what a process has used with another one.
    pub fn hand_on(&mut self, from: i64, to: i64) {
        let none = Process::new(ProcessId::new(), Timestamp(0)).spent;
        if self.processes.contains_key(&to)
            && let Some(from) = self.processes.get_mut(&from)
        {
            let spent = std::mem::replace(&mut from.spent, none);
            self.processes.get_mut(&to).unwrap().spend(&spent);
        }
    }

    pub fn remove(&mut self, processes: &[i64]) {
        for no in processes {
            if let Some(process) = self.processes.remove(no) {
                self.numbers.remove(&process.id);
            }
            self.jobs.retain(|key, _| key >> 32 != *no);
        }
    }
}
