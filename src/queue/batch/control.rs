//! How other threads reach the poller: new clients and settings, and changes of the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::llm::batch::{BatchClient, BatchClients};

use crate::queue::live::{LiveSetup, WorkerSetup};

use super::settings::BatchSettings;

/// Control channel of the poller.
pub(crate) struct BatchControl {
    setup: Arc<LiveSetup>,
    pub(super) store_changed: AtomicBool,
    pub(super) settings_changed: AtomicBool,
    waker: Sender<()>,
    pub(super) woken: Receiver<()>,
}

impl BatchControl {
    pub(crate) fn new(setup: Arc<LiveSetup>) -> Self {
        let (waker, woken) = bounded(1);
        Self {
            setup,
            store_changed: AtomicBool::new(true),
            settings_changed: AtomicBool::new(false),
            waker,
            woken,
        }
    }

    /// Wakes the poller while it exists.
    pub(super) fn waker(&self) -> impl Fn() + Send + Sync + use<> {
        let waker = self.waker.clone();
        move || {
            let _ = waker.try_send(());
        }
    }

    pub(super) fn settings(&self) -> BatchSettings {
        self.setup.now().settings.batches
    }

    /// The client for new batches; `None` under the `sync` strategy.
    pub(super) fn client(&self) -> Option<Arc<dyn BatchClient>> {
        self.setup.now().batches.clone()
    }

    /// Finds the clients of batches of other accounts.
    pub(super) fn clients(&self) -> Option<Arc<BatchClients>> {
        self.setup.now().batch_clients.clone()
    }

    /// Changes the setup. The new settings may decide about batches on hold.
    pub(crate) fn change(
        &self,
        change: impl FnOnce(&mut WorkerSetup),
    ) -> (Arc<WorkerSetup>, Arc<WorkerSetup>) {
        let (before, now) = self.setup.change(change);
        if before.settings.batches != now.settings.batches {
            self.settings_changed.store(true, Ordering::SeqCst);
        }
        self.wake();
        (before, now)
    }

    #[cfg(test)]
    pub(super) fn set(&self, settings: BatchSettings) {
        if self.settings() != settings {
            self.change(|setup| setup.settings.batches = settings);
        }
    }

    #[cfg(test)]
    pub(super) fn set_client(&self, client: Option<Arc<dyn BatchClient>>) {
        self.change(|setup| setup.batches = client);
    }

    /// Makes the poller read the store.
    pub(crate) fn wake(&self) {
        self.store_changed.store(true, Ordering::SeqCst);
        let _ = self.waker.try_send(());
    }
}
