//! Waits of a connection's thread: for a latency, or while all answers are held. All waits end when the simulator
//! stops. For latencies, each thread parks separately, because hundreds of timers on one condition variable would wait
//! for its lock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

#[derive(Debug, Default)]
pub(super) struct Gate {
    stopped: AtomicBool,
    held: AtomicBool,
    lock: Mutex<()>,
    opened: Condvar,
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
        let mut guard = self.lock.lock();
        while self.is_held() && !self.is_stopped() {
            self.opened.wait(&mut guard);
        }
        true
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    pub(super) fn hold(&self) {
        self.held.store(true, Ordering::Release);
    }

    pub(super) fn release(&self) {
        let _guard = self.lock.lock();
        self.held.store(false, Ordering::Release);
        self.opened.notify_all();
    }

    pub(super) fn stop(&self) {
        let _guard = self.lock.lock();
        self.stopped.store(true, Ordering::Release);
        self.opened.notify_all();
    }

    /// Takes back a stop, once all that it ended has ended.
    pub(super) fn restart(&self) {
        self.stopped.store(false, Ordering::Release);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}
