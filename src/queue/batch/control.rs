//! How others reach the poller: new clients and settings, and that the store has changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::RwLock;

use crate::llm::batch::{BatchAccount, BatchClient};

use super::settings::BatchSettings;

/// Finds the client of an account, if its credential is here.
pub type BatchClients = dyn Fn(&BatchAccount) -> Option<Arc<dyn BatchClient>> + Send + Sync;

/// How others reach the poller.
pub(crate) struct BatchControl {
    /// Who takes new batches; nobody under the `sync` strategy.
    pub client: RwLock<Option<Arc<dyn BatchClient>>>,
    /// Who looks after the batches of other accounts.
    pub clients: RwLock<Option<Arc<BatchClients>>>,
    pub settings: RwLock<BatchSettings>,
    pub(super) store_changed: AtomicBool,
    pub(super) settings_changed: AtomicBool,
    waker: Sender<()>,
    pub(super) woken: Receiver<()>,
}

impl Default for BatchControl {
    fn default() -> Self {
        let (waker, woken) = bounded(1);
        Self {
            client: RwLock::default(),
            clients: RwLock::default(),
            settings: RwLock::default(),
            store_changed: AtomicBool::new(true),
            settings_changed: AtomicBool::new(false),
            waker,
            woken,
        }
    }
}

impl BatchControl {
    /// Replaces the settings. What is held may be decided by them.
    pub(crate) fn set(&self, settings: BatchSettings) {
        let mut known = self.settings.write();
        if *known == settings {
            return;
        }
        *known = settings;
        drop(known);
        self.settings_changed.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Has the poller look at the store.
    pub(crate) fn wake(&self) {
        self.store_changed.store(true, Ordering::SeqCst);
        let _ = self.waker.try_send(());
    }
}
