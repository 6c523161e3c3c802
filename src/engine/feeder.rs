//! Reads a source of items on a thread of its own, a few ahead of what is taken.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use crate::base::error::Error;

use super::run::{Waker, panicked};

type Read<R> = Result<R, Error>;

/// How many bytes an item adds to what is read ahead to fill packs; none if it shares no calls.
pub(crate) type PackedBytes<R> = fn(&R) -> Option<usize>;

/// What [`Fed::next`] found.
pub(crate) enum Next<R> {
    /// The next item, or why there will be none.
    Item(Read<R>),
    /// Nothing yet; the waker is pulled when there is.
    NotYet,
    /// Nothing any more.
    Ended,
}

/// The taking end of a fed source.
pub(crate) struct Fed<R> {
    one_by_one: Receiver<Read<R>>,
    in_packs: Receiver<Read<R>>,
    hungry: Arc<AtomicBool>,
    ahead: Arc<Ahead>,
    packed_bytes: PackedBytes<R>,
}

/// What taker and feeder know of each other.
#[derive(Default)]
struct Ahead {
    /// Bytes of what waits to go into packs.
    bytes: AtomicUsize,
    /// Items that were taken.
    taken: AtomicUsize,
    /// Nobody takes any more.
    stopped: AtomicBool,
}

impl<R> Fed<R> {
    /// The next item, without waiting for it.
    pub(crate) fn next(&self) -> Next<R> {
        for last_look in [false, true] {
            match self.try_recv() {
                Ok(item) => {
                    self.hungry.store(false, Ordering::SeqCst);
                    return Next::Item(item);
                }
                Err(TryRecvError::Disconnected) => return Next::Ended,
                Err(TryRecvError::Empty) if last_look => break,
                Err(TryRecvError::Empty) => {
                    self.hungry.store(true, Ordering::SeqCst);
                    fence(Ordering::SeqCst);
                }
            }
        }
        Next::NotYet
    }

    /// True while nothing is at hand that was not taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.one_by_one.is_empty() && self.in_packs.is_empty()
    }

    fn try_recv(&self) -> Result<Read<R>, TryRecvError> {
        // The feeder has let go of the way that it does not use.
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
    hungry: Arc<AtomicBool>,
    ahead: Arc<Ahead>,
    packed_bytes: PackedBytes<R>,
    waker: Waker,
}

/// Items that may be read ahead to fill packs.
const MOST_AHEAD: usize = 4096;
/// Beyond so many bytes of them nothing more is read for a while.
const BYTES_AHEAD: usize = 16 * 1024 * 1024;

impl<R> Feeder<R> {
    /// A feeder, its taking end, and what is left of it. There is room for `ahead` items, or, if the
    /// first of them shares calls, for as many packs of `pack` items.
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
            hungry: Arc::default(),
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
            hungry: feeder.hungry.clone(),
            ahead: feeder.ahead.clone(),
            packed_bytes,
        };
        (feeder, fed, tail)
    }

    /// Hands items over until they end or nobody wants more. A panic or an error of the iterator
    /// ends the run, not the process.
    pub(crate) fn feed(self, mut items: impl Iterator<Item = Read<R>>) {
        let Self {
            one_by_one,
            in_packs,
            hungry,
            ahead,
            packed_bytes,
            waker,
        } = self;
        let mut ways = Some((one_by_one, in_packs));
        let mut way = None;
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
            if let Some((one_by_one, in_packs)) = ways.take() {
                way = Some(match bytes {
                    Some(_) => (in_packs, true),
                    None => (one_by_one, false),
                });
            }
            let Some((out, counted)) = &way else { break };
            if let Some(bytes) = bytes.filter(|_| *counted) {
                ahead.bytes.fetch_add(bytes, Ordering::SeqCst);
            }
            if out.send(item).is_err() || last {
                break;
            }
            // Either the taker sees the item, or we see that it found none.
            fence(Ordering::SeqCst);
            if hungry.swap(false, Ordering::SeqCst) {
                waker.wake();
            }
        }
        drop((ways, way));
        waker.wake();
    }
}

/// What a source still has to give when its run is over.
pub(crate) struct Tail<R> {
    one_by_one: Receiver<Read<R>>,
    in_packs: Receiver<Read<R>>,
    ahead: Arc<Ahead>,
}

impl<R> Tail<R> {
    /// Stops the feeder and takes what it had read, with the place of the first in the input. Waits
    /// for a `next()` that blocks.
    pub(crate) fn drain(self) -> (usize, Vec<R>) {
        self.stop();
        let left = self.one_by_one.iter().chain(self.in_packs.iter());
        let left = left.filter_map(Result::ok).collect();
        (self.ahead.taken.load(Ordering::Relaxed), left)
    }

    /// The same without waiting: what a `next()` gives later is lost.
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
