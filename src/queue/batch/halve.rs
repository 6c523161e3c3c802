//! Divides a batch in one transaction of the store, which records both halves.

use crate::base::Error;
use crate::queue::store::BatchNo;

use super::machine::{Event, ItemsSettled, new_label};
use super::poller::Poller;

impl Poller<'_> {
    /// Divides a batch into two halves. Returns whether that was possible.
    pub(super) fn divide(&mut self, no: BatchNo) -> bool {
        let Some(open) = self.batches.get(&no) else {
            return false;
        };
        let whole = open.record.clone();
        let wall = self.clock.wall();
        let (half, rest) = whole.halves([new_label(), new_label()], wall);
        let at = match self.key_of_nth(no, half.intent.items) {
            Ok(Some(at)) => at,
            // Jobs were removed from it; the rest is sent like any other batch.
            Ok(None) => {
                self.feed(no, Event::Settled(Ok(ItemsSettled::Jobs(0))));
                return false;
            }
            Err(error) => {
                self.feed(no, Event::Settled(Err(error)));
                return false;
            }
        };
        let (worker, store) = (self.options.context.worker, &self.options.context.store);
        let new = match store.split_batch(worker, no, at, &half.text(), &rest.text(), wall) {
            Ok(new) => new,
            Err(error) => {
                self.feed(no, Event::Settled(Err(error)));
                return false;
            }
        };
        if let Some(open) = self.batches.get_mut(&no) {
            open.record = rest;
            open.due = self.clock.now();
            let (process, lane) = (open.batch.process_id, open.batch.lane.clone());
            let half = self.begun(new, half, process, lane);
            self.batches.insert(new, half);
        }
        true
    }

    /// The key of the job at index `n` of a batch.
    fn key_of_nth(&self, no: BatchNo, mut n: u64) -> Result<Option<i64>, Error> {
        let mut after = None;
        loop {
            let jobs = self
                .options
                .context
                .store
                .batch_jobs(no, after, 1000, 8 << 20)?;
            let Some(last) = jobs.last() else {
                return Ok(None);
            };
            if let Some(job) = usize::try_from(n).ok().and_then(|n| jobs.get(n)) {
                return Ok(Some(job.receipt.job));
            }
            n -= jobs.len() as u64;
            after = Some(last.receipt.job);
        }
    }
}
