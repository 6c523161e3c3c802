//! What is done with a queue that has jobs: their states are read, and they are cancelled, retried, paused or deleted.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::base::{Day, Error, JobId, ProcessId, Usd};
use crate::engine::budget::Budget;

use super::batch::BatchInfo;
use super::host::JobQueue;
use super::job::{DaySpent, JobFilter, JobPage, JobState, ProcessState, QueueTotals};
use super::store::{HealthFinding, JobSummary};

impl JobQueue {
    /// The state of a process; `None` if it does not exist, or all its results were consumed.
    ///
    /// # Errors
    /// When the queue cannot be read; as for all that follow.
    pub fn process(&self, process: ProcessId) -> Result<Option<ProcessState>, Error> {
        self.store.process(process)
    }

    /// Every process that has jobs or results in the queue, oldest first. Check them after a restart. A process with
    /// a parent belongs to a job that waits for it; only that job can collect its results.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    pub fn open_processes(&self) -> Result<Vec<ProcessState>, Error> {
        self.store.processes()
    }

    /// Up to `most` processes with their numbers in the queue, newest first, from below the number `before`, for a
    /// list with pages: all of them, or those that are or are not [finished](ProcessState::is_finished). Processes with a
    /// parent are not included.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    pub fn newest_processes(
        &self,
        before: Option<u64>,
        finished: Option<bool>,
        most: usize,
    ) -> Result<Vec<(u64, ProcessState)>, Error> {
        self.store.newest_processes(before, finished, most)
    }

    /// The number of jobs in each state. Reads only the counters of the processes.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    pub fn totals(&self) -> Result<QueueTotals, Error> {
        self.store.totals()
    }

    /// One job; `None` if it does not exist, or its result was consumed.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    pub fn job(&self, job: JobId) -> Result<Option<JobState>, Error> {
        self.store.job(job)
    }

    /// Up to `most` stored jobs of a process after the job `after`, in the order in which they were enqueued, to
    /// compare them with jobs to enqueue. Jobs whose results were consumed are not included.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    pub fn items(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        most: usize,
    ) -> Result<Vec<JobSummary>, Error> {
        self.store.items(process, after, most)
    }

    /// The number of due jobs of a kind that wait for their first start.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    pub fn waiting(&self, kind: &str) -> Result<u64, Error> {
        let waiting = self.store.waiting_jobs(kind, &[], self.clock.wall())?;
        Ok(waiting.iter().map(|group| group.due).sum())
    }

    /// The number of waiting jobs by priority, highest first, due or not. Jobs that wait for other jobs are not
    /// included.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    pub fn waiting_by_priority(&self) -> Result<Vec<(u8, u64)>, Error> {
        self.store.waiting_by_priority()
    }

    /// The batches of a process, and of the processes for which its jobs wait, oldest first. Without a process: all
    /// batches, including those of deleted processes.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    pub fn batches(&self, process: Option<ProcessId>) -> Result<Vec<BatchInfo>, Error> {
        let now = self.clock.wall();
        let batches = self.store.batches(process)?;
        // If no living worker exists, nothing has returned the batches of a crashed one yet.
        let dead = if batches.iter().any(|batch| batch.worker.is_some()) {
            self.store.workers()?.dead
        } else {
            Vec::new()
        };
        let infos = batches.iter().map(|batch| BatchInfo {
            attended: (batch.worker)
                .is_some_and(|worker| dead.iter().all(|(dead, _)| dead.no != worker)),
            ..BatchInfo::new(batch, now)
        });
        Ok(infos.collect())
    }

    /// The number of live workers of the queue on all machines.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    pub fn workers(&self) -> Result<u64, Error> {
        Ok(self.store.workers()?.live.len() as u64)
    }

    /// What limits the live workers at the moment, as [`Progress::limited_by`](crate::Progress::limited_by) names it,
    /// with the number of workers, most first. A worker that has just started is missing.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    pub fn limited_by(&self) -> Result<Vec<(String, u64)>, Error> {
        let live = self.store.workers()?.live;
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for (no, limit) in self.store.limits()? {
            if live.iter().any(|(worker, _)| worker.0 == no) {
                *counts.entry(limit).or_default() += 1;
            }
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, workers)| Reverse(*workers));
        Ok(counts)
    }

    /// Up to `most` jobs that a filter selects, after `after`, the [`next`](JobPage::next) of the page before. Jobs of
    /// one process come in the order in which they were enqueued; without a process, those of the newest process come
    /// first, and in each process the last one.
    ///
    /// Each call looks at a bounded number of jobs, so that no search holds up other programs. So a page can be empty
    /// although more jobs follow: call again until [`next`](JobPage::next) is `None`. Failed and cancelled jobs are
    /// found by an index, and processes without a job in the wanted state are skipped.
    ///
    /// ```
    /// use batchwright::{Job, JobQueue, ProcessId};
    /// use batchwright::queue::JobFilter;
    /// let queue = JobQueue::in_memory()?;
    /// queue.enqueue(ProcessId::new(), [Job::new("letter", &"Dear Ada")?.item_id("ada-1")])?;
    /// let filter = JobFilter { kind: Some("letter".to_owned()), ..JobFilter::default() };
    /// let page = queue.find(&filter, None, 50)?;
    /// assert_eq!(page.jobs[0].item_id.as_deref(), Some("ada-1"));
    /// assert!(page.next.is_none());
    /// # Ok::<(), batchwright::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn find(
        &self,
        filter: &JobFilter,
        after: Option<JobId>,
        most: usize,
    ) -> Result<JobPage, Error> {
        self.store.find(filter, after, most)
    }

    /// Pauses all work of this queue, for all workers, until [`resume`](Self::resume). Jobs that a worker has claimed,
    /// and batches at a provider, run to their end. The pause is stored in the queue. A worker that runs until the queue
    /// is empty ends if the queue is paused.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn pause(&self) -> Result<(), Error> {
        self.store.set_paused(true)
    }

    /// Ends the pause, if there is one.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub fn resume(&self) -> Result<(), Error> {
        self.store.set_paused(false)
    }

    /// Whether the queue is paused.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn is_paused(&self) -> Result<bool, Error> {
        self.store.is_paused()
    }

    /// The payload of a job; `None` if the job does not exist, or its result was consumed.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn payload(&self, job: JobId) -> Result<Option<Box<RawValue>>, Error> {
        self.store.payload(job)
    }

    /// Requeues a failed or cancelled job with its full number of retries, and the failed and cancelled jobs for which
    /// it waits. A job of a process that was cancelled stays as it is. Returns whether the job was requeued.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn retry_job(&self, job: JobId) -> Result<bool, Error> {
        self.store.retry_job(job, self.clock.wall())
    }

    /// Cancels the waiting jobs of a process, and those for which its jobs wait. Running jobs, and jobs in a batch at
    /// the provider, finish without retries and keep their results, because they are billed. Returns the number of
    /// cancelled jobs of the process; 0 if the process does not exist.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn cancel(&self, process: ProcessId) -> Result<u64, Error> {
        self.store.cancel(process, self.clock.wall())
    }

    /// Cancels the jobs of this list that wait. Returns their number.
    ///
    /// # Errors
    /// As [`cancel`](Self::cancel); call it again.
    pub fn cancel_jobs(&self, jobs: &[JobId]) -> Result<u64, Error> {
        self.store.cancel_jobs(jobs, self.clock.wall())
    }

    /// Requeues the failed and cancelled jobs of a process with their full number of retries. Before them it requeues
    /// the failed and cancelled jobs for which they wait; successful ones are not repeated. Returns the number of
    /// requeued jobs of the process.
    ///
    /// # Errors
    /// As [`cancel`](Self::cancel).
    pub fn retry_failed(&self, process: ProcessId) -> Result<u64, Error> {
        self.store.retry_failed(process, self.clock.wall())
    }

    /// Deletes a process with its jobs and results in every state, and the processes for which its jobs wait. Returns
    /// the number of deleted jobs of the process.
    ///
    /// # Errors
    /// As [`cancel`](Self::cancel), and when the process has another [collector](crate::queue::ProcessInfo::collector).
    pub fn delete(&self, process: ProcessId) -> Result<u64, Error> {
        if let Some(known) = self.process(process)? {
            self.check_collector(process, &known.info)?;
        }
        self.store.delete(process, self.clock.wall())
    }

    /// Checks the health of the queue: integrity, schema, the counters of jobs, and the settings of a database server.
    ///
    /// # Errors
    /// When the checks cannot run.
    pub fn check(&self) -> Result<Vec<HealthFinding>, Error> {
        self.store.check()
    }

    /// Sets the limit of a process. The first limit counts what the process has spent before. If the budget was
    /// used up, its jobs can start again. Calls that are in flight when a process gets its first limit count when they end.
    /// To create a process with a budget, use [`ProcessInfo::budget`](crate::queue::ProcessInfo::budget).
    ///
    /// [`ProcessState::budget`](crate::queue::ProcessState::budget) has the limit and what is used.
    ///
    /// # Errors
    /// If the process does not exist, is a child of another one, or has calls of unknown cost; or if the queue cannot be
    /// written.
    pub fn set_budget(&self, process: ProcessId, limit: Usd) -> Result<(), Error> {
        self.store.set_budget(process, limit)
    }

    /// Has a budget take over what the queue has counted for this process. If the process had used an amount `before`, the
    /// budget adds the difference to what other calls have spent.
    pub(crate) fn note_spent(
        &self,
        process: ProcessId,
        budget: &Budget,
        before: Option<Usd>,
    ) -> Result<(), Error> {
        let process = self.process(process)?;
        let Some(known) = process.and_then(|process| process.budget) else {
            return Ok(());
        };
        budget.replace(known.used, before)
    }

    /// What was spent from this day on, by day and model, in order; `None`: ever. The store adds the cost of a call in the
    /// transaction that records its end.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn spent_since(&self, day: Option<Day>) -> Result<Vec<DaySpent>, Error> {
        self.store.spent_since(day)
    }
}
