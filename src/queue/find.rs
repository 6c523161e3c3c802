//! For people who operate a queue: pages of jobs, requeueing single ones, and pausing work.

use serde_json::value::RawValue;

use crate::base::{Error, JobId, ProcessId};

use super::host::JobQueue;
use super::job::{JobState, JobStatus};

/// Which jobs [`JobQueue::find`] returns: those that meet all conditions that are set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Only jobs of this process.
    pub process: Option<ProcessId>,
    /// Only jobs in this state.
    pub status: Option<JobStatus>,
    /// Only jobs in a batch at a provider (true), or only jobs that are not (false).
    pub at_provider: Option<bool>,
    /// Only jobs of this kind.
    pub kind: Option<String>,
}

/// Some of the jobs that a [`JobFilter`] selects.
#[derive(Debug, Clone, Default)]
pub struct JobPage {
    /// The jobs, without their results and without the errors of earlier attempts.
    pub jobs: Vec<JobState>,
    /// Where the search continues, if it has not looked at all jobs. It can be set although this page is empty.
    pub next: Option<JobId>,
}

impl JobQueue {
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
}
