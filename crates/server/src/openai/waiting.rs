//! Requests whose clients wait at the connection, and those that a client has left and may repeat.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use batchwright::ProcessId;
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::problem::Problem;

/// How long a process is kept for a retry after its client has disconnected. OpenAI's clients wait at most 8 seconds
/// before they retry.
const KEPT_LEFT: Duration = Duration::from_secs(15);
/// When a request that found no place may be sent again, in seconds.
const RETRY_AFTER: &str = "5";

/// The requests that wait now, and the processes whose client has disconnected and may retry.
pub(crate) struct Waiting {
    now: Mutex<Now>,
    connections: usize,
}

#[derive(Default)]
struct Now {
    /// Several requests with the same key wait for one process.
    waiters: HashMap<ProcessId, Vec<Sender<()>>>,
    /// The request of each process that was left, and until when it is kept.
    left: HashMap<ProcessId, (String, Instant)>,
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
        self.enter(&mut self.now.lock(), process)
    }

    fn enter(self: &Arc<Self>, now: &mut Now, process: ProcessId) -> Result<Waiter, Problem> {
        let most = (self.connections / 2).max(1);
        if now.waiters.values().map(Vec::len).sum::<usize>() >= most {
            let why = format!(
                "{most} requests wait for their answers, which is the limit: half of --max-connections ({}). Send this one \
                 again later, raise the limit, or use a batch",
                self.connections
            );
            let problem = Problem::new(503, "too_many_waiting", why);
            return Err(problem.header("retry-after", RETRY_AFTER));
        }
        let (told, heard) = bounded(1);
        now.waiters.entry(process).or_default().push(told.clone());
        Ok(Waiter {
            waiting: Arc::clone(self),
            process,
            told,
            heard,
            left: None,
        })
    }

    /// Goes on with an equal request that its client has left, so that the retry of one client never joins a request
    /// for which another one waits.
    ///
    /// # Errors
    /// As with [`Waiting::begin`].
    pub fn join(self: &Arc<Self>, request: &str) -> Result<Option<Waiter>, Problem> {
        let mut now = self.now.lock();
        let mut left = now.left.iter();
        let found = left.find(|(_, (left, until))| left == request && Instant::now() < *until);
        let Some((&process, _)) = found else {
            return Ok(None);
        };
        let waiter = self.enter(&mut now, process)?;
        now.left.remove(&process);
        // It may have been answered meanwhile.
        let _ = waiter.told.try_send(());
        Ok(Some(waiter))
    }

    /// A job of a process has ended.
    pub fn ended(&self, process: ProcessId) {
        for told in self.now.lock().waiters.get(&process).into_iter().flatten() {
            // Full: a message is waiting already.
            let _ = told.try_send(());
        }
    }

    /// The interval at which a waiting request polls for changes that are not signalled. `alone` is the interval of a
    /// single one; it grows with their number, so that hundreds of them do not keep a processor busy.
    pub fn pause(&self, alone: Duration) -> Duration {
        let more = self.now.lock().waiters.len() / 250;
        alone * (1 + u32::try_from(more).unwrap_or(u32::MAX - 1))
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
        let mut now = self.waiting.now.lock();
        if let Some(its) = now.waiters.get_mut(&self.process) {
            its.retain(|told| !told.same_channel(&self.told));
            if its.is_empty() {
                now.waiters.remove(&self.process);
            }
        }
        if let Some(request) = self.left.take() {
            let until = Instant::now() + KEPT_LEFT;
            now.left.insert(self.process, (request, until));
        }
    }
}
