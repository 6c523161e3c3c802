//! The queue in the text format of Prometheus.

use crate::base::error::Error;
use crate::observe::metrics::Metrics;

use super::host::JobQueue;

impl Metrics {
    /// Takes over how long the queue is now, and how old its batches are: to be called before the series are
    /// written.
    ///
    /// | series | of what |
    /// |---|---|
    /// | `batchwright_queue_length` | jobs that wait to be started, by priority |
    /// | `batchwright_batches` | batches at providers or on their way there, by provider and state |
    /// | `batchwright_oldest_batch_age_seconds` | the age of the oldest of them, by provider |
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn observe_queue(&self, queue: &JobQueue) -> Result<(), Error> {
        let waiting = queue.waiting_by_priority()?;
        let batches = queue.batches(None)?;
        self.set_queue_lengths(&waiting);
        self.set_batches(batches.iter().map(|batch| {
            let named = (batch.provider.as_str(), batch.state.as_str());
            (named, batch.age_seconds)
        }));
        Ok(())
    }
}
