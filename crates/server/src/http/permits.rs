//! Permits for large JSON bodies, which are in memory as a whole with what is parsed from them: only a few at once.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::problem::Problem;

/// Bodies up to this length need no permit.
pub(super) const SMALL: u64 = 1 << 20;
/// Permits.
const MOST: usize = 4;
/// How long a request waits for one.
const PATIENCE: Duration = Duration::from_secs(30);
/// Interval at which a waiting request checks whether its client is still connected.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Default)]
pub(super) struct Permits {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    taken: usize,
    closed: bool,
}

impl Permits {
    /// Takes a permit; waits for one.
    ///
    /// # Errors
    /// 503 when none is free in time, 499 when the client is gone before one is.
    pub fn take(&self, is_gone: impl Fn() -> bool) -> Result<Permit<'_>, Problem> {
        let mut state = self.state.lock();
        let deadline = Instant::now() + PATIENCE;
        while state.taken == MOST {
            if state.closed || Instant::now() >= deadline {
                let why = format!(
                    "{MOST} other requests with large bodies are being received: send this one again later"
                );
                return Err(Problem::new(503, "busy", why).header("retry-after", "2"));
            }
            let look = deadline.min(Instant::now() + LOOK);
            if self.changed.wait_until(&mut state, look).timed_out()
                && MutexGuard::unlocked(&mut state, &is_gone)
            {
                return Err(Problem::new(499, "client_closed_request", "nobody waits"));
            }
        }
        state.taken += 1;
        Ok(Permit(self))
    }

    /// Ends all waits.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }
}

/// A permit, returned when it is dropped.
pub(super) struct Permit<'p>(&'p Permits);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.state.lock().taken -= 1;
        self.0.changed.notify_one();
    }
}
