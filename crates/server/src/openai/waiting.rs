//! Requests that wait for the end of a process: the worker's notifications wake them, so they need not poll.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use batchwright::ProcessId;
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

/// Those who wait.
#[derive(Default)]
pub(crate) struct Waiting(Mutex<HashMap<ProcessId, Sender<()>>>);

impl Waiting {
    /// Begins to wait for a process: before its jobs are enqueued, so that no end is missed.
    pub fn begin(self: &Arc<Self>, process: ProcessId) -> Waiter {
        let (told, heard) = bounded(1);
        self.0.lock().insert(process, told);
        Waiter {
            waiting: Arc::clone(self),
            process,
            heard,
        }
    }

    /// A job of a process has ended.
    pub fn ended(&self, process: ProcessId) {
        if let Some(told) = self.0.lock().get(&process) {
            // Full: it is told already.
            let _ = told.try_send(());
        }
    }

    /// True while somebody waits.
    pub fn has(&self, process: ProcessId) -> bool {
        self.0.lock().contains_key(&process)
    }
}

/// Waits until it is dropped.
pub(crate) struct Waiter {
    waiting: Arc<Waiting>,
    process: ProcessId,
    heard: Receiver<()>,
}

impl Waiter {
    /// True when a job has ended, false after this time.
    pub fn wait(&self, most: Duration) -> bool {
        self.heard.recv_timeout(most).is_ok()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.waiting.0.lock().remove(&self.process);
    }
}
