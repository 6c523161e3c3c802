//! What the Batch endpoint has beside the queue, below all that answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::storage::Storage;
use super::waiting::Waiting;

/// What the Batch endpoint needs beside the queue.
pub(crate) struct OpenAi {
    pub(super) storage: Storage,
    pub waiting: Arc<Waiting>,
    waker: Sender<()>,
    woken: Receiver<()>,
    stopped: AtomicBool,
}

impl OpenAi {
    /// With these files.
    pub fn new(storage: Storage) -> Self {
        let (waker, woken) = bounded(1);
        Self {
            storage,
            waiting: Arc::default(),
            waker,
            woken,
            stopped: AtomicBool::new(false),
        }
    }

    /// Has [`Progress`](super::Progress) look at once.
    pub fn wake(&self) {
        // Full: it is to look already.
        let _ = self.waker.try_send(());
    }

    /// Has [`Progress`](super::Progress) end.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.wake();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Waits until it is woken, or for this time. True when it was woken.
    pub(super) fn rest(&self, most: Duration) -> bool {
        self.woken.recv_timeout(most).is_ok()
    }
}
