//! Requests from memory: a slice, or an iterator that a thread of its own reads.

use std::any::Any;
use std::borrow::Borrow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use crate::base::clock::Time;
use crate::base::error::{Error, ErrorKind};
use crate::engine::limit::QuotaKey;
use crate::engine::route::Tries;
use crate::engine::run::Waker;
use crate::engine::waiting::Waiting;
use crate::engine::work::{Class, Closed, Take, Ticket};
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
        stopped: Arc<AtomicBool>,
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
    /// A feeder and its source, with room for `ahead` items read ahead.
    pub(crate) fn new(ahead: usize, waker: Waker) -> (Self, Source<'static, R>) {
        let (tx, rx) = bounded(ahead);
        let feeder = Self {
            items: tx,
            hungry: Arc::default(),
            stopped: Arc::default(),
            waker,
        };
        let source = Source::Fed {
            items: rx,
            hungry: feeder.hungry.clone(),
            stopped: feeder.stopped.clone(),
        };
        (feeder, source)
    }

    /// Hands items over until they end or nobody wants more. A panic or an error of the iterator
    /// ends the run, not the process.
    pub(crate) fn feed(self, mut items: impl Iterator<Item = Result<R, Error>>) {
        while !self.stopped.load(Ordering::SeqCst) {
            let next = catch_unwind(AssertUnwindSafe(|| items.next()))
                .unwrap_or_else(|panic| Some(Err(panicked(&*panic))));
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

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let what = panic
        .downcast_ref::<&str>()
        .copied()
        .unwrap_or("no message");
    Error::new(
        ErrorKind::Panic,
        format!("the source of requests panicked: {what}"),
    )
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
        }
    }

    /// What waits, and what was read but never taken. One more request may be in the hand of the
    /// thread that reads.
    pub(crate) fn rest(&mut self) -> Vec<(Item<R>, Tries)> {
        if let Source::Fed { stopped, .. } = &self.source {
            stopped.store(true, Ordering::SeqCst);
        }
        let mut rest: Vec<_> = self
            .waiting
            .drain()
            .map(|(item, tries, _)| (item, tries))
            .collect();
        while let Ok(Some(request)) = self.next() {
            let index = self.read;
            self.read += 1;
            rest.push((Item { index, request }, Tries::default()));
        }
        rest.sort_by_key(|(item, _)| item.index);
        rest
    }

    fn next(&mut self) -> Result<Option<R>, Error> {
        match &mut self.source {
            Source::Ready(items) => {
                let next = items.next();
                self.ended = next.is_none();
                Ok(next)
            }
            Source::Fed { items, hungry, .. } => {
                for last_look in [false, true] {
                    match items.try_recv() {
                        Ok(item) => {
                            hungry.store(false, Ordering::SeqCst);
                            return item.map(Some);
                        }
                        Err(TryRecvError::Disconnected) => {
                            self.ended = true;
                            return Ok(None);
                        }
                        Err(TryRecvError::Empty) if last_look => return Ok(None),
                        Err(TryRecvError::Empty) => {
                            hungry.store(true, Ordering::SeqCst);
                            fence(Ordering::SeqCst);
                        }
                    }
                }
                Ok(None)
            }
        }
    }

    /// Bytes that a waiting item holds; those of a slice are the caller's anyway.
    fn weight(&self, request: &Request) -> usize {
        match self.source {
            Source::Ready(_) => 0,
            Source::Fed { .. } => request.text_bytes() + 512,
        }
    }

    fn put_away(&mut self, item: Item<R>, tries: Tries, class: Class, due: Time) {
        self.waiting_bytes += self.weight(item.request.borrow());
        let quota = class.quota(tries.step);
        self.waiting.push(quota, due, (item, tries, class));
    }
}

impl<R: Borrow<Request> + Send> Backlog for ListBacklog<'_, R> {
    type Task = Item<R>;

    fn take(&mut self, max: usize, closed: &Closed, now: Time) -> Result<Take<Item<R>>, Error> {
        let mut out = Vec::new();
        while out.len() < max {
            if let Some((item, tries, class)) = self.waiting.pop(closed, now) {
                self.waiting_bytes -= self.weight(item.request.borrow());
                out.push(Ticket {
                    cost: cost(item.request.borrow()),
                    task: item,
                    class,
                    tries,
                });
                continue;
            }
            if self.ended || self.waiting_bytes >= WAITING_BYTES {
                break;
            }
            let Some(request) = self.next()? else { break };
            let class = self.route.class(request.borrow(), &mut self.last_class);
            let item = Item {
                index: self.read,
                request,
            };
            self.read += 1;
            if closed.is_closed(class.quota(0), now) {
                self.put_away(item, Tries::default(), class, Time::ZERO);
                continue;
            }
            out.push(Ticket {
                cost: cost(item.request.borrow()),
                task: item,
                class,
                tries: Tries::default(),
            });
        }
        if !out.is_empty() {
            return Ok(Take::Items(out));
        }
        if self.waiting.is_empty() && self.ended {
            return Ok(Take::Done);
        }
        Ok(Take::Idle {
            until: self.waiting.next_due(closed, now),
            source_open: !self.ended && self.waiting_bytes < WAITING_BYTES,
        })
    }

    fn wait(&mut self, ticket: Ticket<Item<R>>, due: Time) {
        self.put_away(ticket.task, ticket.tries, ticket.class, due);
    }
}
