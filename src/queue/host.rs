//! The host's side of a queue: opening it, and adding jobs. `operate.rs` has what is done with them then, `consume.rs` fetches
//! results.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::info::ProcessInfo;
use super::job::Job;
use super::prompt_job::embed_files;
use super::store::sqlite::SqliteOptions;
use super::store::{Part, Store};
use crate::base::trusted_time::TrustedTime;
use crate::base::{Clock, Error, ErrorKind, JobId, ProcessId, SystemClock};

/// A durable queue of jobs. Clones share it.
///
/// Jobs belong to processes. A process is a group of jobs that a caller submits under a [`ProcessId`] of its choice.
/// After a crash the caller finds the jobs by this id, or among the [open processes](Store::open_processes). Once a
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

/// What needs neither a clock nor a description is read and written through the [`Store`].
impl Deref for JobQueue {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl From<EnqueueError<Self>> for Error {
    fn from(error: EnqueueError<Self>) -> Self {
        match error {
            EnqueueError::Source(error) | EnqueueError::Queue(error) => error,
        }
    }
}

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
    /// all are added. If this is interrupted, [`open_processes`](Store::open_processes) shows the process as unsealed:
    /// [`delete`](Self::delete) it and start again, or add the missing jobs. Returns the number of added jobs.
    ///
    /// # Errors
    /// When a job could not be written; the jobs before it stay in the queue.
    pub fn enqueue_iter(
        &self,
        process: ProcessId,
        jobs: impl IntoIterator<Item = Job>,
    ) -> Result<u64, Error> {
        Ok(self.try_enqueue_iter(process, jobs.into_iter().map(Ok::<_, Error>))?)
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

    /// What the time is at least and at most: a clock that jumps by more than a day is believed once it has gone on for a
    /// day. What is known of it is kept in the queue.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn trusted_time(&self) -> Result<TrustedTime, Error> {
        self.store.trusted_time(self.clock.wall())
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
}
