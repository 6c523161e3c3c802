//! Reads a source of items on a separate thread, a few items ahead of their use.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::base::Error;

use super::run::{Waker, panicked};

type Read<R> = Result<R, Error>;

/// Size in bytes of an item that can share a call, to limit what is read ahead; `None` for an item that shares no
/// call.
pub(crate) type PackedBytes<R> = fn(&R) -> Option<usize>;

/// What [`Fed::next`] found.
pub(crate) enum Next<R> {
    /// The next item, or why there will be none.
    Item(Read<R>),
    /// No item yet; the waker is notified when there is one.
    NotYet,
    /// The source has ended.
    Ended,
}

/// Maximum number of items read ahead to fill packs.
const MOST_AHEAD: usize = 4096;
/// Above this number of bytes read ahead, the feeder waits.
const BYTES_AHEAD: usize = 16 * 1024 * 1024;

/// The items between the feeder and the receiver.
struct Line<R> {
    state: Mutex<State<R>>,
    changed: Condvar,
    packed_bytes: PackedBytes<R>,
    /// How many items may wait here, and how many if they share calls.
    most: usize,
    most_packed: usize,
}

struct State<R> {
    items: VecDeque<Read<R>>,
    /// Bytes of the items that can share calls.
    bytes: usize,
    /// Whether the last item can share a call.
    is_packed: bool,
    /// Number of items that were received.
    taken: usize,
    /// The receiver found no item.
    demand: bool,
    /// The receiver is gone.
    stopped: bool,
    /// The feeder is gone.
    ended: bool,
}

impl<R> Line<R> {
    fn bytes(&self, item: &Read<R>) -> Option<usize> {
        item.as_ref().ok().and_then(self.packed_bytes)
    }

    /// Waits until another item may be read. False if the receiver is gone.
    fn has_room(&self) -> bool {
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, |state| {
            let most = if state.is_packed {
                self.most_packed
            } else {
                self.most
            };
            !state.stopped && (state.items.len() >= most || state.bytes > BYTES_AHEAD)
        });
        !state.stopped
    }

    fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }
}

/// The receiving end of a source that a feeder reads.
pub(crate) struct Fed<R>(Arc<Line<R>>);

impl<R> Fed<R> {
    /// Returns the next item without waiting.
    pub(crate) fn next(&self) -> Next<R> {
        let mut state = self.0.state.lock();
        let Some(item) = state.items.pop_front() else {
            state.demand = true;
            return if state.ended {
                Next::Ended
            } else {
                Next::NotYet
            };
        };
        state.demand = false;
        state.bytes -= self.0.bytes(&item).unwrap_or(0);
        state.taken += usize::from(item.is_ok());
        drop(state);
        self.0.changed.notify_all();
        Next::Item(item)
    }

    /// Whether no item is ready.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.state.lock().items.is_empty()
    }
}

impl<R> Drop for Fed<R> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// The reading end of a fed source.
pub(crate) struct Feeder<R> {
    line: Arc<Line<R>>,
    waker: Waker,
}

impl<R> Feeder<R> {
    /// Creates a feeder, its receiver, and the tail for what remains at the end. `ahead` items are read ahead, and if
    /// they share calls, as many packs of `pack` items.
    pub(crate) fn new(
        ahead: usize,
        (pack, packed_bytes): (u16, PackedBytes<R>),
        waker: Waker,
    ) -> (Self, Fed<R>, Tail<R>) {
        let filling = ahead.saturating_mul(pack.into());
        let line = Arc::new(Line {
            state: Mutex::new(State {
                items: VecDeque::new(),
                bytes: 0,
                is_packed: false,
                taken: 0,
                demand: false,
                stopped: false,
                ended: false,
            }),
            changed: Condvar::new(),
            packed_bytes,
            most: ahead,
            most_packed: filling.min(MOST_AHEAD).max(ahead),
        });
        let (fed, tail) = (Fed(line.clone()), Tail(line.clone()));
        (Self { line, waker }, fed, tail)
    }

    /// Sends items until the source ends or the receiver is gone. A panic or an error of the iterator ends the run,
    /// not the OS process.
    pub(crate) fn feed(self, mut items: impl Iterator<Item = Read<R>>) {
        while self.line.has_room() {
            let next = catch_unwind(AssertUnwindSafe(|| items.next()))
                .unwrap_or_else(|panic| Some(Err(panicked("the source of items", panic))));
            let Some(item) = next else { break };
            let (bytes, is_last) = (self.line.bytes(&item), item.is_err());
            let mut state = self.line.state.lock();
            state.is_packed = bytes.is_some();
            state.bytes += bytes.unwrap_or(0);
            state.items.push_back(item);
            if std::mem::take(&mut state.demand) {
                drop(state);
                self.waker.wake();
            }
            if is_last {
                break;
            }
        }
    }
}

impl<R> Drop for Feeder<R> {
    fn drop(&mut self) {
        self.line.state.lock().ended = true;
        self.line.changed.notify_all();
        self.waker.wake();
    }
}

/// The items that remain in a source when its run ends.
pub(crate) struct Tail<R>(Arc<Line<R>>);

impl<R> Tail<R> {
    /// Stops the feeder and returns the items that it had read, with the position of the first in the input. Waits
    /// for a blocking `next()`.
    pub(crate) fn drain(self) -> (usize, Vec<R>) {
        self.0.stop();
        let mut state = self.0.state.lock();
        self.0.changed.wait_while(&mut state, |state| !state.ended);
        drop(state);
        self.drain_ready()
    }

    /// The same without waiting: items that a blocked `next()` returns later are lost.
    pub(crate) fn drain_ready(self) -> (usize, Vec<R>) {
        self.0.stop();
        let mut state = self.0.state.lock();
        let left = std::mem::take(&mut state.items);
        let left = left.into_iter().filter_map(Result::ok).collect();
        (state.taken, left)
    }
}
