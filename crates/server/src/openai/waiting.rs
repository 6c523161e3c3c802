//! Requests that wait for the end of a process: the worker's notifications wake them, so they need not poll. Also the
//! processes whose client has disconnected and may retry.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use batchwright::ProcessId;
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

/// How long a process is kept for a retry after its client has disconnected. OpenAI's clients wait at most 8 seconds
/// before they retry.
const KEPT: Duration = Duration::from_secs(15);

/// Requests that wait for a process, and processes whose client has disconnected.
#[derive(Default)]
pub(crate) struct Waiting(Mutex<Now>);

#[derive(Default)]
struct Now {
    /// Several requests with the same key wait for one process.
    waiters: HashMap<ProcessId, Vec<Sender<()>>>,
    /// The request of each process that was left, and until when it is kept.
    left: HashMap<ProcessId, (String, Instant)>,
}

impl Waiting {
    /// Begins to wait for a process: before its jobs are enqueued, so that no end is missed.
    pub fn begin(self: &Arc<Self>, process: ProcessId) -> Waiter {
        self.enter(&mut self.0.lock(), process)
    }

    fn enter(self: &Arc<Self>, now: &mut Now, process: ProcessId) -> Waiter {
        let (told, heard) = bounded(1);
        now.waiters.entry(process).or_default().push(told.clone());
        Waiter {
            waiting: Arc::clone(self),
            process,
            told,
            heard,
            left: None,
        }
    }

    /// Goes on with an equal request that its client has left, so that the retry of one client never joins a request
    /// for which another one waits.
    pub fn join(self: &Arc<Self>, request: &str) -> Option<Waiter> {
        let mut now = self.0.lock();
        let mut left = now.left.iter();
        let (process, _) =
            left.find(|(_, (left, until))| left == request && Instant::now() < *until)?;
        let process = *process;
        now.left.remove(&process);
        Some(self.enter(&mut now, process))
    }

    /// A job of a process has ended.
    pub fn ended(&self, process: ProcessId) {
        for told in self.0.lock().waiters.get(&process).into_iter().flatten() {
            // Full: a message is waiting already.
            let _ = told.try_send(());
        }
    }

    /// True while a client waits, or may retry.
    pub fn has(&self, process: ProcessId) -> bool {
        let mut now = self.0.lock();
        now.left.retain(|_, (_, until)| Instant::now() < *until);
        now.waiters.contains_key(&process) || now.left.contains_key(&process)
    }
}

/// Waits until it is dropped.
pub(crate) struct Waiter {
    waiting: Arc<Waiting>,
    pub process: ProcessId,
    told: Sender<()>,
    heard: Receiver<()>,
    /// The request, if its client has disconnected and may retry.
    pub left: Option<String>,
}

impl Waiter {
    /// True when a job has ended; false after this time.
    pub fn wait(&self, most: Duration) -> bool {
        self.heard.recv_timeout(most).is_ok()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut now = self.waiting.0.lock();
        if let Some(its) = now.waiters.get_mut(&self.process) {
            its.retain(|told| !told.same_channel(&self.told));
            if its.is_empty() {
                now.waiters.remove(&self.process);
            }
        }
        if let Some(request) = self.left.take() {
            let until = Instant::now() + KEPT;
            now.left.insert(self.process, (request, until));
        }
    }
}
