//! A limit for the memory that all large replies of a process take together.
//!
//! A limit per reply does not bound the memory of 256 calls in flight. Therefore a call that reads more than the first
//! [`FREE`] bytes of a reply takes the memory for it from one account of the process, and returns it when the reply
//! has been decoded. Small replies, which are nearly all, do not use the account and take no lock. A reply that must
//! wait is on the disk until then.
//!
//! No call can wait forever. A call takes from the account once and holds nothing before that, so a call that holds
//! memory never waits. Waiting calls are served in order, so small ones do not overtake a large one. If no call holds
//! memory, the first waiting call gets what it needs, even if it is more than the limit: if the limit is smaller than
//! one reply, replies are read one at a time. Results that wait to be written delay such a call for a short time.
//!
//! In addition, a process may have a measured limit for all of its memory, see [`MemoryManager::of_process`]. Calls
//! that would exceed it wait in the same queue.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::base::{Context, Error, MemoryManager};

/// The bytes of each reply that need no memory from the account.
pub(super) const FREE: u64 = 256 * 1024;

/// Memory outside of the account is released without a notification, so the first waiting call checks again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A reply that exceeds the limit waits this long for earlier results to be written. It does not wait for an output that
/// cannot be written.
const WRITE_TIME: Duration = Duration::from_secs(1);

/// The memory that all replies of a process hold, and the waiting calls.
pub(crate) struct ReplyMemory {
    state: Mutex<State>,
    changed: Condvar,
    /// The limit for all memory of the process.
    process: OnceLock<MemoryManager>,
}

struct State {
    held: u64,
    /// The maximum that was ever held.
    #[cfg(test)]
    peak: u64,
    /// The tickets of waiting calls, in order.
    line: VecDeque<u64>,
    tickets: u64,
}

impl State {
    /// Takes this many bytes if they are available or no call holds any. The limit of the process is exceeded only while
    /// no result waits to be written, or after `waited`.
    fn take(&mut self, bytes: u64, most: u64, process: &MemoryManager, waited: Duration) -> bool {
        let after = self.held.saturating_add(bytes);
        let alone = self.held == 0;
        let may_exceed = alone && (waited >= WRITE_TIME || !process.has_unwritten());
        let fits = (alone || after <= most) && process.admits(bytes, may_exceed);
        if fits {
            self.held = after;
            #[cfg(test)]
            {
                self.peak = self.peak.max(after);
            }
        }
        fits
    }
}

impl ReplyMemory {
    const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                held: 0,
                #[cfg(test)]
                peak: 0,
                line: VecDeque::new(),
                tickets: 0,
            }),
            changed: Condvar::new(),
            process: OnceLock::new(),
        }
    }

    fn process(&self) -> &MemoryManager {
        self.process.get_or_init(MemoryManager::of_process)
    }

    /// The share of one call. It waits while all shares together hold more than `most` bytes.
    pub(super) const fn share(&'static self, most: u64) -> ReplyShare {
        ReplyShare {
            memory: self,
            most,
            held: AtomicU64::new(0),
        }
    }

    fn wait(&'static self, bytes: u64, most: u64, ctx: &Context) -> Result<(), Error> {
        // Takes the lock, so that a call that has checked the context and is about to wait gets the notification.
        let _wakes = ctx.on_abort(|| {
            let _state = self.state.lock();
            self.changed.notify_all();
        });
        let mut alone_since = None;
        let mut state = self.state.lock();
        let ticket = state.tickets;
        state.tickets += 1;
        state.line.push_back(ticket);
        let result = loop {
            let first = state.line.front() == Some(&ticket);
            let alone =
                (first && state.held == 0).then(|| *alone_since.get_or_insert_with(Instant::now));
            alone_since = alone;
            let waited = alone.map_or(Duration::ZERO, |since| since.elapsed());
            if first && state.take(bytes, most, self.process(), waited) {
                break Ok(());
            }
            if let Err(ended) = has_ended(ctx) {
                break Err(ended);
            }
            let look = first.then(|| Instant::now() + LOOK_AGAIN);
            match look.into_iter().chain(ctx.deadline()).min() {
                Some(until) => {
                    let _ = self.changed.wait_until(&mut state, until);
                }
                None => self.changed.wait(&mut state),
            }
        };
        state.line.retain(|other| *other != ticket);
        // There may be enough memory for the next call too.
        self.changed.notify_all();
        result
    }
}

/// A call that waits for memory ends at an abort or its deadline. A cancelled run lets its calls finish.
fn has_ended(ctx: &Context) -> Result<(), Error> {
    let deadline = ctx.remaining().is_some_and(|left| left.is_zero());
    if ctx.is_aborted() || deadline {
        ctx.check()
    } else {
        Ok(())
    }
}

/// The memory of one call for a large reply. It is returned when the share is dropped, after the reply was decoded.
pub struct ReplyShare {
    memory: &'static ReplyMemory,
    most: u64,
    held: AtomicU64,
}

impl ReplyShare {
    /// A share of the memory of this process for large replies. It waits while all calls together would hold more than
    /// `most` bytes, unless no other call holds any.
    pub const fn of_process(most: u64) -> Self {
        static PROCESS: ReplyMemory = ReplyMemory::new();
        PROCESS.share(most)
    }

    /// The same for large requests; a call holds this share until it is answered. Requests and replies have separate
    /// accounts: a call that holds memory for its request may wait for memory for the reply, but a call that holds
    /// memory for a reply never waits.
    pub const fn of_requests(most: u64) -> Self {
        static PROCESS: ReplyMemory = ReplyMemory::new();
        PROCESS.share(most)
    }

    /// Takes the memory for a reply if it is available and no call waits.
    pub(super) fn take_now(&self, bytes: u64) -> bool {
        let mut state = self.memory.state.lock();
        let process = self.memory.process();
        let taken = state.line.is_empty() && state.take(bytes, self.most, process, Duration::ZERO);
        if taken {
            self.held.fetch_add(bytes, Ordering::Relaxed);
        }
        taken
    }

    /// Waits for the memory for a reply and takes it. Once per reply.
    ///
    /// # Errors
    /// If the context ends first.
    pub(crate) fn take(&self, bytes: u64, ctx: &Context) -> Result<(), Error> {
        self.memory.wait(bytes, self.most, ctx)?;
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Returns the memory that the reply did not need.
    pub(crate) fn keep(&self, bytes: u64) {
        let held = self.held.load(Ordering::Relaxed);
        if held > bytes {
            self.held.store(bytes, Ordering::Relaxed);
            let mut state = self.memory.state.lock();
            state.held -= held - bytes;
            self.memory.changed.notify_all();
        }
    }
}

impl Drop for ReplyShare {
    fn drop(&mut self) {
        self.keep(0);
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
