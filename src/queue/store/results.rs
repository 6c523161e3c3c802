//! What hosts take, and what they decide.

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::id::{JobId, ProcessId};
use crate::queue::job::{JobReceipt, JobResult};

/// Outcomes that were read, to be acknowledged once they are saved.
#[derive(Debug)]
pub struct DeliveredResult {
    /// What to acknowledge.
    pub receipt: JobReceipt,
    /// The outcome.
    pub result: JobResult,
}

/// That nobody else takes the outcomes of a process, as long as it is held.
pub trait ConsumerLock: Send {}

struct Unshared;

impl ConsumerLock for Unshared {}

/// What hosts take, and what they decide of all jobs of a process, or of some. A part of
/// [`JobStore`](super::JobStore).
pub trait ResultStore: Send + Sync {
    /// Up to `most` outcomes of a process in the order of its jobs, beginning behind `after`, which may be gone, and
    /// no more than about `bytes` of them; always one if there is any.
    fn peek(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<DeliveredResult>, Error>;

    /// Deletes these outcomes, as far as nothing has happened to their jobs since. A sealed process
    /// whose last outcome goes is gone too. Returns how many were deleted.
    fn ack(&self, receipts: &[JobReceipt], now: Timestamp) -> Result<u64, Error>;

    /// Makes the caller the only one who takes outcomes of a process, until what is returned is dropped
    /// or the caller's process ends. An error that says who takes them when somebody else does; `who` is
    /// what is said of this one, behind the number of its process. A store that is not shared need not
    /// keep anybody out.
    fn lock_results(
        &self,
        _process: ProcessId,
        _who: &str,
    ) -> Result<Box<dyn ConsumerLock>, Error> {
        Ok(Box::new(Unshared))
    }

    /// Cancels what waits; what runs or is at a provider is not tried again, and nothing can be added.
    /// Returns how many waited. Decided at once and carried out in short transactions, as are
    /// [`retry_failed`](Self::retry_failed) and [`delete`](Self::delete); none of the three minds a process
    /// that does not exist.
    fn cancel(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error>;

    /// Cancels those of these jobs that wait, and no other. In short transactions. Returns how many.
    fn cancel_jobs(&self, jobs: &[JobId], now: Timestamp) -> Result<u64, Error>;

    /// Puts failed and cancelled jobs back with all their retries, at the first step of the route and
    /// without a history. Returns how many.
    fn retry_failed(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error>;

    /// Deletes a process with all that belongs to it; late ends of its jobs go nowhere. Returns how
    /// many jobs were deleted.
    fn delete(&self, process: ProcessId, now: Timestamp) -> Result<u64, Error>;
}
