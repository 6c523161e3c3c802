//! Requests held at a chosen point, for tests of clients that are killed there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::config::LONGEST;
use crate::gate::Gate;

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
    pauses: Arc<Pauses>,
}

impl Pause {
    /// Waits until the request is held; false if that does not happen before `timeout` is over.
    pub fn wait(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout.min(LONGEST);
        let mut list = self.pauses.list.lock();
        let is_reached = |held: &Held| held.id == self.id && held.left == 0;
        while !list.iter().any(is_reached) {
            let wait = self.pauses.changed.wait_until(&mut list, deadline);
            if wait.timed_out() {
                return list.iter().any(is_reached);
            }
        }
        true
    }

    /// Lets the request continue.
    pub fn release(self) {}
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.pauses.list.lock().retain(|held| held.id != self.id);
        self.pauses.changed.notify_all();
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

/// All pauses that have not been released.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    ids: AtomicU64,
    list: Mutex<Vec<Held>>,
    changed: Condvar,
}

impl Pauses {
    pub(crate) fn add(self: &Arc<Self>, point: BatchPoint, nth: u64) -> Pause {
        let mut list = self.list.lock();
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let left = nth.max(1);
        list.push(Held { id, point, left });
        let pauses = Arc::clone(self);
        Pause { id, pauses }
    }

    /// Waits at `point` if this request is to be held there.
    pub(super) fn pass(&self, point: BatchPoint, gate: &Gate) {
        let mut list = self.list.lock();
        let mut here = Vec::new();
        for held in list
            .iter_mut()
            .filter(|held| held.point == point && held.left > 0)
        {
            held.left -= 1;
            if held.left == 0 {
                here.push(held.id);
            }
        }
        self.changed.notify_all();
        while list.iter().any(|held| here.contains(&held.id)) && !gate.is_stopped() {
            self.changed.wait(&mut list);
        }
    }

    /// Wakes all that are held, once the gate has been stopped.
    pub(crate) fn wake(&self) {
        let _list = self.list.lock();
        self.changed.notify_all();
    }
}
