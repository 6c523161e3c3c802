//! The memory that the large replies of a process take together.
//!
//! A limit for each reply does not limit what 256 calls hold at once. So whoever reads a reply beyond
//! its first [`FREE`] bytes takes what the reply needs from one account of the process, and gives it
//! back once the reply has been made into an answer. Small replies, nearly all that there are, take
//! no part and touch no lock.
//!
//! Nobody can wait for ever. A call takes from the account once, and holds nothing of it until then:
//! whoever holds never waits. Those who wait are served in the order in which they came, so that none
//! is passed over for smaller ones. And if nobody holds anything, the first of them gets what it needs,
//! however much that is: a setting that is smaller than one reply lets one at a time pass.
//!
//! Besides the account, a process may have a ceiling for all of its memory, which is measured: see
//! [`MemoryManager::of_process`]. What is above it waits here in the same line.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::base::cancel::Context;
use crate::base::error::Error;
use crate::base::memory::MemoryManager;

/// What any reply may have of memory beside the account.
pub(super) const FREE: u64 = 256 * 1024;

/// Memory of others is given back without a word, so whoever is first in the line looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What all replies of a process hold, and who waits.
pub(crate) struct ReplyMemory {
    state: Mutex<State>,
    changed: Condvar,
    /// Whose ceiling holds beside the account.
    process: OnceLock<MemoryManager>,
}

struct State {
    held: u64,
    /// The most that was ever held.
    #[cfg(test)]
    peak: u64,
    /// Those who wait, first come first served.
    line: VecDeque<u64>,
    tickets: u64,
}

impl State {
    /// Takes so many bytes, if there are so many or nobody holds any.
    fn take(&mut self, bytes: u64, most: u64, process: &MemoryManager) -> bool {
        let after = self.held.saturating_add(bytes);
        let alone = self.held == 0;
        let fits = (alone || after <= most) && process.admits(bytes, alone);
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

    /// One of its own, for a test that looks at it.
    #[cfg(test)]
    pub(super) fn apart() -> &'static Self {
        Box::leak(Box::new(Self::new()))
    }

    fn process(&self) -> &MemoryManager {
        self.process.get_or_init(MemoryManager::of_process)
    }

    /// The share of one call, which waits while all of them hold more than `most` bytes.
    pub(super) const fn share(&'static self, most: u64) -> ReplyShare {
        ReplyShare {
            memory: self,
            most,
            held: AtomicU64::new(0),
        }
    }

    fn wait(&'static self, bytes: u64, most: u64, ctx: &Context) -> Result<(), Error> {
        // Under the lock: who is about to wait has looked at the context, and must not miss it.
        let _wakes = ctx.on_abort(|| {
            let _state = self.state.lock();
            self.changed.notify_all();
        });
        let mut state = self.state.lock();
        let ticket = state.tickets;
        state.tickets += 1;
        state.line.push_back(ticket);
        let result = loop {
            let first = state.line.front() == Some(&ticket);
            if first && state.take(bytes, most, self.process()) {
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
        // The next one may find what it needs as well.
        self.changed.notify_all();
        result
    }
}

/// Being asked to start nothing more does not end a call, as it does not end its reading.
fn has_ended(ctx: &Context) -> Result<(), Error> {
    let deadline = ctx.remaining().is_some_and(|left| left.is_zero());
    if ctx.is_aborted() || deadline {
        ctx.check()
    } else {
        Ok(())
    }
}

/// The part of one call in the memory for large replies, given back when it is dropped: by whoever
/// makes the reply into an answer, once that is done.
pub struct ReplyShare {
    memory: &'static ReplyMemory,
    most: u64,
    held: AtomicU64,
}

impl ReplyShare {
    /// A share in what this process has for large replies. It is not taken while all calls together
    /// would hold more than `most` bytes, other than by a single one.
    pub const fn of_process(most: u64) -> Self {
        static PROCESS: ReplyMemory = ReplyMemory::new();
        PROCESS.share(most)
    }

    /// The same for requests that are large, which whoever makes one holds until it is answered. The
    /// two are apart: a call that has its request in memory may have to wait for room for the reply,
    /// and who holds that room waits for nothing.
    pub const fn of_requests(most: u64) -> Self {
        static PROCESS: ReplyMemory = ReplyMemory::new();
        PROCESS.share(most)
    }

    /// Takes what a reply needs, if it is there and nobody waits for it; once for a reply.
    pub(super) fn take_now(&self, bytes: u64) -> bool {
        let mut state = self.memory.state.lock();
        let taken = state.line.is_empty() && state.take(bytes, self.most, self.memory.process());
        self.note(taken, bytes);
        taken
    }

    /// Takes what a reply needs, and waits for it; once for a reply.
    ///
    /// # Errors
    /// When the context ends first.
    pub(crate) fn take(&self, bytes: u64, ctx: &Context) -> Result<(), Error> {
        let result = self.memory.wait(bytes, self.most, ctx);
        self.note(result.is_ok(), bytes);
        result
    }

    fn note(&self, taken: bool, bytes: u64) {
        if taken {
            self.held.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Gives back what the reply did not need after all.
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
