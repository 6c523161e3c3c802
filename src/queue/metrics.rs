//! Prometheus metrics of the queue.

use crate::base::error::Error;
use crate::observe::metrics::Metrics;

use super::host::JobQueue;

impl Metrics {
    /// Updates the metrics of the queue's length and its batches; call it before the metrics are written.
    ///
    /// | series | content |
    /// |---|---|
    /// | `batchwright_queue_length` | jobs that wait for their start, by priority |
    /// | `batchwright_batches` | batches at providers or being submitted, by provider and state |
    /// | `batchwright_oldest_batch_age_seconds` | age of the oldest of these batches, by provider |
    ///
    /// # Errors
    /// If the queue cannot be read.
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

    /// Removes the metrics of processes that are no longer in the queue because all their results were consumed. For
    /// programs that run long and count the processes of others.
    ///
    /// # Errors
    /// If the queue cannot be read.
    pub fn forget_ended_processes(&self, queue: &JobQueue) -> Result<(), Error> {
        for process in self.processes() {
            if queue.process(process)?.is_none() {
                self.forget_process(process);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ProcessId;
    use crate::queue::job::Job;

    #[test]
    fn the_length_of_the_queue_is_told_by_priority_and_gone_when_it_is_empty() {
        let (queue, metrics) = (JobQueue::in_memory().unwrap(), Metrics::new());
        let process = ProcessId::new();
        let jobs = [3, 9, 3].map(|priority| Job::new("k", &"x").unwrap().priority(priority));
        queue.enqueue(process, &jobs).unwrap();
        let text = |metrics: &Metrics| {
            metrics.observe_queue(&queue).unwrap();
            metrics.text().unwrap()
        };
        let told = text(&metrics);
        for (priority, jobs) in [(3, 2), (9, 1)] {
            let line = format!("batchwright_queue_length{{priority=\"{priority}\"}} {jobs}\n");
            assert!(told.contains(&line), "{told}");
        }
        queue.cancel(process).unwrap();
        let told = text(&metrics);
        assert!(!told.contains("batchwright_queue_length{"), "{told}");
    }
}
