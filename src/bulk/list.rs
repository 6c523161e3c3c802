//! Requests from memory: a slice, or an iterator that a thread of its own reads.

use std::borrow::Borrow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use crate::base::clock::Time;
use crate::base::error::Error;
use crate::engine::availability::Availability;
use crate::engine::class::Class;
use crate::engine::limiter::QuotaKey;
use crate::engine::pack::PackLimits;
use crate::engine::route::Tries;
use crate::engine::run::{Waker, panicked};
use crate::engine::waiting::Waiting;
use crate::engine::work::{Take, Ticket};
use crate::llm::params::RequestTask;
use crate::llm::request::Request;
use crate::llm::route::{Route, cost};

use crate::engine::pack::Backlog;

/// Payloads of an unbounded source that may wait in memory; beyond it nothing more is read.
const WAITING_BYTES: usize = 16 * 1024 * 1024;

/// A request with its place in the input.
pub(crate) struct Item<R> {
    pub index: usize,
    pub request: R,
}

/// Where the requests come from.
pub(crate) enum Source<'s, R> {
    /// At hand: reading never blocks, and what waits costs the caller nothing more.
    Ready(Box<dyn Iterator<Item = R> + Send + 's>),
    /// Read by another thread.
    Fed(Fed<R>),
}

type Read<R> = Result<R, Error>;

/// The taking end of a fed source.
pub(crate) struct Fed<R> {
    one_by_one: Receiver<Read<R>>,
    in_packs: Receiver<Read<R>>,
    hungry: Arc<AtomicBool>,
    ahead: Arc<Ahead>,
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

impl<R: Borrow<Request>> Fed<R> {
    fn try_recv(&self) -> Result<Read<R>, TryRecvError> {
        // The feeder has let go of the way that it does not use.
        let received = match self.one_by_one.try_recv() {
            Err(TryRecvError::Disconnected) => {
                let received = self.in_packs.try_recv();
                if let Ok(Ok(item)) = &received {
                    let bytes = item.borrow().weight();
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
    waker: Waker,
}

/// Items that may be read ahead to fill packs.
const MOST_AHEAD: usize = 4096;
/// Beyond so many bytes of them nothing more is read for a while.
const BYTES_AHEAD: usize = 16 * 1024 * 1024;

impl<R: Borrow<Request>> Feeder<R> {
    /// A feeder, its source, and what is left of it. There is room for `ahead` items, or, if the
    /// first of them shares calls, for as many packs.
    pub(crate) fn new(
        ahead: usize,
        pack: PackLimits,
        waker: Waker,
    ) -> (Self, Source<'static, R>, Tail<R>) {
        let filling = ahead.saturating_mul(pack.inputs.into());
        let (one_by_one, from_one_by_one) = bounded(ahead);
        let (in_packs, from_in_packs) = bounded(filling.min(MOST_AHEAD).max(ahead));
        let feeder = Self {
            one_by_one,
            in_packs,
            hungry: Arc::default(),
            ahead: Arc::default(),
            waker,
        };
        let tail = Tail {
            one_by_one: from_one_by_one.clone(),
            in_packs: from_in_packs.clone(),
            ahead: feeder.ahead.clone(),
        };
        let source = Source::Fed(Fed {
            one_by_one: from_one_by_one,
            in_packs: from_in_packs,
            hungry: feeder.hungry.clone(),
            ahead: feeder.ahead.clone(),
        });
        (feeder, source, tail)
    }

    /// Hands items over until they end or nobody wants more. A panic or an error of the iterator
    /// ends the run, not the process.
    pub(crate) fn feed(self, mut items: impl Iterator<Item = Read<R>>) {
        let Self {
            one_by_one,
            in_packs,
            hungry,
            ahead,
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
                .unwrap_or_else(|panic| Some(Err(panicked("the source of requests", panic))));
            let Some(item) = next else { break };
            let last = item.is_err();
            let request = item.as_ref().ok().map(Borrow::borrow);
            let shares = request.is_some_and(|request| request.task == RequestTask::Embed);
            if let Some((one_by_one, in_packs)) = ways.take() {
                way = Some(match shares {
                    true => (in_packs, true),
                    false => (one_by_one, false),
                });
            }
            let Some((out, counted)) = &way else { break };
            if let Some(request) = request.filter(|_| *counted) {
                let bytes = request.weight();
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
        self.ahead.stopped.store(true, Ordering::SeqCst);
        let left = self.one_by_one.iter().chain(self.in_packs.iter());
        let left = left.filter_map(Result::ok).collect();
        (self.ahead.taken.load(Ordering::Relaxed), left)
    }
}

/// Requests in memory and those of them that wait.
pub(crate) struct ListBacklog<'r, R> {
    route: &'r Route<'r>,
    source: Source<'r, R>,
    read: usize,
    ended: bool,
    waiting: Waiting<(Item<R>, Tries, Class)>,
    waiting_bytes: usize,
    last_class: Option<(Vec<QuotaKey>, Class)>,
    /// Why nothing more comes from the source.
    broken: Option<Error>,
}

impl<'r, R: Borrow<Request>> ListBacklog<'r, R> {
    pub(crate) fn new(route: &'r Route<'r>, source: Source<'r, R>) -> Self {
        Self {
            route,
            source,
            read: 0,
            ended: false,
            waiting: Waiting::default(),
            waiting_bytes: 0,
            last_class: None,
            broken: None,
        }
    }

    /// What waits, and what is at hand but was never taken, in the order of the input.
    pub(crate) fn rest(&mut self) -> Vec<(Item<R>, Tries)> {
        let waiting = self.waiting.drain();
        let mut rest: Vec<_> = waiting.map(|(item, tries, _)| (item, tries)).collect();
        rest.sort_by_key(|(item, _)| item.index);
        while let Some(request) = self.next() {
            let index = self.read;
            self.read += 1;
            rest.push((Item { index, request }, Tries::default()));
        }
        rest
    }

    fn next(&mut self) -> Option<R> {
        let fed = match &mut self.source {
            Source::Ready(items) => {
                let next = items.next();
                self.ended = next.is_none();
                return next;
            }
            Source::Fed(fed) => fed,
        };
        for last_look in [false, true] {
            match fed.try_recv() {
                Ok(item) => {
                    fed.hungry.store(false, Ordering::SeqCst);
                    // What was read before a fault is still to be sent or handed back.
                    return item.map_err(|error| self.broken = Some(error)).ok();
                }
                Err(TryRecvError::Disconnected) => {
                    self.ended = true;
                    return None;
                }
                Err(TryRecvError::Empty) if last_look => return None,
                Err(TryRecvError::Empty) => {
                    fed.hungry.store(true, Ordering::SeqCst);
                    fence(Ordering::SeqCst);
                }
            }
        }
        None
    }

    /// Bytes that a waiting item holds; those of a slice are the caller's anyway.
    fn weight(&self, request: &Request) -> usize {
        match self.source {
            Source::Ready(_) => 0,
            Source::Fed(_) => request.weight(),
        }
    }

    fn ticket(&self, item: Item<R>, tries: Tries, class: Class) -> Ticket<Item<R>> {
        Ticket {
            cost: cost(item.request.borrow()),
            order: item.index as u64,
            task: item,
            class,
            tries,
        }
    }
}

impl<R: Borrow<Request> + Send> Backlog for ListBacklog<'_, R> {
    type Task = Item<R>;

    fn take(
        &mut self,
        max: usize,
        availability: &Availability,
        now: Time,
    ) -> Result<Take<Item<R>>, Error> {
        let mut out = Vec::new();
        while out.len() < max {
            if let Some((item, tries, class)) = self.waiting.pop(&availability.pauses, now) {
                self.waiting_bytes -= self.weight(item.request.borrow());
                out.push(self.ticket(item, tries, class));
                continue;
            }
            if self.ended || self.waiting_bytes >= WAITING_BYTES {
                break;
            }
            let Some(request) = self.next() else { break };
            let class = self.route.class(request.borrow(), &mut self.last_class);
            let item = Item {
                index: self.read,
                request,
            };
            self.read += 1;
            if let Some(quota) = availability.paused_quota(&class, 0, now) {
                self.waiting_bytes += self.weight(item.request.borrow());
                let order = item.index as u64;
                self.waiting
                    .pass_over(quota, order, (item, Tries::default(), class));
            } else {
                out.push(self.ticket(item, Tries::default(), class));
            }
        }
        if !out.is_empty() {
            return Ok(Take::Items(out));
        }
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        if self.waiting.is_empty() && self.ended {
            return Ok(Take::Done);
        }
        Ok(Take::Idle {
            until: self.waiting.next_due(&availability.pauses, now),
            source_open: !self.ended && self.waiting_bytes < WAITING_BYTES,
        })
    }

    fn wait(&mut self, ticket: Ticket<Item<R>>, due: Time) {
        self.waiting_bytes += self.weight(ticket.task.request.borrow());
        let (quota, order) = (ticket.quota(), ticket.order);
        self.waiting
            .push(quota, due, order, (ticket.task, ticket.tries, ticket.class));
    }

    fn limits(&self, item: &Item<R>) -> PackLimits {
        self.route.pack_limits(item.request.borrow().task)
    }

    fn alike(&self, a: &Item<R>, b: &Item<R>) -> bool {
        a.request.borrow().shares_calls_with(b.request.borrow())
    }

    fn left(&mut self) -> u64 {
        self.rest().len() as u64
    }
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
