//! Taking results out of the queue: look, save, and only then delete.

use std::iter::FusedIterator;

use crate::base::error::{Error, ErrorKind};
use crate::base::id::{JobId, ProcessId};

use super::host::JobQueue;
use super::job::JobResult;
use super::store::{ConsumerLock, DeliveredResult, JobReceipt};

/// Results are read in chunks of this many jobs, or bytes.
const CHUNK: usize = 500;
const CHUNK_BYTES: usize = 16 << 20;

/// Why [`JobQueue::consume`] ended early.
#[derive(Debug)]
pub enum ConsumeError<E> {
    /// The caller could not save; what it was given stays in the queue.
    Save(E),
    /// The queue could not be read, or what was saved could not be deleted and will come again.
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
    /// The outcomes so far, in the order of the jobs; nothing is deleted. They are read in chunks as
    /// the iterator goes on.
    pub fn get_results(&self, process: ProcessId) -> ProcessResults<'_> {
        ProcessResults {
            queue: self,
            process,
            chunk: Vec::new().into_iter(),
            last: None,
            ended: false,
        }
    }

    /// Hands the outcomes so far to `save`, a chunk at a time, and deletes each chunk after `save` has
    /// returned `Ok`: in that order, so that nothing is lost. When the process dies in between, the
    /// chunk comes again; so `save` must bear being given the same results twice (an insert that
    /// replaces does). Whatever has no outcome yet stays. When nothing is left of a process, it is gone.
    /// Returns how many results were consumed.
    ///
    /// Those that a job waits for, in a process with a parent, are refused: that job
    /// collects them. One at a time: while somebody consumes the results of a process, others are refused and told by
    /// whom. A death ends that.
    ///
    /// # Errors
    /// When `save` failed, when a job collects them, when somebody else is consuming them (of kind
    /// [`Transient`](crate::ErrorKind::Transient)), or the queue could not be read or written.
    pub fn consume<E>(
        &self,
        process: ProcessId,
        save: impl FnMut(&[JobResult]) -> Result<(), E>,
    ) -> Result<u64, ConsumeError<E>> {
        self.consume_as(process, "", save)
    }

    /// The same; others are told what is said here in brackets, such as where the results go.
    ///
    /// # Errors
    /// As [`consume`](Self::consume).
    pub fn consume_as<E>(
        &self,
        process: ProcessId,
        who: &str,
        mut save: impl FnMut(&[JobResult]) -> Result<(), E>,
    ) -> Result<u64, ConsumeError<E>> {
        if let Some(parent) = self
            .process(process)
            .map_err(ConsumeError::Queue)?
            .and_then(|process| process.info.parent)
        {
            let why = format!(
                "job {} of process {} waits for the results of process {process} and collects them; to look at \
                 them: get_results",
                parent.job_id, parent.process_id
            );
            return Err(ConsumeError::Queue(Error::new(ErrorKind::Invalid, why)));
        }
        let _alone = self
            .lock_results(process, who)
            .map_err(ConsumeError::Queue)?;
        let (mut consumed, mut last) = (0, None);
        loop {
            let chunk = self.peek_after(process, last, CHUNK);
            let chunk = chunk.map_err(ConsumeError::Queue)?;
            let Some(end) = chunk.last() else {
                return Ok(consumed);
            };
            last = Some(end.result.job_id);
            let (receipts, results): (Vec<_>, Vec<_>) = chunk
                .into_iter()
                .map(|delivery| (delivery.receipt, delivery.result))
                .unzip();
            save(&results).map_err(ConsumeError::Save)?;
            consumed += self.ack(&receipts).map_err(ConsumeError::Queue)?;
        }
    }

    /// Up to `n` outcomes with what [`ack`](Self::ack) needs to delete them; for callers that save in
    /// a way of their own.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    pub fn peek(&self, process: ProcessId, n: usize) -> Result<Vec<DeliveredResult>, Error> {
        self.peek_after(process, None, n)
    }

    /// Keeps others from consuming the results of a process as long as what is returned is held.
    pub(crate) fn lock_results(
        &self,
        process: ProcessId,
        who: &str,
    ) -> Result<Box<dyn ConsumerLock>, Error> {
        let who = match who {
            "" => String::new(),
            who => format!(" ({who})"),
        };
        self.store.lock_results(process, &who)
    }

    /// The same from behind a job of the process, which may be gone.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    pub fn peek_after(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        n: usize,
    ) -> Result<Vec<DeliveredResult>, Error> {
        self.store.peek(process, after, n, CHUNK_BYTES)
    }

    /// Deletes outcomes that were saved. One whose job has been put back in between stays. Returns
    /// how many were deleted.
    ///
    /// # Errors
    /// When a job collects them; when they could not be deleted: then they come again.
    pub fn ack(&self, receipts: &[JobReceipt]) -> Result<u64, Error> {
        self.store.ack(receipts, self.clock.wall())
    }
}

/// The outcomes of a process; see [`JobQueue::get_results`].
pub struct ProcessResults<'q> {
    queue: &'q JobQueue,
    process: ProcessId,
    chunk: std::vec::IntoIter<DeliveredResult>,
    last: Option<JobId>,
    ended: bool,
}

impl Iterator for ProcessResults<'_> {
    type Item = Result<JobResult, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        if self.chunk.len() == 0 {
            match self.queue.peek_after(self.process, self.last, CHUNK) {
                Ok(chunk) => self.chunk = chunk.into_iter(),
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
        match self.chunk.next() {
            Some(delivery) => {
                self.last = Some(delivery.result.job_id);
                Some(Ok(delivery.result))
            }
            None => {
                self.ended = true;
                None
            }
        }
    }
}

impl FusedIterator for ProcessResults<'_> {}

impl From<Error> for ConsumeError<Error> {
    fn from(error: Error) -> Self {
        Self::Queue(error)
    }
}
