//! Waits of a connection's thread: for a latency, while all answers are held, or at a chosen point, for tests of clients
//! that are killed there. All waits end when the simulator stops. For latencies, each thread parks separately, because
//! hundreds of timers on one condition variable would wait for its lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::config::LONGEST;

/// A point on the way of a request for files or batches. *Arrived*: the request has been read whole
/// and has had no effect. *Done*: it has had its effect, and no reply has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BatchPoint {
    /// An input file has been received.
    UploadArrived,
    /// An input file has been stored.
    UploadDone,
    /// A batch is about to be created.
    CreateArrived,
    /// A batch has been created.
    CreateDone,
    /// A request for one batch has arrived.
    StatusArrived,
    /// A request for a page of batches has arrived.
    ListArrived,
    /// Half of the bytes of a batch's results have been sent.
    DownloadHalf,
    /// A batch is about to be cancelled.
    CancelArrived,
    /// A batch has been cancelled.
    CancelDone,
    /// A file or a batch is about to be deleted.
    DeleteArrived,
    /// A file or a batch has been deleted.
    DeleteDone,
}

/// A request that is held, or will be, at a [`BatchPoint`]; made by
/// [`Simulator::pause_at`](crate::Simulator::pause_at). Dropping it lets the request continue: it has its effect then,
/// even if its client has disconnected.
#[derive(Debug)]
#[must_use = "dropping it releases the request"]
pub struct Pause {
    id: u64,
    gate: Arc<Gate>,
}

impl Pause {
    /// Waits until the request is held; false if that does not happen before `timeout` is over.
    pub fn wait(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout.min(LONGEST);
        let mut pauses = self.gate.pauses.lock();
        let is_reached = |held: &Held| held.id == self.id && held.left == 0;
        let waits = |pauses: &mut Vec<Held>| !pauses.iter().any(is_reached);
        let changed = &self.gate.changed;
        changed.wait_while_until(&mut pauses, waits, deadline);
        pauses.iter().any(is_reached)
    }

    /// Lets the request continue.
    pub fn release(self) {}
}

impl Drop for Pause {
    fn drop(&mut self) {
        let mut pauses = self.gate.pauses.lock();
        pauses.retain(|held| held.id != self.id);
        self.gate.changed.notify_all();
    }
}

/// A pause that has not been released.
#[derive(Debug)]
struct Held {
    id: u64,
    point: BatchPoint,
    /// Number of requests until the one to hold, including it.
    left: u64,
}

#[derive(Debug, Default)]
pub(super) struct Gate {
    stopped: AtomicBool,
    held: AtomicBool,
    ids: AtomicU64,
    /// All pauses that have not been released. Its lock also protects changes of the flags.
    pauses: Mutex<Vec<Held>>,
    changed: Condvar,
}

impl Gate {
    /// Waits until `deadline`, or until the stop; the stopping thread must unpark this one.
    pub(super) fn wait_until(&self, deadline: Instant) {
        while !self.is_stopped() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left);
        }
    }

    /// Waits while answers are held; returns whether it had to.
    pub(super) fn pass(&self) -> bool {
        if !self.is_held() {
            return false;
        }
        let mut pauses = self.pauses.lock();
        let waits = |_: &mut Vec<Held>| self.is_held() && !self.is_stopped();
        self.changed.wait_while(&mut pauses, waits);
        true
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    pub(super) fn hold(&self) {
        self.held.store(true, Ordering::Release);
    }

    pub(super) fn release(&self) {
        let _pauses = self.pauses.lock();
        self.held.store(false, Ordering::Release);
        self.changed.notify_all();
    }

    pub(super) fn stop(&self) {
        let _pauses = self.pauses.lock();
        self.stopped.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Holds the `nth` request from now on that reaches `point`.
    pub(super) fn pause_at(self: &Arc<Self>, point: BatchPoint, nth: u64) -> Pause {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let left = nth.max(1);
        self.pauses.lock().push(Held { id, point, left });
        let gate = Arc::clone(self);
        Pause { id, gate }
    }

    /// Waits at `point` if this request is to be held there.
    pub(super) fn reach(&self, point: BatchPoint) {
        let mut pauses = self.pauses.lock();
        let mut here = Vec::new();
        let ours = |held: &&mut Held| held.point == point && held.left > 0;
        for held in pauses.iter_mut().filter(ours) {
            held.left -= 1;
            if held.left == 0 {
                here.push(held.id);
            }
        }
        self.changed.notify_all();
        let is_here = |held: &Held| here.contains(&held.id);
        let waits = |pauses: &mut Vec<Held>| pauses.iter().any(is_here) && !self.is_stopped();
        self.changed.wait_while(&mut pauses, waits);
    }
}
