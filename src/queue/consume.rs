//! Consuming results: read, save, and only then delete.

use crate::base::{Error, ErrorKind, JobId, ProcessId};

use super::host::JobQueue;
use super::job::JobResult;
use super::store::{ConsumerLock, DeliveredResult, JobReceipt};

/// Results are read in chunks of this many jobs.
const CHUNK: usize = 500;
const CHUNK_BYTES: usize = 16 << 20;

/// Why [`JobQueue::consume`] ended early.
#[derive(Debug, derive_more::From)]
pub enum ConsumeError<E> {
    /// The caller could not save the results; they stay in the queue.
    Save(E),
    /// The queue could not be read, or saved results could not be deleted and will be returned again.
    #[from]
    Queue(Error),
}

impl<E: std::fmt::Display> std::fmt::Display for ConsumeError<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Save(error) => write!(f, "the results could not be saved: {error}"),
            Self::Queue(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error> std::error::Error for ConsumeError<E> {}

impl JobQueue {
    /// The results so far, in the order of the jobs, read in chunks. This deletes nothing.
    pub fn get_results(
        &self,
        process: ProcessId,
    ) -> impl Iterator<Item = Result<JobResult, Error>> + '_ {
        let (mut chunk, mut last) = (Vec::new().into_iter(), None);
        let mut has_failed = false;
        let mut next = move || {
            if chunk.len() == 0 {
                chunk = self.peek_after(process, last, CHUNK)?.into_iter();
            }
            let next: Option<DeliveredResult> = chunk.next();
            last = next.as_ref().map(|delivery| delivery.result.job_id);
            Ok(next.map(|delivery| delivery.result))
        };
        let results = std::iter::from_fn(move || {
            let next = if has_failed { None } else { next().transpose() };
            has_failed |= matches!(next, Some(Err(_)));
            next
        });
        results.fuse()
    }

    /// Passes the results so far to `save` in chunks, and deletes each chunk after `save` has returned `Ok`. If the
    /// program crashes in between, it receives the chunk again, so `save` must be idempotent; an upsert is. Open jobs
    /// stay. The process ends with its last result. Returns the number of consumed results.
    ///
    /// A process with a parent is rejected, because a job collects its results, and so is a process with another
    /// [collector](crate::queue::ProcessInfo::collector). Of the
    /// programs of one machine, one at a time can consume the results of a process of a queue in SQLite. Others get an
    /// error. A crash releases this lock. On a database server, two consumers at once may both save a result.
    ///
    /// # Errors
    /// When `save` failed, when a job collects the results, when another program consumes them (kind
    /// [`Transient`](crate::ErrorKind::Transient)), or when the queue could not be read or written.
    pub fn consume<E>(
        &self,
        process: ProcessId,
        mut save: impl FnMut(&[JobResult]) -> Result<(), E>,
    ) -> Result<u64, ConsumeError<E>> {
        let known = self.process(process)?;
        let info = known.map(|known| known.info).unwrap_or_default();
        self.check_collector(process, &info)?;
        if let Some(parent) = info.parent {
            let why = format!(
                "job {} of process {} waits for the results of process {process} and collects them; to look at \
                 them: get_results",
                parent.job_id, parent.process_id
            );
            return Err(Error::new(ErrorKind::Invalid, why).into());
        }
        let _alone = self.lock_results(process)?;
        let (mut consumed, mut last) = (0, None);
        loop {
            let chunk = self.peek_after(process, last, CHUNK)?;
            let Some(end) = chunk.last() else {
                return Ok(consumed);
            };
            last = Some(end.result.job_id);
            let (receipts, results): (Vec<_>, Vec<_>) = chunk
                .into_iter()
                .map(|delivery| (delivery.receipt, delivery.result))
                .unzip();
            save(&results).map_err(ConsumeError::Save)?;
            consumed += self.ack(&receipts)?;
        }
    }

    /// Up to `n` results with their receipts for [`ack`](Self::ack), which deletes them; for callers with their own
    /// way of saving.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn peek(&self, process: ProcessId, n: usize) -> Result<Vec<DeliveredResult>, Error> {
        self.peek_after(process, None, n)
    }

    /// Prevents others from consuming the results of a process until the returned value is dropped.
    pub(crate) fn lock_results(&self, process: ProcessId) -> Result<Option<ConsumerLock>, Error> {
        self.store.lock_results(process)
    }

    /// The same for results after a job of the process; that job need not exist any more.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn peek_after(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        n: usize,
    ) -> Result<Vec<DeliveredResult>, Error> {
        self.store.peek(process, after, n, CHUNK_BYTES)
    }

    /// Deletes saved results. If a job was requeued in between, its result stays. Returns the number of deleted
    /// results.
    ///
    /// # Errors
    /// When a job collects them, or when they could not be deleted; then they are returned again.
    pub fn ack(&self, receipts: &[JobReceipt]) -> Result<u64, Error> {
        self.store.ack(receipts, self.clock.wall())
    }
}
