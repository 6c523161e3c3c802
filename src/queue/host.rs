//! The host's side of a queue: enqueue jobs, read their states, cancel. `consume.rs` fetches results.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use crate::base::{Clock, Day, Error, ErrorKind, JobId, ProcessId, SystemClock, Usd};
use crate::engine::budget::Budget;

use super::batch::BatchInfo;
use super::info::ProcessInfo;
use super::job::{DaySpent, Job, JobFilter, JobPage, JobState, ProcessState, QueueTotals};
use super::prompt_job::embed_files;
use super::store::sqlite::SqliteOptions;
use super::store::{HealthFinding, JobSummary, Part, Store};

/// A durable queue of jobs. Clones share it.
///
/// Jobs belong to processes. A process is a group of jobs that a caller submits under a [`ProcessId`] of its choice.
/// After a crash the caller finds the jobs by this id, or among the [open processes](Self::open_processes). Once a
/// method has returned `Ok`, its change survives a crash.
///
/// ```
/// use batchwright::{Job, JobQueue, ProcessId, Request};
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// let queue = JobQueue::open(&folder.join("llm_jobs.db"))?;
/// let process = ProcessId::new();
/// let prompts = ["Name a prime.", "Name a river."].map(|p| Job::from(&Request::new(p)));
/// queue.enqueue(process, prompts)?;
/// assert_eq!(queue.process(process)?.unwrap().counts.pending, 2);
/// // A `Worker`, here or in another process, carries them out; then:
/// queue.consume(process, |results| {
///     for result in results {
///         println!("{:?}: {:?}", result.item_id, result.result);
///     }
///     Ok::<(), batchwright::Error>(())
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct JobQueue {
    pub(super) store: Arc<Store>,
    pub(super) clock: Arc<dyn Clock>,
    /// Description for processes to which jobs are added.
    info: Option<Arc<ProcessInfo>>,
}

/// An iterator is written in groups of at most this many jobs,
const GROUP: usize = 1000;
/// this many bytes,
const GROUP_BYTES: usize = 4 << 20;
/// and what arrives within this time.
const GROUP_TIME: Duration = Duration::from_secs(1);

/// Why [`JobQueue::try_enqueue_iter`] ended early. The jobs added before stay in the queue, and the process is not
/// sealed.
#[derive(Debug)]
pub enum EnqueueError<E> {
    /// The source of the jobs failed.
    Source(E),
    /// The queue could not be written.
    Queue(Error),
}

impl<E: std::fmt::Display> std::fmt::Display for EnqueueError<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Source(error) => error.fmt(f),
            Self::Queue(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error> std::error::Error for EnqueueError<E> {}

impl JobQueue {
    /// Opens the queue in this SQLite file, and creates the file if it does not exist.
    ///
    /// # Errors
    /// When the file cannot be used: no permission, not a queue, damaged, of a newer version, or on a
    /// network file system; the message says what to do.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        Self::open_with(path, SqliteOptions::default())
    }

    /// Opens the queue with these options.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self, Error> {
        let path = path.as_ref();
        Ok(Self::on(Arc::new(Store::open(path, options)?)))
    }

    /// A queue in memory, for tests. It works with a [`Worker`](crate::Worker) like any other queue, and ends when
    /// its last clone is dropped. Only the inputs and results of batches are files, in the system's temporary folder.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use batchwright::testing::ScriptedClient;
    /// use batchwright::{Job, JobQueue, ProcessId, Request, Route, Worker};
    /// let queue = JobQueue::in_memory()?;
    /// let process = ProcessId::new();
    /// queue.enqueue(process, [Job::from(&Request::new("Name a prime.").with_id("a"))])?;
    /// let client = Arc::new(ScriptedClient::new());
    /// let worker = Worker::new(&queue).completions(Route::new(client)).until_empty(true);
    /// worker.run()?;
    /// let results: Vec<_> = queue.get_results(process).collect::<Result<_, _>>()?;
    /// assert!(results[0].is_success());
    /// # Ok::<(), batchwright::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the linked SQLite was built without in-memory databases.
    pub fn in_memory() -> Result<Self, Error> {
        let store = Store::in_memory(SqliteOptions::default())?;
        Ok(Self::on(Arc::new(store)))
    }

    /// A queue on an open store, for example one on a database server.
    pub fn on(store: Arc<Store>) -> Self {
        Self {
            clock: store.clock().unwrap_or_else(|| Arc::new(SystemClock)),
            store,
            info: None,
        }
    }

    /// Sets the clock, also that of workers; for tests. Default: the store's, else the system's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The same queue with a description of the processes to which it adds jobs, for example a display name or the
    /// file for the results. The description is written together with the jobs and replaces an earlier one.
    ///
    /// ```
    /// use batchwright::{Job, JobQueue, ProcessId, Request};
    /// use batchwright::queue::ProcessInfo;
    /// # let folder = tempfile::tempdir()?;
    /// # let queue = JobQueue::open(&folder.path().join("llm_jobs.db"))?;
    /// let process = ProcessId::new();
    /// let info = ProcessInfo::new().name("reviews of May");
    /// queue.described(info).enqueue(process, [Job::from(&Request::new("Name a prime."))])?;
    /// let known = queue.process(process)?.unwrap();
    /// assert_eq!(known.info.name.as_deref(), Some("reviews of May"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn described(&self, info: ProcessInfo) -> Self {
        Self {
            info: Some(Arc::new(info)),
            ..self.clone()
        }
    }

    /// Replaces the description of a process. Returns false if the process does not exist.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn describe(&self, process: ProcessId, info: &ProcessInfo) -> Result<bool, Error> {
        self.store.describe(process, info)
    }

    /// The path of the queue's database, or its address without the password.
    pub fn location(&self) -> String {
        self.store.location().to_owned()
    }

    /// The id of this queue. A new queue at the same path has another id; a copy has the same.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    pub fn id(&self) -> Result<String, Error> {
        Ok(self.store.id().to_owned())
    }

    /// Rejects to consume or delete the results of a process that has another collector than this queue.
    pub(super) fn check_collector(
        &self,
        process: ProcessId,
        info: &ProcessInfo,
    ) -> Result<(), Error> {
        let own = self.info.as_ref().and_then(|own| own.collector.as_ref());
        match &info.collector {
            Some(only) if own != Some(only) => Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "process {process} belongs to {only}, which collects its results; to look at them: get_results"
                ),
            )),
            _ => Ok(()),
        }
    }

    fn insert(
        &self,
        process: ProcessId,
        mut jobs: Vec<Job>,
        sealed: bool,
        part: Option<Part>,
    ) -> Result<Vec<JobId>, Error> {
        if self.store.is_shared() {
            jobs.iter_mut().try_for_each(embed_files)?;
        }
        let info = self.info.as_deref();
        let now = self.clock.wall();
        self.store
            .insert_part(process, info, jobs, sealed, part, now)
    }

    /// Adds jobs to a process in one transaction: all of them or none. The first jobs create the process. Workers can
    /// start the jobs at once, except if the process has an unsealed part before them. For more than 10,000 jobs use
    /// [`enqueue_iter`](Self::enqueue_iter), because a long transaction delays all other programs.
    ///
    /// # Errors
    /// When they could not be written, or the process was cancelled.
    pub fn enqueue(
        &self,
        process: ProcessId,
        jobs: impl Into<Vec<Job>>,
    ) -> Result<Vec<JobId>, Error> {
        self.insert(process, jobs.into(), true, None)
    }

    /// Adds any number of jobs to a process in little memory and without a long transaction. Workers start them when
    /// all are added. If this is interrupted, [`open_processes`](Self::open_processes) shows the process as unsealed:
    /// [`delete`](Self::delete) it and start again, or add the missing jobs. Returns the number of added jobs.
    ///
    /// # Errors
    /// When a job could not be written; the jobs before it stay in the queue.
    pub fn enqueue_iter(
        &self,
        process: ProcessId,
        jobs: impl IntoIterator<Item = Job>,
    ) -> Result<u64, Error> {
        let added = self.try_enqueue_iter(process, jobs.into_iter().map(Ok::<_, Error>));
        added.map_err(|error| match error {
            EnqueueError::Source(error) | EnqueueError::Queue(error) => error,
        })
    }

    /// The same for a source that can fail. If it fails, the process stays unsealed.
    ///
    /// # Errors
    /// That of the source, or of the queue.
    pub fn try_enqueue_iter<E>(
        &self,
        process: ProcessId,
        jobs: impl IntoIterator<Item = Result<Job, E>>,
    ) -> Result<u64, EnqueueError<E>> {
        self.enqueue_all(process, None, jobs)
    }

    /// The same for a request that may be sent again, also to another program over this queue: the process, whose id is
    /// [derived](ProcessId::named) from a key of the request, gets each job once. A request that was interrupted is
    /// continued, and one that was completed changes nothing, also if the process was cancelled. `request` is the hash of
    /// the request. It distinguishes another request with the same key. It is known for a day, and as long as the process
    /// exists. Returns the number of jobs of the request.
    ///
    /// # Errors
    /// That of the source, or of the queue. Its kind is [`Changed`](crate::ErrorKind::Changed) if the key was used with
    /// another request, or more than a day ago, and [`NotFound`](crate::ErrorKind::NotFound) if the process of this
    /// request is gone.
    pub fn try_enqueue_once<E>(
        &self,
        process: ProcessId,
        request: &str,
        jobs: impl IntoIterator<Item = Result<Job, E>>,
    ) -> Result<u64, EnqueueError<E>> {
        self.enqueue_all(process, Some(request), jobs)
    }

    fn enqueue_all<E>(
        &self,
        process: ProcessId,
        request: Option<&str>,
        jobs: impl IntoIterator<Item = Result<Job, E>>,
    ) -> Result<u64, EnqueueError<E>> {
        let mut group = Vec::new();
        let (mut bytes, mut count) = (0, 0);
        let mut began = Instant::now();
        let mut flush = |group: &mut Vec<Job>| {
            let part = request.map(|request| Part {
                request: request.to_owned(),
                first: count,
            });
            count += group.len() as u64;
            let jobs = std::mem::take(group);
            self.insert(process, jobs, false, part)
                .map_err(EnqueueError::Queue)
        };
        for job in jobs {
            let job = job.map_err(EnqueueError::Source)?;
            if group.is_empty() {
                began = Instant::now();
            }
            bytes += job.payload.get().len();
            group.push(job);
            if group.len() >= GROUP || bytes >= GROUP_BYTES || began.elapsed() >= GROUP_TIME {
                flush(&mut group)?;
                bytes = 0;
            }
        }
        if !group.is_empty() {
            flush(&mut group)?;
        }
        if count > 0 {
            self.seal(process).map_err(EnqueueError::Queue)?;
        }
        Ok(count)
    }

    /// Lets the jobs of an unsealed process start.
    ///
    /// # Errors
    /// When that could not be written, or there is no such process.
    pub fn seal(&self, process: ProcessId) -> Result<(), Error> {
        self.store.seal(process, self.clock.wall())
    }

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
    /// parent are included.
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
            self.store.dead_workers()?
        } else {
            Vec::new()
        };
        let infos = batches.iter().map(|batch| BatchInfo {
            attended: batch.worker.is_some_and(|worker| !dead.contains(&worker)),
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
    /// As [`cancel`](Self::cancel), and when the process has another [collector](ProcessInfo::collector).
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
        budget.replace(known.used, before, known.needed)
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
