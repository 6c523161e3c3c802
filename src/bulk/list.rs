//! Requests from memory: a slice, or an iterator that a thread of its own reads.

use std::borrow::Borrow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use crate::base::clock::Time;
use crate::base::error::Error;
use crate::engine::limit::QuotaKey;
use crate::engine::route::Tries;
use crate::engine::run::{Waker, panicked};
use crate::engine::waiting::Waiting;
use crate::engine::work::{Class, Gates, Take, Ticket};
use crate::llm::request::Request;
use crate::llm::route::{Route, cost};

use super::job::Backlog;

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
    Fed {
        items: Receiver<Result<R, Error>>,
        hungry: Arc<AtomicBool>,
    },
}

/// The reading end of a fed source.
pub(crate) struct Feeder<R> {
    items: Sender<Result<R, Error>>,
    hungry: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
    waker: Waker,
}

impl<R> Feeder<R> {
    /// A feeder, its source with room for `ahead` items read ahead, and what is left of it.
    pub(crate) fn new(ahead: usize, waker: Waker) -> (Self, Source<'static, R>, Tail<R>) {
        let (tx, rx) = bounded(ahead);
        let feeder = Self {
            items: tx,
            hungry: Arc::default(),
            stopped: Arc::default(),
            waker,
        };
        let tail = Tail {
            items: rx.clone(),
            stopped: feeder.stopped.clone(),
        };
        let source = Source::Fed {
            items: rx,
            hungry: feeder.hungry.clone(),
        };
        (feeder, source, tail)
    }

    /// Hands items over until they end or nobody wants more. A panic or an error of the iterator
    /// ends the run, not the process.
    pub(crate) fn feed(self, mut items: impl Iterator<Item = Result<R, Error>>) {
        while !self.stopped.load(Ordering::SeqCst) {
            let next = catch_unwind(AssertUnwindSafe(|| items.next()))
                .unwrap_or_else(|panic| Some(Err(panicked("the source of requests", &*panic))));
            let Some(item) = next else { break };
            let last = item.is_err();
            if self.items.send(item).is_err() || last {
                break;
            }
            // Either the taker sees the item, or we see that it found none.
            fence(Ordering::SeqCst);
            if self.hungry.swap(false, Ordering::SeqCst) {
                self.waker.wake();
            }
        }
        let waker = self.waker.clone();
        drop(self);
        waker.wake();
    }
}

/// What a source still has to give when its run is over.
pub(crate) struct Tail<R> {
    items: Receiver<Result<R, Error>>,
    stopped: Arc<AtomicBool>,
}

impl<R> Tail<R> {
    /// Stops the feeder and takes what it had read. Waits for a `next()` that blocks.
    pub(crate) fn drain(self) -> Vec<R> {
        self.stopped.store(true, Ordering::SeqCst);
        self.items.iter().filter_map(Result::ok).collect()
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
        let (items, hungry) = match &mut self.source {
            Source::Ready(items) => {
                let next = items.next();
                self.ended = next.is_none();
                return next;
            }
            Source::Fed { items, hungry } => (items, hungry),
        };
        for last_look in [false, true] {
            match items.try_recv() {
                Ok(item) => {
                    hungry.store(false, Ordering::SeqCst);
                    // What was read before a fault is still to be sent or handed back.
                    return item.map_err(|error| self.broken = Some(error)).ok();
                }
                Err(TryRecvError::Disconnected) => {
                    self.ended = true;
                    return None;
                }
                Err(TryRecvError::Empty) if last_look => return None,
                Err(TryRecvError::Empty) => {
                    hungry.store(true, Ordering::SeqCst);
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
            Source::Fed { .. } => request.weight(),
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

    fn take(&mut self, max: usize, gates: &Gates, now: Time) -> Result<Take<Item<R>>, Error> {
        let mut out = Vec::new();
        while out.len() < max {
            if let Some((item, tries, class)) = self.waiting.pop(gates, now) {
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
            if let Some(quota) = gates.held_by(&class, 0, now) {
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
            until: self.waiting.next_due(gates, now),
            source_open: !self.ended && self.waiting_bytes < WAITING_BYTES,
        })
    }

    fn wait(&mut self, ticket: Ticket<Item<R>>, due: Time) {
        self.waiting_bytes += self.weight(ticket.task.request.borrow());
        let (quota, order) = (ticket.quota(), ticket.order);
        self.waiting
            .push(quota, due, order, (ticket.task, ticket.tries, ticket.class));
    }

    fn left(&mut self) -> u64 {
        self.rest().len() as u64
    }
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
