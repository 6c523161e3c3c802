//! Reads a source of items on a separate thread, a few items ahead of their use.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

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

/// The receiving end of a source that a feeder reads.
pub(crate) struct Fed<R> {
    one_by_one: Receiver<Read<R>>,
    in_packs: Receiver<Read<R>>,
    demand: Arc<AtomicBool>,
    ahead: Arc<Ahead>,
    packed_bytes: PackedBytes<R>,
}

/// State that the receiver and the feeder share.
#[derive(Default)]
struct Ahead {
    /// Bytes of items that wait for their packs.
    bytes: AtomicUsize,
    /// Number of items that were received.
    taken: AtomicUsize,
    /// The receiver is gone.
    stopped: AtomicBool,
}

impl<R> Fed<R> {
    /// Returns the next item without waiting.
    pub(crate) fn next(&self) -> Next<R> {
        for last_look in [false, true] {
            match self.try_recv() {
                Ok(item) => {
                    self.demand.store(false, Ordering::SeqCst);
                    return Next::Item(item);
                }
                Err(TryRecvError::Disconnected) => return Next::Ended,
                Err(TryRecvError::Empty) if last_look => break,
                Err(TryRecvError::Empty) => {
                    self.demand.store(true, Ordering::SeqCst);
                    fence(Ordering::SeqCst);
                }
            }
        }
        Next::NotYet
    }

    /// Whether no item is ready.
    pub(crate) fn is_empty(&self) -> bool {
        self.one_by_one.is_empty() && self.in_packs.is_empty()
    }

    fn try_recv(&self) -> Result<Read<R>, TryRecvError> {
        // The feeder has closed the channel that it does not use.
        let received = match self.one_by_one.try_recv() {
            Err(TryRecvError::Disconnected) => {
                let received = self.in_packs.try_recv();
                if let Ok(Ok(item)) = &received {
                    let bytes = (self.packed_bytes)(item).unwrap_or(0);
                    self.ahead.bytes.fetch_sub(bytes, Ordering::SeqCst);
                }
                received
            }
            received => received,
        };
        if let Ok(Ok(_)) = &received {
            self.ahead.taken.fetch_add(1, Ordering::Relaxed);
        }
        received
    }
}

impl<R> Drop for Fed<R> {
    fn drop(&mut self) {
        self.ahead.stopped.store(true, Ordering::SeqCst);
    }
}

/// The reading end of a fed source.
pub(crate) struct Feeder<R> {
    one_by_one: Sender<Read<R>>,
    in_packs: Sender<Read<R>>,
    demand: Arc<AtomicBool>,
    ahead: Arc<Ahead>,
    packed_bytes: PackedBytes<R>,
    waker: Waker,
}

/// Maximum number of items read ahead to fill packs.
const MOST_AHEAD: usize = 4096;
/// Above this number of bytes read ahead, the feeder waits.
const BYTES_AHEAD: usize = 16 * 1024 * 1024;

impl<R> Feeder<R> {
    /// Creates a feeder, its receiver, and the tail for what remains at the end. The channel holds `ahead` items; if
    /// the first item shares calls, it holds as many packs of `pack` items.
    pub(crate) fn new(
        ahead: usize,
        (pack, packed_bytes): (u16, PackedBytes<R>),
        waker: Waker,
    ) -> (Self, Fed<R>, Tail<R>) {
        let filling = ahead.saturating_mul(pack.into());
        let (one_by_one, from_one_by_one) = bounded(ahead);
        let (in_packs, from_in_packs) = bounded(filling.min(MOST_AHEAD).max(ahead));
        let feeder = Self {
            one_by_one,
            in_packs,
            demand: Arc::default(),
            ahead: Arc::default(),
            packed_bytes,
            waker,
        };
        let tail = Tail {
            one_by_one: from_one_by_one.clone(),
            in_packs: from_in_packs.clone(),
            ahead: feeder.ahead.clone(),
        };
        let fed = Fed {
            one_by_one: from_one_by_one,
            in_packs: from_in_packs,
            demand: feeder.demand.clone(),
            ahead: feeder.ahead.clone(),
            packed_bytes,
        };
        (feeder, fed, tail)
    }

    /// Sends items until the source ends or the receiver is gone. A panic or an error of the iterator ends the run,
    /// not the OS process.
    pub(crate) fn feed(self, mut items: impl Iterator<Item = Read<R>>) {
        let Self {
            one_by_one,
            in_packs,
            demand,
            ahead,
            packed_bytes,
            waker,
        } = self;
        let mut lanes = Some((one_by_one, in_packs));
        let mut lane = None;
        while !ahead.stopped.load(Ordering::SeqCst) {
            if ahead.bytes.load(Ordering::SeqCst) > BYTES_AHEAD {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            let next = catch_unwind(AssertUnwindSafe(|| items.next()))
                .unwrap_or_else(|panic| Some(Err(panicked("the source of items", panic))));
            let Some(item) = next else { break };
            let last = item.is_err();
            let bytes = item.as_ref().ok().and_then(packed_bytes);
            if let Some((one_by_one, in_packs)) = lanes.take() {
                lane = Some(match bytes {
                    Some(_) => (in_packs, true),
                    None => (one_by_one, false),
                });
            }
            let Some((out, counted)) = &lane else { break };
            if let Some(bytes) = bytes.filter(|_| *counted) {
                ahead.bytes.fetch_add(bytes, Ordering::SeqCst);
            }
            if out.send(item).is_err() || last {
                break;
            }
            // Either the receiver sees the item, or the feeder sees that the receiver found none.
            fence(Ordering::SeqCst);
            if demand.swap(false, Ordering::SeqCst) {
                waker.wake();
            }
        }
        drop((lanes, lane));
        waker.wake();
    }
}

/// The items that remain in a source when its run ends.
pub(crate) struct Tail<R> {
    one_by_one: Receiver<Read<R>>,
    in_packs: Receiver<Read<R>>,
    ahead: Arc<Ahead>,
}

impl<R> Tail<R> {
    /// Stops the feeder and returns the items that it had read, with the position of the first in the input. Waits
    /// for a blocking `next()`.
    pub(crate) fn drain(self) -> (usize, Vec<R>) {
        self.stop();
        let left = self.one_by_one.iter().chain(self.in_packs.iter());
        let left = left.filter_map(Result::ok).collect();
        (self.ahead.taken.load(Ordering::Relaxed), left)
    }

    /// The same without waiting: items that a blocked `next()` returns later are lost.
    pub(crate) fn drain_ready(self) -> (usize, Vec<R>) {
        self.stop();
        let left = self.one_by_one.try_iter().chain(self.in_packs.try_iter());
        let left = left.filter_map(Result::ok).collect();
        (self.ahead.taken.load(Ordering::Relaxed), left)
    }

    fn stop(&self) {
        self.ahead.stopped.store(true, Ordering::SeqCst);
    }
}
