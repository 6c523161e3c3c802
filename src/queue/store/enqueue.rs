//! What hosts enqueue, and look at.

use std::collections::HashSet;
use std::sync::Arc;

use crate::base::clock::Timestamp;
use crate::base::error::{Error, ErrorKind};
use crate::base::id::{JobId, ProcessId};
use crate::queue::info::ProcessInfo;
use crate::queue::job::{Job, JobState, ProcessState, QueueTotals};

use super::{InsertGuard, JobLane, JobSummary};

/// What hosts enqueue and look at. A part of [`JobStore`](super::JobStore).
pub trait EnqueueStore: Send + Sync {
    /// The same as [`insert_described`](Self::insert_described), with nothing told of the process.
    fn insert(
        &self,
        process: ProcessId,
        jobs: Vec<Job>,
        sealed: bool,
        now: Timestamp,
    ) -> Result<Vec<JobId>, Error> {
        self.insert_described(process, None, jobs, sealed, now)
    }

    /// Adds jobs to a process, which begins to exist with its first ones: all of them in one
    /// transaction. With `sealed` they can be claimed at once, unless an unsealed part precedes them.
    /// Without it the process is unsealed from now on, and none of what is added is claimable before
    /// [`seal`](Self::seal). A process that was cancelled or is being deleted takes no more. No jobs
    /// change nothing. What is told of the process replaces what was told before; `None` leaves that.
    fn insert_described(
        &self,
        process: ProcessId,
        info: Option<&ProcessInfo>,
        jobs: Vec<Job>,
        sealed: bool,
        now: Timestamp,
    ) -> Result<Vec<JobId>, Error>;

    /// The same if a condition holds, within the same transaction: what the jobs are added for may pass to another
    /// program meanwhile. Fails with an error [that says so](crate::Error::with_claim_lost) if it does not. Only stores that
    /// hand out conditions know them.
    fn insert_guarded(
        &self,
        _process: ProcessId,
        _info: Option<&ProcessInfo>,
        _jobs: Vec<Job>,
        _sealed: bool,
        _now: Timestamp,
        _guard: &InsertGuard,
    ) -> Result<Vec<JobId>, Error> {
        let why = "this store knows no conditions of other stores";
        Err(Error::new(ErrorKind::Invalid, why).with_storage())
    }

    /// Makes all that was added claimable, which is decided at once and carried out in short
    /// transactions; what a death of the process leaves to do, [`maintain`](super::StoreDatabase::maintain) goes on with.
    /// An error when there is no such process: what was enqueued has been deleted.
    fn seal(&self, process: ProcessId, now: Timestamp) -> Result<(), Error>;

    /// Replaces what is told of a process. False when there is none.
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

    /// Every process that has changed at this time or later, as far as its jobs, its seal or its cancellation go;
    /// others may be among them. It is asked once a second.
    fn changed_processes(&self, _since: Timestamp) -> Result<Vec<ProcessState>, Error> {
        self.processes()
    }

    /// The ids of all processes.
    fn process_ids(&self) -> Result<HashSet<ProcessId>, Error> {
        let all = self.processes()?;
        Ok(all.iter().map(|process| process.process_id).collect())
    }

    /// Up to `most` processes with their numbers, newest first, from below the number `before`: without looking at
    /// the others.
    fn newest_processes(
        &self,
        before: Option<u64>,
        most: usize,
    ) -> Result<Vec<(u64, ProcessState)>, Error>;

    /// Where all jobs stand, and how many processes there are.
    fn totals(&self) -> Result<QueueTotals, Error>;

    /// A job, if it exists; with what acknowledges its outcome once it has one, and before with where the jobs of all
    /// processes stand whose parent it is, if any.
    fn job(&self, job: JobId) -> Result<Option<JobState>, Error>;

    /// Up to `most` jobs that are stored of a process, in the order in which they were enqueued, from
    /// behind `after`.
    fn items(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        most: usize,
    ) -> Result<Vec<JobSummary>, Error>;

    /// The lanes of the jobs that are stored of a process; at least of its first thousand.
    fn lanes(&self, _process: ProcessId) -> Result<Vec<Arc<JobLane>>, Error> {
        Ok(Vec::new())
    }

    /// How many jobs wait to be started, due or not, by priority, the highest first, without those that wait for
    /// others. Those of a process that
    /// is being cancelled or deleted may be among them. Reads a key of every job that waits, and no other.
    fn waiting_by_priority(&self) -> Result<Vec<(u8, u64)>, Error>;
}
