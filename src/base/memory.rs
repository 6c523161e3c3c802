//! A limit for the memory of the OS process, measured instead of estimated.
//!
//! A caller that is about to read something into memory requests capacity for it, and holds that until the data is
//! dropped. Capacity is available while the measured memory of the process, plus requested memory that is not used
//! yet, is below the limit.
//!
//! No caller waits for ever. Callers are served in the order of their requests, so that small items do not overtake
//! a large one. While no caller holds capacity, the first one may continue, whatever the process uses. So if the
//! limit is below the size of one item, or of the program itself, items pass one at a time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::cancel::Context;
use super::error::Error;

/// Default limit: 500 MiB.
pub(crate) const DEFAULT_CEILING: u64 = 500 << 20;
/// A measurement is reused for this long.
const FRESH: Duration = Duration::from_millis(5);
/// Interval of checks while waiting. Polling is needed because freed memory sends no notification.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A caller that exceeds the limit waits this long for earlier results to be written. It does not wait for an output that
/// cannot be written.
const WRITE_TIME: Duration = Duration::from_secs(1);
/// The part of the capacity that a batch's items may fill; the rest is for data made from them.
const BATCH_PART: u64 = 2;
/// Prompts and results up to this size, in bytes, need no separate capacity.
const SMALL_PROMPT: u64 = 256 << 10;
/// Copies of a prompt while it is read and sent: its record, the request, and the body of the call.
const PROMPT_COPIES: u64 = 3;

/// Keeps the memory of an OS process below a limit: as usage approaches the limit, batches shrink and readers wait.
/// Clones share one account.
///
/// It measures the resident set of the whole process, so the memory of the rest of the program counts too.
///
/// ```
/// use batchwright::{Context, progress::MemoryManager};
/// let memory = MemoryManager::new(500_000_000);
/// let mut room = memory.wait_for_memory(4096, &Context::new())?;
/// let text = vec![0_u8; 4096];
/// room.filled(); // From here on it is measured.
/// assert_eq!(memory.get_optimal_batch_size(50, 4096), 50);
/// drop((text, room)); // Waiting callers may continue.
/// # Ok::<(), batchwright::Error>(())
/// ```
#[derive(Clone, derive_more::Debug)]
#[debug("MemoryManager({} bytes)", self.ceiling())]
pub struct MemoryManager(Arc<Inner>);

struct Inner {
    ceiling: AtomicU64,
    measure: Box<dyn Fn() -> Option<u64> + Send + Sync>,
    state: Mutex<State>,
    changed: Condvar,
    /// Number of large results that are not written yet.
    unwritten: AtomicUsize,
    /// The manager of the OS process, if this one counts a part of its memory.
    whole: Option<MemoryManager>,
}

#[derive(Default)]
struct State {
    /// Memory at the last measurement, plus the memory requested since.
    used: u64,
    measured_at: Option<Instant>,
    /// Requested, and not used yet.
    promised: u64,
    /// All requested memory. It serves as the estimate if nothing can be measured.
    held: u64,
    holders: usize,
    /// Waiting callers, in order.
    line: VecDeque<u64>,
    tickets: u64,
    warned: bool,
}

/// Used memory and limit of an OS process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryUse {
    /// Used bytes, including requested ones that are not used yet.
    pub used: u64,
    /// Limit in bytes.
    pub ceiling: u64,
}

impl MemoryUse {
    /// Bytes that are left.
    pub fn room(self) -> u64 {
        self.ceiling.saturating_sub(self.used)
    }
}

/// Capacity for data in memory, returned when it is dropped.
#[derive(derive_more::Debug)]
#[debug("MemoryHold({bytes} bytes)")]
#[must_use = "dropped, the room is given back"]
pub struct MemoryHold {
    memory: MemoryManager,
    bytes: u64,
    promised: u64,
}

/// A limit of 500 MiB.
impl Default for MemoryManager {
    fn default() -> Self {
        Self::new(DEFAULT_CEILING)
    }
}

impl MemoryManager {
    /// A manager with this limit in bytes.
    pub fn new(ceiling: u64) -> Self {
        let measure = || memory_stats::memory_stats().map(|stats| stats.physical_mem as u64);
        Self::measuring(ceiling, Box::new(measure), None)
    }

    /// A manager of a part of the memory of `whole`: what is requested of it counts, and nothing is measured. Its
    /// callers are limited by `whole`, too, so that they may exceed that only one at a time.
    pub(crate) fn counting(ceiling: u64, whole: Self) -> Self {
        Self::measuring(ceiling, Box::new(|| None), Some(whole))
    }

    fn measuring(
        ceiling: u64,
        measure: Box<dyn Fn() -> Option<u64> + Send + Sync>,
        whole: Option<Self>,
    ) -> Self {
        Self(Arc::new(Inner {
            whole,
            ceiling: AtomicU64::new(ceiling),
            measure,
            state: Mutex::default(),
            changed: Condvar::new(),
            unwritten: AtomicUsize::new(0),
        }))
    }

    /// The manager of the whole OS process. Large replies and files in prompts wait for it, and your program can use
    /// it too. Default: no limit, because a library does not know what its host needs.
    pub fn of_process() -> Self {
        static PROCESS: OnceLock<MemoryManager> = OnceLock::new();
        PROCESS.get_or_init(|| Self::new(u64::MAX)).clone()
    }

    /// Sets another limit, in bytes, for all clones.
    pub fn set_ceiling(&self, ceiling: u64) {
        self.0.ceiling.store(ceiling, Ordering::Relaxed);
        self.0.changed.notify_all();
    }

    fn ceiling(&self) -> u64 {
        self.0.ceiling.load(Ordering::Relaxed)
    }

    /// Whether a caller of a part may read this many bytes. One that is `alone` may exceed the limit, but waits a while
    /// for results to be written before.
    fn admits(&self, bytes: u64, alone: Option<Duration>) -> bool {
        let may_exceed = alone.is_some_and(|waited| waited >= WRITE_TIME || !self.has_unwritten());
        // Without a limit nothing is measured.
        self.ceiling() == u64::MAX || self.fits(&mut self.0.state.lock(), bytes, may_exceed)
    }

    /// The current memory of the OS process. Takes about ten microseconds.
    pub fn check_memory(&self) -> MemoryUse {
        let mut state = self.0.state.lock();
        self.measure(&mut state);
        MemoryUse {
            used: state.used,
            ceiling: self.ceiling(),
        }
    }

    fn measure(&self, state: &mut State) {
        state.used = match (self.0.measure)() {
            Some(resident) => resident.saturating_add(state.promised),
            None => state.held,
        };
        state.measured_at = Some(Instant::now());
    }

    /// Waits for capacity for this many bytes. If no other caller holds capacity, it is available at once; if that
    /// exceeds the limit, a warning is logged once.
    ///
    /// Request the whole amount of an item at once: a caller that holds capacity and waits for more can block others that do
    /// the same.
    ///
    /// # Errors
    /// If the context is cancelled or its deadline passes first.
    pub fn wait_for_memory(&self, bytes: u64, ctx: &Context) -> Result<MemoryHold, Error> {
        match self.try_for_memory(bytes) {
            Some(hold) => Ok(hold),
            None => self.wait(bytes, || ctx.check()),
        }
    }

    /// The same while the context is neither aborted nor past its deadline: a cancelled run lets its calls finish.
    pub(crate) fn wait_for_call(&self, bytes: u64, ctx: &Context) -> Result<MemoryHold, Error> {
        self.wait(bytes, || {
            let is_late = ctx.remaining().is_some_and(|left| left.is_zero());
            if ctx.is_aborted() || is_late {
                ctx.check()
            } else {
                Ok(())
            }
        })
    }

    /// Capacity for this many bytes, if it is available and nobody waits.
    pub(crate) fn try_for_memory(&self, bytes: u64) -> Option<MemoryHold> {
        let mut state = self.0.state.lock();
        let taken = state.line.is_empty() && self.take(&mut state, bytes, Duration::ZERO);
        taken.then(|| self.hold(bytes))
    }

    fn hold(&self, bytes: u64) -> MemoryHold {
        MemoryHold {
            memory: self.clone(),
            bytes,
            promised: bytes,
        }
    }

    /// Waits for capacity to read and send prompts whose records have `bytes` bytes together. Small prompts need
    /// none, nor does a process without a limit.
    ///
    /// # Errors
    /// As [`wait_for_memory`](Self::wait_for_memory).
    pub(crate) fn wait_for_prompts(
        &self,
        bytes: u64,
        ctx: &Context,
    ) -> Result<Option<MemoryHold>, Error> {
        if bytes <= SMALL_PROMPT || self.ceiling() == u64::MAX {
            return Ok(None);
        }
        let bytes = bytes.saturating_mul(PROMPT_COPIES);
        self.wait_for_memory(bytes, ctx).map(Some)
    }

    /// Records that a result of this size waits to be written, until the returned value is dropped. Small results are not
    /// recorded, nor are those of a process without a limit.
    pub(crate) fn holds_result(&self, bytes: usize) -> Option<UnwrittenResult> {
        if bytes as u64 <= SMALL_PROMPT || self.ceiling() == u64::MAX {
            return None;
        }
        self.0.unwritten.fetch_add(1, Ordering::Relaxed);
        Some(UnwrittenResult(self.clone()))
    }

    /// Whether large results wait to be written. Then memory will be released soon.
    fn has_unwritten(&self) -> bool {
        self.0.unwritten.load(Ordering::Relaxed) > 0
    }

    /// Maximum size in bytes of the record of one prompt under the limit.
    pub(crate) fn largest_prompt(&self) -> u64 {
        (self.ceiling() / PROMPT_COPIES).max(SMALL_PROMPT)
    }

    fn wait(&self, bytes: u64, check: impl Fn() -> Result<(), Error>) -> Result<MemoryHold, Error> {
        let mut alone_since = None;
        let mut state = self.0.state.lock();
        let ticket = state.tickets;
        state.tickets += 1;
        state.line.push_back(ticket);
        let result = loop {
            let first = state.line.front() == Some(&ticket);
            alone_since = alone_since.filter(|_| first && state.holders == 0);
            let waited = alone_since.get_or_insert_with(Instant::now).elapsed();
            if first && self.take(&mut state, bytes, waited) {
                break Ok(self.hold(bytes));
            }
            if let Err(ended) = check() {
                break Err(ended);
            }
            let _ = self.0.changed.wait_for(&mut state, LOOK_AGAIN);
        };
        state.line.retain(|other| *other != ticket);
        // The next caller may find enough capacity as well.
        self.0.changed.notify_all();
        result
    }

    /// Takes capacity if it is available, or if nobody holds any.
    fn take(&self, state: &mut State, bytes: u64, waited: Duration) -> bool {
        let alone = state.holders == 0;
        let whole = self.0.whole.as_ref();
        let fits = self.fits(state, bytes, alone)
            && whole.is_none_or(|whole| whole.admits(bytes, alone.then_some(waited)));
        if fits {
            state.used = state.used.saturating_add(bytes);
            state.promised += bytes;
            state.held += bytes;
            state.holders += 1;
        }
        fits
    }

    fn fits(&self, state: &mut State, bytes: u64, alone: bool) -> bool {
        let ceiling = self.ceiling();
        let fits = |state: &State| state.used.saturating_add(bytes) <= ceiling;
        let fresh = state.measured_at.is_some_and(|at| at.elapsed() < FRESH);
        if !fresh || !fits(state) {
            self.measure(state);
        }
        let fits = fits(state);
        // A part of the memory has a limit that nobody sets.
        if !fits && alone && self.0.whole.is_none() {
            self.warn(state, bytes);
        }
        fits || alone
    }

    fn warn(&self, state: &mut State, bytes: u64) {
        let numbers = [bytes, state.used, self.ceiling()];
        let [bytes, used, ceiling] = numbers.map(|bytes| bytes.div_ceil(1_000_000));
        if !std::mem::replace(&mut state.warned, true) {
            log::warn!(
                "memory limit reached ({used} MB used, {bytes} MB more needed, limit {ceiling} MB): large prompts and \
                 replies are now processed one at a time; to go faster, raise the memory limit"
            );
        }
    }

    /// Number of items of this size to take at once: `wanted`, but fewer if they would fill more than half of the
    /// remaining capacity, and at least 1.
    pub fn get_optimal_batch_size(&self, wanted: usize, item_bytes: u64) -> usize {
        let items = self.check_memory().room() / BATCH_PART / item_bytes.max(1);
        usize::try_from(items)
            .unwrap_or(usize::MAX)
            .min(wanted)
            .max(1)
    }
}

impl MemoryHold {
    /// Records that the data was read: from now on it is measured, and no longer counts as requested.
    pub fn filled(&mut self) {
        self.still_needs(0);
    }

    /// Records that all but `bytes` bytes were read.
    fn still_needs(&mut self, bytes: u64) {
        let filled = self.promised.saturating_sub(bytes);
        self.promised -= filled;
        self.memory.0.state.lock().promised -= filled;
    }

    /// Returns all but `bytes` bytes.
    pub(crate) fn keep(&mut self, bytes: u64) {
        self.still_needs(bytes);
        let rest = self.bytes.saturating_sub(bytes);
        self.bytes -= rest;
        self.memory.0.state.lock().held -= rest;
        self.memory.0.changed.notify_all();
    }

    /// Records that prompts were read, and that the body of their call is not made yet.
    pub(crate) fn holds_requests(&mut self) {
        self.still_needs(self.bytes / PROMPT_COPIES);
    }
}

/// A large result in memory that is not written yet.
pub(crate) struct UnwrittenResult(MemoryManager);

impl Drop for UnwrittenResult {
    fn drop(&mut self) {
        self.0.0.unwritten.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for MemoryHold {
    fn drop(&mut self) {
        let mut state = self.memory.0.state.lock();
        state.promised -= self.promised;
        state.held -= self.bytes;
        state.holders -= 1;
        if !state.line.is_empty() {
            self.memory.0.changed.notify_all();
        }
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
