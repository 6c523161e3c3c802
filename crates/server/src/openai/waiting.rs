//! Requests that wait for the end of a process: the worker's notifications wake them, so they need not poll. Also the
//! processes whose client has disconnected and may retry.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use batchwright::ProcessId;
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};

use crate::records::Hash;

/// How long a process is kept for a retry after its client has disconnected. OpenAI's clients wait at most 8 seconds
/// before they retry.
const KEPT: Duration = Duration::from_secs(15);

/// Requests that wait for a process, and processes whose client has disconnected.
#[derive(Default)]
pub(crate) struct Waiting {
    now: Mutex<Now>,
    /// Notified when a client leaves a process.
    left: Condvar,
}

#[derive(Default)]
struct Now {
    waiters: HashMap<ProcessId, Waited>,
    /// The request of each process that was left, and until when it is kept.
    left: HashMap<ProcessId, (Hash, Instant)>,
}

/// A process that a request waits for.
struct Waited {
    /// Wakes the request.
    told: Sender<()>,
    has_ended: Arc<AtomicBool>,
    /// The request, if its client may retry.
    request: Option<Hash>,
}

impl Waiting {
    /// Begins to wait for a process: before its jobs are enqueued, so that no end is missed. With the hash of the
    /// request, if its client may retry.
    pub fn begin(self: &Arc<Self>, process: ProcessId, request: Option<Hash>) -> Waiter {
        self.enter(&mut self.now.lock(), process, request)
    }

    fn enter(self: &Arc<Self>, now: &mut Now, process: ProcessId, request: Option<Hash>) -> Waiter {
        let (told, heard) = bounded(1);
        let has_ended: Arc<AtomicBool> = Arc::default();
        let waited = Waited {
            told,
            has_ended: Arc::clone(&has_ended),
            request,
        };
        now.waiters.insert(process, waited);
        Waiter {
            waiting: Arc::clone(self),
            process,
            heard,
            has_ended,
            may_retry: false,
        }
    }

    /// Goes on with an equal request that its client has left, so that the retry of one client never joins a request
    /// for which another one waits. `patience` limits the wait for a disconnect that the server has not noticed yet.
    pub fn join(self: &Arc<Self>, request: Hash, patience: Duration) -> Option<Waiter> {
        let deadline = Instant::now() + patience;
        let mut now = self.now.lock();
        loop {
            let mut left = now.left.iter();
            let fits = |(_, (hash, until)): &(_, &(Hash, Instant))| {
                *hash == request && Instant::now() < *until
            };
            if let Some(process) = left.find(fits).map(|(process, _)| *process) {
                now.left.remove(&process);
                return Some(self.enter(&mut now, process, Some(request)));
            }
            // They look whether their clients are still there.
            let mut is_waited_for = false;
            for waited in now.waiters.values() {
                if waited.request == Some(request) {
                    is_waited_for = true;
                    let _ = waited.told.try_send(());
                }
            }
            if !is_waited_for || self.left.wait_until(&mut now, deadline).timed_out() {
                return None;
            }
        }
    }

    /// A job of a process has ended.
    pub fn ended(&self, process: ProcessId) {
        if let Some(waited) = self.now.lock().waiters.get(&process) {
            waited.has_ended.store(true, Ordering::SeqCst);
            // Full: a message is waiting already.
            let _ = waited.told.try_send(());
        }
    }

    /// True while a client waits, or may retry.
    pub fn has(&self, process: ProcessId) -> bool {
        let mut now = self.now.lock();
        now.left.retain(|_, (_, until)| Instant::now() < *until);
        now.waiters.contains_key(&process) || now.left.contains_key(&process)
    }
}

/// Waits until it is dropped.
pub(crate) struct Waiter {
    waiting: Arc<Waiting>,
    pub process: ProcessId,
    heard: Receiver<()>,
    has_ended: Arc<AtomicBool>,
    /// The client has disconnected, and its process is kept for a retry.
    pub may_retry: bool,
}

impl Waiter {
    /// True when a job has ended, or it should check whether its client is there; false after this time.
    pub fn wait(&self, most: Duration) -> bool {
        self.heard.recv_timeout(most).is_ok()
    }

    /// Whether a job has ended since the last time.
    pub fn take_ended(&self) -> bool {
        self.has_ended.swap(false, Ordering::SeqCst)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut now = self.waiting.now.lock();
        let waited = now.waiters.remove(&self.process);
        if let Some(request) = waited.and_then(|waited| waited.request)
            && self.may_retry
        {
            let until = Instant::now() + KEPT;
            now.left.insert(self.process, (request, until));
            self.waiting.left.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_joins_an_equal_request_whose_client_is_gone_and_only_one_does() {
        let waiting = Arc::new(Waiting::default());
        let [first, second] = [ProcessId::new(), ProcessId::new()];
        let mut leaves = waiting.begin(first, Some([1; 32]));
        let stays = waiting.begin(second, Some([1; 32]));
        let join = |hash, patience| waiting.join(hash, patience);
        assert!(join([2; 32], Duration::from_secs(30)).is_none());
        assert!(join([1; 32], Duration::ZERO).is_none());
        assert!(stays.wait(Duration::ZERO), "it looks for its client");
        let joined = std::thread::scope(|scope| {
            let retry = scope.spawn(|| join([1; 32], Duration::from_secs(30)));
            assert!(leaves.wait(Duration::from_secs(30)));
            leaves.may_retry = true;
            drop(leaves);
            retry.join().unwrap()
        });
        assert_eq!(joined.as_ref().map(|joined| joined.process), Some(first));
        assert!(join([1; 32], Duration::ZERO).is_none());
        drop(joined);
        assert!(!waiting.has(first) && waiting.has(second));
    }
}
