//! How others reach the poller: new clients and settings, and that the store has changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::RwLock;

use crate::llm::batch::{BatchAccount, BatchClient};

use super::settings::BatchSettings;

/// Finds the client of an account, if its credential is here.
pub type BatchClients = dyn Fn(&BatchAccount) -> Option<Arc<dyn BatchClient>> + Send + Sync;

/// How others reach the poller.
pub(crate) struct Post {
    /// Who takes new batches; nobody under the `sync` strategy.
    pub client: RwLock<Option<Arc<dyn BatchClient>>>,
    /// Who looks after the batches of other accounts.
    pub clients: RwLock<Option<Arc<BatchClients>>>,
    pub settings: RwLock<BatchSettings>,
    /// The store has changed.
    pub(super) news: AtomicBool,
    /// The settings have.
    pub(super) changed: AtomicBool,
    bell: Sender<()>,
    pub(super) rung: Receiver<()>,
}

impl Default for Post {
    fn default() -> Self {
        let (bell, rung) = bounded(1);
        Self {
            client: RwLock::default(),
            clients: RwLock::default(),
            settings: RwLock::default(),
            news: AtomicBool::new(true),
            changed: AtomicBool::new(false),
            bell,
            rung,
        }
    }
}

impl Post {
    /// Replaces the settings. What is held may be decided by them.
    pub(crate) fn set(&self, settings: BatchSettings) {
        let mut held = self.settings.write();
        if *held == settings {
            return;
        }
        *held = settings;
        drop(held);
        self.changed.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Has the poller look at the store.
    pub(crate) fn ring(&self) {
        self.news.store(true, Ordering::SeqCst);
        let _ = self.bell.try_send(());
    }
}

/// The client that looks after batches of an account.
pub(super) fn client_of(
    known: &mut HashMap<BatchAccount, Arc<dyn BatchClient>>,
    post: &Post,
    account: &BatchAccount,
) -> Option<Arc<dyn BatchClient>> {
    if let Some(client) = known.get(account) {
        return Some(client.clone());
    }
    let current = post.client.read().clone();
    let current = current.filter(|client| client.account() == *account);
    let client = current.or_else(|| {
        let clients = post.clients.read().clone();
        clients.and_then(|clients| clients(account))
    })?;
    known.insert(account.clone(), client.clone());
    Some(client)
}
