//! What is done with a queue that has jobs: their states are read, and they are cancelled, retried, paused or deleted.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::base::{Error, JobId, ProcessId, Usd};
use crate::engine::budget::Budget;

use super::batch::BatchInfo;
use super::host::JobQueue;

impl JobQueue {
    /// The number of due jobs of a kind that wait for their first start.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn waiting(&self, kind: &str) -> Result<u64, Error> {
        let waiting = self.store.waiting_jobs(kind, &[], self.clock.wall())?;
        Ok(waiting.iter().map(|group| group.due).sum())
    }

    /// The batches of a process, and of the processes for which its jobs wait, oldest first. Without a process: all
    /// batches, including those of deleted processes.
    ///
    /// # Errors
    /// When the queue cannot be read.
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
    /// When the queue cannot be read.
    pub fn workers(&self) -> Result<u64, Error> {
        Ok(self.store.workers()?.live.len() as u64)
    }

    /// What limits the live workers at the moment, as [`Progress::limited_by`](crate::Progress::limited_by) names it,
    /// with the number of workers, most first. A worker that has just started is missing.
    ///
    /// # Errors
    /// When the queue cannot be read.
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
}
