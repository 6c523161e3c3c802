//! Requests held at a chosen point, for tests of clients that are killed there.

use std::sync::Arc;
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
    held: Arc<Held>,
    pauses: Arc<Pauses>,
}

impl Pause {
    /// Waits until the request is held; false if that does not happen before `timeout` is over.
    pub fn wait(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout.min(LONGEST);
        let mut state = self.held.state.lock();
        while !state.reached {
            let wait = self.held.changed.wait_until(&mut state, deadline);
            if wait.timed_out() {
                return state.reached;
            }
        }
        true
    }

    /// Lets the request continue.
    pub fn release(self) {}
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.held.state.lock().released = true;
        self.held.changed.notify_all();
        let mut list = self.pauses.list.lock();
        list.retain(|held| !Arc::ptr_eq(held, &self.held));
    }
}

#[derive(Debug)]
struct Held {
    point: BatchPoint,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Number of requests until the one to hold, including it.
    left: u64,
    reached: bool,
    released: bool,
}

/// All requested pauses.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    list: Mutex<Vec<Arc<Held>>>,
}

impl Pauses {
    /// Holds the `nth` request, counted from 1 and from now on, that reaches `point`.
    pub(crate) fn add(self: &Arc<Self>, point: BatchPoint, nth: u64) -> Pause {
        let held = Arc::new(Held {
            point,
            state: Mutex::new(State {
                left: nth.max(1),
                reached: false,
                released: false,
            }),
            changed: Condvar::new(),
        });
        self.list.lock().push(Arc::clone(&held));
        Pause {
            held,
            pauses: Arc::clone(self),
        }
    }

    /// Waits at `point` if this request is to be held there.
    pub(super) fn pass(&self, point: BatchPoint, gate: &Gate) {
        let here: Vec<_> = {
            let list = self.list.lock();
            let here = list.iter().filter(|held| held.point == point);
            here.map(Arc::clone).collect()
        };
        for held in here {
            let mut state = held.state.lock();
            if state.left == 0 {
                continue;
            }
            state.left -= 1;
            if state.left > 0 {
                continue;
            }
            state.reached = true;
            held.changed.notify_all();
            while !state.released && !gate.is_stopped() {
                held.changed.wait(&mut state);
            }
        }
    }

    /// Wakes all that are held, once the gate has been stopped.
    pub(crate) fn wake(&self) {
        for held in self.list.lock().iter() {
            let _state = held.state.lock();
            held.changed.notify_all();
        }
    }
}
