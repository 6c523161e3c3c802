//! The interface for enqueueing and reading jobs.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::base::{Day, Error, JobId, ProcessId, Timestamp};
use crate::queue::find::{JobFilter, JobPage};
use crate::queue::info::ProcessInfo;
use crate::queue::job::{Job, JobState, ProcessState, QueueTotals};
use crate::queue::spent::DaySpent;

use super::{JobLane, JobSummary};

/// Enqueues and reads jobs. A part of [`JobStore`](super::JobStore).
pub trait EnqueueStore: Send + Sync {
    /// The same as [`insert_described`](Self::insert_described) without a description.
    fn insert(
        &self,
        process: ProcessId,
        jobs: Vec<Job>,
        sealed: bool,
        now: Timestamp,
    ) -> Result<Vec<JobId>, Error> {
        self.insert_described(process, None, jobs, sealed, now)
    }

    /// Adds jobs to a process in one transaction; the first jobs create the process. With `sealed` they can be claimed
    /// at once, unless an unsealed part precedes them. Without it the process is unsealed from now on, and the added
    /// jobs cannot be claimed before [`seal`](Self::seal). A process that was cancelled or is being deleted accepts no
    /// jobs. An empty list changes nothing. The description replaces an earlier one; `None` keeps it.
    fn insert_described(
        &self,
        process: ProcessId,
        info: Option<&ProcessInfo>,
        jobs: Vec<Job>,
        sealed: bool,
        now: Timestamp,
    ) -> Result<Vec<JobId>, Error>;

    /// Makes all added jobs claimable. The decision is one transaction, and short transactions apply it; if the OS
    /// process crashes, [`maintain`](super::StoreDatabase::maintain) continues. Fails if the process does not exist,
    /// because its jobs have been deleted.
    fn seal(&self, process: ProcessId, now: Timestamp) -> Result<(), Error>;

    /// Replaces the description of a process. Returns false if the process does not exist.
    fn describe(
        &self,
        process: ProcessId,
        info: &ProcessInfo,
        now: Timestamp,
    ) -> Result<bool, Error>;

    /// A process, if it exists.
    fn process(&self, process: ProcessId) -> Result<Option<ProcessState>, Error>;

    /// Every process, oldest first.
    fn processes(&self) -> Result<Vec<ProcessState>, Error>;

    /// Calls back for every process whose jobs, seal or cancellation has changed at this time or later, perhaps for
    /// others too, and perhaps more than once. Called once per second: a store should not hold all of them in memory
    /// at once, because thousands of allocations at a time delay the other threads.
    fn changed_processes(
        &self,
        _since: Timestamp,
        each: &mut dyn FnMut(ProcessState),
    ) -> Result<(), Error> {
        self.processes()?.into_iter().for_each(each);
        Ok(())
    }

    /// The ids of all processes.
    fn process_ids(&self) -> Result<HashSet<ProcessId>, Error> {
        let all = self.processes()?;
        Ok(all.iter().map(|process| process.process_id).collect())
    }

    /// Up to `most` processes with their numbers, newest first, from below the number `before`: all of them, or those
    /// that are or are not `finished`. A store may have to pass over the others.
    fn newest_processes(
        &self,
        before: Option<u64>,
        finished: Option<bool>,
        most: usize,
    ) -> Result<Vec<(u64, ProcessState)>, Error>;

    /// The number of all jobs by state, and the number of processes.
    fn totals(&self) -> Result<QueueTotals, Error>;

    /// What was spent from this day on, by day and model, in order; `None`: ever. The store adds it in the transactions that
    /// add the usage of jobs to their processes, and keeps it when jobs and processes are gone.
    fn spent_since(&self, day: Option<Day>) -> Result<Vec<DaySpent>, Error>;

    /// A job, if it exists. With an outcome it contains the receipt that acknowledges it; before that, the states of
    /// its child jobs, if any.
    fn job(&self, job: JobId) -> Result<Option<JobState>, Error>;

    /// Up to `most` jobs that a filter selects, after `after`; see [`JobQueue::find`](crate::JobQueue::find). A call
    /// looks at a bounded number of jobs, and does not delay writes.
    fn find(&self, filter: &JobFilter, after: Option<JobId>, most: usize)
    -> Result<JobPage, Error>;

    /// The payload of a job, if the job exists.
    fn payload(&self, job: JobId) -> Result<Option<Box<RawValue>>, Error>;

    /// Up to `most` stored jobs of a process, in the order in which they were enqueued, after `after`.
    fn items(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        most: usize,
    ) -> Result<Vec<JobSummary>, Error>;

    /// The lanes of the stored jobs of a process; at least of its first 1,000 jobs.
    fn lanes(&self, _process: ProcessId) -> Result<Vec<Arc<JobLane>>, Error> {
        Ok(Vec::new())
    }

    /// The number of waiting jobs by priority, highest first, due or not, without jobs that wait for others. Jobs of a
    /// process that is being cancelled or deleted may be included. Reads one key of every waiting job, and nothing
    /// else.
    fn waiting_by_priority(&self) -> Result<Vec<(u8, u64)>, Error>;
}
