//! Batches that were not sent, when nobody continues them.

use crate::base::{Error, ProcessId};
use crate::queue::host::JobQueue;
use crate::queue::registration::Registration;
use crate::queue::store::StoredBatch;

use super::machine::Record;

impl JobQueue {
    /// Closes the batches of a process that were not sent and have no active worker: their jobs wait again, and can
    /// be cancelled.
    ///
    /// # Errors
    /// If the queue cannot be read or written.
    pub(crate) fn dissolve_unsent(&self, process: ProcessId) -> Result<(), Error> {
        let (store, clock) = (&self.store, &self.clock);
        let registration = Registration::new(store.clone(), clock.clone())?;
        let mut unsent = |batch: &StoredBatch| {
            let own = batch.process_id == Some(process);
            own && Record::read(batch).is_some_and(|record| record.is_unsent())
        };
        let worker = registration.worker;
        let batches = store.adopt_batches(worker, &mut unsent, &[process], clock.wall())?;
        for batch in batches {
            store.give_back(worker, batch.no, None, None, clock.wall())?;
            store.close_batch(worker, batch.no, clock.wall())?;
        }
        Ok(())
    }
}
