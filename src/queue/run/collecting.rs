//! The part of a run that takes results from the queue into its output.

use crate::base::WarnOnce;
use crate::bulk::checkpoint::Line;
use crate::engine::dispatch::StopReason;
use crate::queue::job::JobStatus;
use crate::queue::store::DeliveredResult;

use super::execution::{Execution, Trouble, waiting};

/// Results that are saved at once.
const CHUNK: usize = 500;

impl Execution {
    /// Cancels what has come back to the queue, from an expired batch say, and is not asked for.
    pub(super) fn release(&self) -> Result<(), Trouble> {
        if self.unwanted.is_empty() {
            return Ok(());
        }
        let counts = self.queue.process(self.process)?.map(|now| now.counts);
        if counts.is_some_and(|counts| counts.pending > 0) {
            self.queue.cancel_jobs(&self.unwanted)?;
        }
        Ok(())
    }

    /// Saves all that has come back, however long a full disk makes it wait.
    pub(super) fn collect_all(&mut self) -> Result<(), StopReason> {
        let mut trouble = WarnOnce::default();
        loop {
            match self.collect(false) {
                Ok(()) => return Ok(()),
                Err(Trouble::Lasting(reason)) => return Err(reason),
                Err(Trouble::Passing(error)) => trouble.warn(waiting(&error)),
            }
            self.pause()?;
        }
    }

    /// Saves what has come back and then deletes it from the queue. The last result stays while a worker runs or a batch
    /// is open: without it the process would be gone, and its batches would belong to no process.
    pub(super) fn collect(&mut self, keep_last: bool) -> Result<(), Trouble> {
        if self.queue.peek(self.process, 1)?.is_empty() {
            return Ok(());
        }
        let _alone = self
            .queue
            .lock_results(self.process, "a run, to its output")?;
        loop {
            let mut chunk = self.queue.peek(self.process, CHUNK)?;
            let counts = self.queue.process(self.process)?.map(|now| now.counts);
            let left = counts.map_or(0, |counts| counts.total - counts.consumed);
            if chunk.len() as u64 >= left
                && (keep_last || !self.queue.batches(Some(self.process))?.is_empty())
            {
                chunk.pop();
            }
            if chunk.is_empty() {
                return Ok(());
            }
            let lines: Vec<Line> = chunk.iter().filter_map(line).collect();
            let saved = self.checkpoint.save(lines)?;
            if !saved.is_empty() {
                self.record.saved(saved)?;
            }
            if chunk.len() as u64 >= left {
                self.note_spent()?;
            }
            let receipts: Vec<_> = chunk.iter().map(|delivery| delivery.receipt).collect();
            self.queue.ack(&receipts)?;
        }
    }
}

/// The result line of a job; `None` if it was cancelled, because it was never sent.
fn line(delivery: &DeliveredResult) -> Option<Line> {
    let result = &delivery.result;
    (result.status != JobStatus::Cancelled).then(|| Line {
        id: result.item_id.clone().unwrap_or_default(),
        request_hash: result.request_hash.clone(),
        success: result.is_success(),
        text: result.line(),
    })
}
