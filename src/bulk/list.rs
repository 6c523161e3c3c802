//! Requests in memory: a slice, or an iterator that a separate thread reads.

use std::borrow::Borrow;

use crate::base::{Error, Time};
use crate::engine::availability::Availability;
use crate::engine::feeder::{Fed, Feeder, Next, Tail};
use crate::engine::limiter::{QuotaId, QuotaKey};
use crate::engine::quota::Class;
use crate::engine::route::Tries;
use crate::engine::run::Waker;
use crate::engine::waiting::Waiting;
use crate::engine::work::{Cost, Take, Ticket};
use crate::llm::pack::{Pack, PackLimits, next_calls};
use crate::llm::params::RequestTask;
use crate::llm::request::Request;
use crate::llm::route::{Route, cost};

use super::work::{Backlog, Item};

/// Bytes of payloads of an unbounded source that may wait in memory; above that, reading pauses.
const WAITING_BYTES: usize = 16 * 1024 * 1024;

/// The source of the requests.
pub(crate) enum Source<'s, R> {
    /// In memory: reading never blocks, and waiting items need no additional memory.
    Ready(Box<dyn Iterator<Item = R> + Send + 's>),
    /// Read by another thread.
    Fed(Fed<R>),
}

/// A feeder of requests, its source, and its tail, see [`Feeder::new`].
pub(crate) fn feed<R: Borrow<Request>>(
    ahead: usize,
    pack: PackLimits,
    waker: Waker,
) -> (Feeder<R>, Source<'static, R>, Tail<R>) {
    let packed_bytes = |item: &R| {
        let request = item.borrow();
        (request.task == RequestTask::Embed).then(|| request.weight())
    };
    let (feeder, fed, tail) = Feeder::new(ahead, (pack.inputs, packed_bytes), waker);
    (feeder, Source::Fed(fed), tail)
}

/// Requests that wait for one call, with their history.
type Held<R> = (Pack<Item<R>>, Tries, Class);

/// Requests in memory, including those that wait.
pub(crate) struct ListBacklog<'r, R> {
    route: &'r Route<'r>,
    source: Source<'r, R>,
    /// Number of items read from the source.
    read: usize,
    /// An item that was read and did not fit into the call of those before it.
    next: Option<Item<R>>,
    ended: bool,
    waiting: Waiting<Held<R>>,
    waiting_bytes: usize,
    last_class: Option<(Vec<QuotaKey>, Class)>,
    /// Why no more items come from the source.
    broken: Option<Error>,
}

impl<'r, R: Borrow<Request>> ListBacklog<'r, R> {
    pub(crate) fn new(route: &'r Route<'r>, source: Source<'r, R>) -> Self {
        Self {
            route,
            source,
            read: 0,
            next: None,
            ended: false,
            waiting: Waiting::default(),
            waiting_bytes: 0,
            last_class: None,
            broken: None,
        }
    }

    /// The waiting items, and those that were never taken, in the order of the input.
    pub(crate) fn rest(&mut self) -> Vec<(Item<R>, Tries)> {
        let waiting = self.waiting.drain();
        let waiting = waiting.flat_map(|(pack, tries, _)| {
            let items = pack.into_iter();
            items.map(move |item| (item, tries.clone()))
        });
        let mut rest: Vec<_> = waiting.collect();
        rest.sort_by_key(|(item, ..)| item.index);
        while let Some(item) = self.next() {
            rest.push((item, Tries::default()));
        }
        rest
    }

    fn next(&mut self) -> Option<Item<R>> {
        if self.next.is_some() || self.ended {
            return self.next.take();
        }
        let next = match &mut self.source {
            Source::Ready(items) => items
                .next()
                .map_or(Next::Ended, |item| Next::Item(Ok(item))),
            Source::Fed(fed) => fed.next(),
        };
        match next {
            // Items read before a fault are sent or returned first.
            Next::Item(request) => {
                let request = request.map_err(|error| self.broken = Some(error)).ok()?;
                let index = self.read;
                self.read += 1;
                Some(Item::new(index, request))
            }
            Next::NotYet => None,
            Next::Ended => {
                self.ended = true;
                None
            }
        }
    }

    /// The next item, with those after it that share its call.
    fn fresh(&mut self) -> Option<Pack<Item<R>>> {
        let mut pack = vec![self.next()?];
        let first: &Request = pack[0].borrow();
        let limits = self.route.pack_limits(first.task);
        if limits.inputs <= 1 {
            return Some(pack);
        }
        let mut tokens = cost(first).input;
        while limits.fits(pack.len(), tokens, 0) {
            let Some(item) = self.next() else { break };
            let (first, other): (&Request, &Request) = (pack[0].borrow(), item.borrow());
            let more = cost(other).input;
            if !first.shares_calls_with(other) || !limits.fits(pack.len(), tokens, more) {
                self.next = Some(item);
                break;
            }
            tokens += more;
            pack.push(item);
        }
        Some(pack)
    }

    /// Bytes that waiting items occupy; 0 for those of a slice, which the caller owns.
    fn weight(&self, pack: &[Item<R>]) -> usize {
        match self.source {
            Source::Ready(_) => 0,
            Source::Fed(_) => pack.iter().map(|item| item.request.borrow().weight()).sum(),
        }
    }

    fn ticket((task, tries, class): Held<R>) -> Ticket<Pack<Item<R>>> {
        let costs = task.iter().map(|item| cost(item.borrow()));
        Ticket {
            cost: costs.sum::<Cost>(),
            order: task[0].index as u64,
            task,
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
    ) -> Result<Take<Pack<Item<R>>>, Error> {
        let mut out = Vec::new();
        while out.len() < max {
            if let Some(held) = self.waiting.pop(availability, now) {
                self.waiting_bytes -= self.weight(&held.0);
                out.push(Self::ticket(held));
                continue;
            }
            if self.waiting_bytes >= WAITING_BYTES {
                break;
            }
            let Some(pack) = self.fresh() else { break };
            let class = self.route.class(pack[0].borrow(), &mut self.last_class);
            if let Some(quota) = availability.paused_quota(&class, 0, now) {
                self.waiting_bytes += self.weight(&pack);
                let order = pack[0].index as u64;
                let first = (pack, Tries::default(), class);
                self.waiting.pass_over(quota, order, first);
            } else {
                out.push(Self::ticket((pack, Tries::default(), class)));
            }
        }
        if !out.is_empty() {
            return Ok(Take::Items(out));
        }
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        if self.waiting.is_empty() && self.ended && self.next.is_none() {
            return Ok(Take::Done);
        }
        Ok(Take::Idle {
            until: self.waiting.next_due(availability, now),
            source_open: !self.ended && self.waiting_bytes < WAITING_BYTES,
        })
    }

    fn wait(&mut self, ticket: Ticket<Pack<Item<R>>>, due: Time) {
        self.waiting_bytes += self.weight(&ticket.task);
        let (quota, tries) = (ticket.quota(), ticket.tries);
        let first: &Request = ticket.task[0].borrow();
        let limits = self.route.pack_limits(first.task);
        for pack in next_calls(ticket.task, limits, &tries) {
            let order = pack[0].index as u64;
            let held = (pack, tries.clone(), ticket.class.clone());
            self.waiting.push(quota, due, order, held);
        }
    }

    fn has_more(&mut self) -> bool {
        let at_hand = match &self.source {
            Source::Ready(items) => items.size_hint().1 != Some(0),
            Source::Fed(fed) => !fed.is_empty(),
        };
        at_hand || self.next.is_some() || !self.waiting.is_empty()
    }

    fn waits_for(&mut self, quota: QuotaId, _: &Availability) -> bool {
        self.waiting.waits_for(quota)
    }
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
