//! Requests that wait for the end of a process: the worker's notifications wake them, so they need not poll. Their number
//! is limited, so that other requests still get connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use batchwright::ProcessId;
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::problem::Problem;

/// When a request that found no place may be sent again, in seconds.
const RETRY_AFTER: &str = "5";

/// The requests that wait now. Several with the same key wait for one process.
pub(crate) struct Waiting {
    now: Mutex<HashMap<ProcessId, Vec<Sender<()>>>>,
    connections: usize,
}

impl Waiting {
    /// Half of this number of connections may wait.
    pub fn new(connections: usize) -> Arc<Self> {
        Arc::new(Self {
            now: Mutex::default(),
            connections,
        })
    }

    /// Begins to wait for a process: before its jobs are enqueued, so that no end is missed.
    ///
    /// # Errors
    /// 503 when too many wait; it names the limit and its flag.
    pub fn begin(self: &Arc<Self>, process: ProcessId) -> Result<Waiter, Problem> {
        let mut now = self.now.lock();
        let most = (self.connections / 2).max(1);
        if now.values().map(Vec::len).sum::<usize>() >= most {
            let why = format!(
                "{most} requests wait for their answers, which is the limit: half of --max-connections ({}). Send this one \
                 again later, raise the limit, or use a batch",
                self.connections
            );
            let problem = Problem::new(503, "too_many_waiting", why);
            return Err(problem.header("retry-after", RETRY_AFTER));
        }
        let (told, heard) = bounded(1);
        now.entry(process).or_default().push(told.clone());
        Ok(Waiter {
            waiting: Arc::clone(self),
            process,
            told,
            heard,
        })
    }

    /// A job of a process has ended.
    pub fn ended(&self, process: ProcessId) {
        for told in self.now.lock().get(&process).into_iter().flatten() {
            // Full: a message is waiting already.
            let _ = told.try_send(());
        }
    }

    /// The interval at which a waiting request polls for changes that are not signalled. `alone` is the interval of a
    /// single one; it grows with their number, so that hundreds of them do not keep a processor busy.
    pub fn pause(&self, alone: Duration) -> Duration {
        let more = self.now.lock().len() / 250;
        alone * (1 + u32::try_from(more).unwrap_or(u32::MAX - 1))
    }

    /// True while a client waits.
    pub fn has(&self, process: ProcessId) -> bool {
        self.now.lock().contains_key(&process)
    }
}

/// Waits until it is dropped.
pub(crate) struct Waiter {
    waiting: Arc<Waiting>,
    pub process: ProcessId,
    told: Sender<()>,
    heard: Receiver<()>,
}

impl Waiter {
    /// True when a job has ended; false after this time.
    pub fn wait(&self, most: Duration) -> bool {
        self.heard.recv_timeout(most).is_ok()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut now = self.waiting.now.lock();
        if let Some(its) = now.get_mut(&self.process) {
            its.retain(|told| !told.same_channel(&self.told));
            if its.is_empty() {
                now.remove(&self.process);
            }
        }
    }
}
