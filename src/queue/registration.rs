//! A registered worker of a store.

use std::sync::Arc;

use crate::base::{Clock, Error};

use super::store::{Store, WorkerId};

/// Unregisters the worker when dropped, also after a panic. Otherwise its jobs and batches would stay its own until its
/// OS process ends.
pub(crate) struct Registration {
    pub store: Arc<Store>,
    pub clock: Arc<dyn Clock>,
    pub worker: WorkerId,
}

impl Registration {
    /// Registers a worker. Jobs of crashed workers are taken over first, because they come before newer ones.
    pub(crate) fn new(store: Arc<Store>, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        store.reclaim(clock.wall())?;
        let worker = store.register_worker()?;
        Ok(Self {
            store,
            clock,
            worker,
        })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Err(error) = self.store.unregister_worker(self.worker, self.clock.wall()) {
            log::warn!("the worker's jobs and batches return to the queue later: {error}");
        }
    }
}
