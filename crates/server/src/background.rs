//! A background thread of the server: others wake it and stop it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

/// Wakes a waiting thread, and asks it to end.
pub(crate) struct Wake {
    sender: Sender<()>,
    receiver: Receiver<()>,
    stopped: AtomicBool,
}

impl Wake {
    pub fn new() -> Arc<Self> {
        let (sender, receiver) = bounded(1);
        Arc::new(Self {
            sender,
            receiver,
            stopped: AtomicBool::new(false),
        })
    }

    pub fn wake(&self) {
        // If the channel is full, the thread will wake anyway.
        let _ = self.sender.try_send(());
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Waits until the thread is woken, at most for this time. Returns whether it was woken.
    pub fn wait(&self, most: Duration) -> bool {
        self.receiver.recv_timeout(most).is_ok()
    }
}

/// A thread that is stopped and joined on drop.
pub(crate) struct Background {
    wake: Arc<Wake>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts a thread that ends when `wake` is stopped.
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub fn start(
        name: &str,
        wake: &Arc<Wake>,
        run: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let thread = Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Self {
            wake: Arc::clone(wake),
            thread: Some(thread),
        })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.wake.stopped.store(true, Ordering::SeqCst);
        self.wake.wake();
        if let Some(thread) = self.thread.take() {
            // If it panicked, the panic was logged when it happened.
            drop(thread.join());
        }
    }
}
