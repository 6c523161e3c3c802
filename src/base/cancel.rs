//! Cancellation in two steps, with a deadline and a grace period, passed to every blocking call.
//!
//! *Cancel* asks a run to start nothing more and finish the calls in flight; *abort* ends calls in the middle of a
//! read. The context that a client gets has only the second step: for one call, being cancelled means to return now.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use parking_lot::Mutex;

use super::error::{Error, ErrorKind};

const CANCELLED: u8 = 1;
const ABORTED: u8 = 2;

type Hook = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Node {
    level: AtomicU8,
    hooks: Mutex<Hooks>,
}

#[derive(Default)]
struct Hooks {
    next: u64,
    list: Vec<(u64, u8, Hook)>,
}

impl Node {
    fn raise(&self, level: u8) {
        let before = self.level.fetch_max(level, Ordering::SeqCst);
        if before >= level {
            return;
        }
        // Called without the lock, because a hook may subscribe or drop a subscription.
        let due: Vec<Hook> = self
            .hooks
            .lock()
            .list
            .iter()
            .filter(|(_, at, _)| *at > before && *at <= level)
            .map(|(_, _, hook)| hook.clone())
            .collect();
        due.iter().for_each(|hook| hook());
    }

    fn subscribe(self: &Arc<Self>, level: u8, hook: Hook) -> CancelHook {
        let id = {
            let mut hooks = self.hooks.lock();
            hooks.next += 1;
            let id = hooks.next;
            hooks.list.push((id, level, hook.clone()));
            id
        };
        // The level may have been raised just before the hook was registered; hooks tolerate a second call.
        if self.level.load(Ordering::SeqCst) >= level {
            hook();
        }
        CancelHook {
            node: Arc::downgrade(self),
            id,
        }
    }
}

/// Removes its hook when dropped.
#[must_use = "dropping the subscription removes the hook"]
pub struct CancelHook {
    node: Weak<Node>,
    id: u64,
}

impl Drop for CancelHook {
    fn drop(&mut self) {
        if let Some(node) = self.node.upgrade() {
            node.hooks.lock().list.retain(|(id, ..)| *id != self.id);
        }
    }
}

/// Wakes a thread that waits for something else when a context is cancelled; see [`Context::cancel_signal`].
pub(crate) struct CancelSignal {
    /// For a `select!` together with other channels.
    pub receiver: Receiver<()>,
    _hook: CancelHook,
}

impl CancelSignal {
    /// Waits for this time, or until the context is cancelled.
    pub fn wait(&self, time: Duration) {
        let _ = self.receiver.recv_timeout(time);
    }
}

/// Cancellation, deadline and grace of a piece of work; clones share them.
///
/// ```
/// use batchwright::Context;
/// let ctx = Context::new();
/// let handle = ctx.clone();
/// handle.cancel();
/// assert!(ctx.is_cancelled());
/// ```
#[derive(Clone)]
pub struct Context {
    node: Arc<Node>,
    deadline: Option<Instant>,
    grace: Option<Duration>,
    // Keeps the connections to the parent while this context exists.
    _ties: Option<Arc<dyn Send + Sync>>,
    /// The run of a context for calls, and its deadline.
    run: Option<(Arc<Node>, Option<Instant>)>,
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

impl Context {
    /// A new context, without a deadline and with a grace period of 30 s.
    pub fn new() -> Self {
        Self {
            node: Arc::default(),
            deadline: None,
            grace: None,
            _ties: None,
            run: None,
        }
    }

    /// The same context with a deadline; of two deadlines the earlier one applies. Nothing starts after it. Calls of a
    /// run that are in flight then end within their own time-out, because their answers are paid, or within the
    /// [grace period](Self::with_grace) if one was set; a single call, such as [`Route::complete`](crate::Route::complete),
    /// ends at the deadline. Default: none.
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(self.deadline.map_or(deadline, |own| own.min(deadline)));
        self
    }

    /// The same context with a [deadline](Self::with_deadline) `timeout` from now. Default: none.
    pub fn with_timeout(self, timeout: Duration) -> Self {
        let deadline = Instant::now().checked_add(timeout);
        match deadline {
            Some(deadline) => self.with_deadline(deadline),
            None => self,
        }
    }

    /// The same context with another grace period: the time that calls in flight have after [`cancel`](Self::cancel)
    /// or after the deadline before they are aborted. Default: 30 s after `cancel`, and their own time-out after the
    /// deadline.
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// Starts nothing more; calls in flight may finish within the grace period.
    pub fn cancel(&self) {
        self.node.raise(CANCELLED);
    }

    /// Ends everything now: connections are shut down in the middle of a read. Only a DNS lookup, or a connection
    /// attempt of at most 10 s, must finish first.
    pub fn abort(&self) {
        self.node.raise(ABORTED);
    }

    /// Whether [`cancel`](Self::cancel) or [`abort`](Self::abort) was called.
    pub fn is_cancelled(&self) -> bool {
        self.node.level.load(Ordering::SeqCst) >= CANCELLED
    }

    /// Whether [`abort`](Self::abort) was called.
    pub fn is_aborted(&self) -> bool {
        self.node.level.load(Ordering::SeqCst) >= ABORTED
    }

    /// The deadline, if there is one.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Time left until the deadline; `None` without one.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline
            .map(|d| d.saturating_duration_since(Instant::now()))
    }

    /// The grace period after [`cancel`](Self::cancel).
    pub fn grace(&self) -> Duration {
        self.grace.unwrap_or(Duration::from_secs(30))
    }

    /// The grace period, if one was set.
    pub(crate) fn own_grace(&self) -> Option<Duration> {
        self.grace
    }

    /// Fails if the work should end now.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] or [`ErrorKind::DeadlineExceeded`].
    pub fn check(&self) -> Result<(), Error> {
        if self.is_cancelled() {
            return Err(Error::cancelled());
        }
        match self.remaining() {
            Some(Duration::ZERO) => Err(overdue()),
            _ => Ok(()),
        }
    }

    /// Calls `hook` when the context is cancelled (at once if it is already). The hook must be
    /// quick and may be called twice.
    pub fn on_cancel(&self, hook: impl Fn() + Send + Sync + 'static) -> CancelHook {
        self.node.subscribe(CANCELLED, Arc::new(hook))
    }

    /// Calls `hook` when the context is aborted (at once if it is already). The hook must be
    /// quick and may be called twice.
    pub fn on_abort(&self, hook: impl Fn() + Send + Sync + 'static) -> CancelHook {
        self.node.subscribe(ABORTED, Arc::new(hook))
    }

    /// A channel that gets a message when this context is cancelled.
    pub(crate) fn cancel_signal(&self) -> CancelSignal {
        let (sender, receiver) = bounded(1);
        let hook = self.on_cancel(move || {
            let _ = sender.try_send(());
        });
        CancelSignal {
            receiver,
            _hook: hook,
        }
    }

    /// A context that ends with this one, but can also be ended by itself.
    pub fn child(&self) -> Self {
        let node: Arc<Node> = Arc::default();
        let ties = Arc::new([self.tie(&node, CANCELLED), self.tie(&node, ABORTED)]);
        Self {
            node,
            _ties: Some(ties),
            ..self.clone()
        }
    }

    fn tie(&self, child: &Arc<Node>, level: u8) -> CancelHook {
        let child = Arc::downgrade(child);
        let raise = move || {
            if let Some(child) = child.upgrade() {
                child.raise(level);
            }
        };
        self.node.subscribe(level, Arc::new(raise))
    }

    /// A context for calls: it is cancelled only when this one is aborted, so calls in flight have the grace period, also
    /// after the deadline; it can also be cancelled by itself.
    pub(crate) fn for_calls(&self) -> Self {
        let node: Arc<Node> = Arc::default();
        let ties = Arc::new([self.tie(&node, ABORTED)]);
        Self {
            node,
            _ties: Some(ties),
            run: Some((self.run.clone()).unwrap_or_else(|| (self.node.clone(), self.deadline))),
            deadline: None,
            ..self.clone()
        }
    }

    /// Fails if this context or that of the run has ended: calls that were not sent yet are not sent any more.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] or [`ErrorKind::DeadlineExceeded`].
    pub(crate) fn check_run(&self) -> Result<(), Error> {
        self.check()?;
        match &self.run {
            Some((run, _)) if run.level.load(Ordering::SeqCst) >= CANCELLED => {
                Err(Error::cancelled())
            }
            Some((_, Some(deadline))) if *deadline <= Instant::now() => Err(overdue()),
            _ => Ok(()),
        }
    }
}

fn overdue() -> Error {
    Error::new(ErrorKind::DeadlineExceeded, "the deadline passed")
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("cancelled", &self.is_cancelled())
            .field("aborted", &self.is_aborted())
            .field("remaining", &self.remaining())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn a_call_context_outlives_cancel_and_ends_with_abort() {
        let ctx = Context::new();
        let call = ctx.for_calls();
        ctx.cancel();
        assert!(ctx.is_cancelled() && !call.is_cancelled());
        ctx.abort();
        assert!(call.is_cancelled());
        assert_eq!(call.check().unwrap_err().kind(), ErrorKind::Cancelled);
    }

    #[test]
    fn hooks_run_once_per_step_and_also_when_late() {
        let ctx = Context::new();
        let seen = Arc::new(AtomicUsize::new(0));
        let count = seen.clone();
        let sub = ctx.on_cancel(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        ctx.cancel();
        ctx.cancel();
        ctx.abort();
        assert_eq!(seen.load(Ordering::SeqCst), 1);
        drop(sub);
        let count = seen.clone();
        let _late = ctx.on_cancel(move || {
            count.fetch_add(10, Ordering::SeqCst);
        });
        assert_eq!(seen.load(Ordering::SeqCst), 11);
    }

    #[test]
    fn a_dropped_call_context_leaves_no_hook_behind() {
        let ctx = Context::new();
        drop(ctx.for_calls());
        assert!(ctx.node.hooks.lock().list.is_empty());
    }

    #[test]
    fn a_passed_deadline_is_an_error_of_its_kind() {
        let ctx = Context::new().with_timeout(Duration::ZERO);
        assert_eq!(ctx.check().unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    }
}
