//! How the thread that sends webhooks is woken, and what it goes by.

use std::sync::atomic::AtomicBool;

use crossbeam_channel::{Receiver, Sender, bounded};

/// What others need of the thread that sends.
pub(crate) struct Doorbell {
    /// Whether messages may go to addresses that are not public, and unencrypted.
    pub private: bool,
    pub(super) stopped: AtomicBool,
    bell: Sender<()>,
    pub(super) heard: Receiver<()>,
}

impl Doorbell {
    /// For a server.
    pub fn new(private: bool) -> Self {
        let (bell, heard) = bounded(1);
        Self {
            private,
            stopped: AtomicBool::new(false),
            bell,
            heard,
        }
    }

    /// Has the thread look at once.
    pub fn ring(&self) {
        // Full: it is to look already.
        let _ = self.bell.try_send(());
    }
}
