//! How others reach the poller: new clients and settings, and that the store has changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::llm::batch::{BatchClient, BatchClients};

use crate::queue::live::{LiveSetup, WorkerSetup};

use super::settings::BatchSettings;

/// How others reach the poller.
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

    /// Wakes the poller for as long as it is there.
    pub(super) fn waker(&self) -> impl Fn() + Send + Sync + use<> {
        let waker = self.waker.clone();
        move || {
            let _ = waker.try_send(());
        }
    }

    pub(super) fn settings(&self) -> BatchSettings {
        self.setup.now().settings.batches
    }

    /// Who takes new batches; nobody under the `sync` strategy.
    pub(super) fn client(&self) -> Option<Arc<dyn BatchClient>> {
        self.setup.now().batches.clone()
    }

    /// Who looks after the batches of other accounts.
    pub(super) fn clients(&self) -> Option<Arc<BatchClients>> {
        self.setup.now().batch_clients.clone()
    }

    /// Changes what holds. What is held may be decided by other settings.
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

    /// Has the poller look at the store.
    pub(crate) fn wake(&self) {
        self.store_changed.store(true, Ordering::SeqCst);
        let _ = self.waker.try_send(());
    }
}
