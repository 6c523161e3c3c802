//! Items that share a call: a backlog that is taken in packs.
//!
//! Items wait, resume and are counted one by one. A pack exists from its dispatch to the end of its call. Items that
//! must be retried return to their own backlog, and are packed again. A completion is a pack of one item.

use crate::base::{Error, Time};

use super::availability::Availability;
use super::limiter::QuotaId;
use super::route::Tries;
use super::work::{Cost, Take, Ticket};

/// Maximum size of one embedding call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub struct PackLimits {
    /// Texts, at least 1.
    pub inputs: u16,
    /// Estimated tokens of all texts together; a single text may have more.
    pub tokens: u32,
}

impl PackLimits {
    /// One call per text.
    pub const ONE: Self = Self {
        inputs: 1,
        tokens: u32::MAX,
    };

    /// The stricter of both limits.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            inputs: self.inputs.min(other.inputs).max(1),
            tokens: self.tokens.min(other.tokens),
        }
    }
}

/// Source of items, which also stores those that wait.
pub(crate) trait Backlog {
    type Task: Send;
    fn take(
        &mut self,
        max: usize,
        availability: &Availability,
        now: Time,
    ) -> Result<Take<Self::Task>, Error>;
    fn wait(&mut self, ticket: Ticket<Self::Task>, due: Time);

    /// Takes another item for a call that is being formed; it needs no permit.
    fn more(&mut self, availability: &Availability, now: Time) -> Result<Take<Self::Task>, Error> {
        self.take(1, availability, now)
    }

    /// Maximum size of a call with this task.
    fn limits(&self, task: &Self::Task) -> PackLimits;

    /// Whether both tasks may share a call, by their requests.
    fn alike(&self, a: &Self::Task, b: &Self::Task) -> bool;

    /// False if no item is available, now or later.
    fn has_more(&mut self) -> bool {
        true
    }

    /// Whether an available item waits for this quota; true if that is unknown.
    fn waits_for(&mut self, _quota: QuotaId, _availability: &Availability) -> bool {
        true
    }

    /// Items that are known here but not part of any total.
    fn left(&mut self) -> u64 {
        0
    }
}

/// An item in a pack.
pub(crate) struct Member<T> {
    pub task: T,
    pub cost: Cost,
    pub order: u64,
}

/// The items of one call: at least one, all of the same class and with equal tries.
pub(crate) type Pack<T> = Vec<Member<T>>;

/// Items that may be read in vain while a pack is filled. It suffices for a few models in turn, and prevents a search
/// through the whole file.
const MOST_UNMATCHED: usize = 4096;

/// A backlog whose items are taken in packs.
pub(crate) struct Packed<B: Backlog> {
    pub items: B,
    /// An error of the backlog that came after some items of a pack had been taken.
    broken: Option<Error>,
}

impl<B: Backlog> Packed<B> {
    pub(crate) fn new(items: B) -> Self {
        Self {
            items,
            broken: None,
        }
    }

    /// Takes up to `max` packs.
    pub(crate) fn take(
        &mut self,
        max: usize,
        availability: &Availability,
        now: Time,
    ) -> Result<Take<Pack<B::Task>>, Error> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        let first = match self.items.take(max, availability, now)? {
            Take::Items(first) => first,
            Take::Idle { until, source_open } => return Ok(Take::Idle { until, source_open }),
            Take::Done => return Ok(Take::Done),
        };
        let mut packing = Packing {
            max,
            closed: Vec::with_capacity(first.len()),
            open: Vec::new(),
            unmatched: Vec::new(),
            shared: false,
        };
        for ticket in first {
            packing.add(&self.items, ticket);
        }
        while packing.has_room() {
            match self.items.more(availability, now) {
                Ok(Take::Items(more)) => {
                    more.into_iter()
                        .for_each(|ticket| packing.add(&self.items, ticket));
                }
                Ok(Take::Idle { .. } | Take::Done) => break,
                Err(error) => {
                    self.broken = Some(error);
                    break;
                }
            }
        }
        for ticket in packing.unmatched {
            self.items.wait(ticket, Time::ZERO);
        }
        let mut packs = packing.closed;
        packs.extend(packing.open.into_iter().map(|open| open.pack));
        Ok(Take::Items(packs))
    }

    /// Returns the members of a pack, each with the history of the pack.
    pub(crate) fn wait(&mut self, pack: Ticket<Pack<B::Task>>, due: Time) {
        let (class, tries) = (pack.class, pack.tries);
        for Member { task, cost, order } in pack.task {
            let ticket = Ticket {
                task,
                cost,
                order,
                class: class.clone(),
                tries,
            };
            self.items.wait(ticket, due);
        }
    }
}

/// Packs that are being filled.
struct Packing<T> {
    max: usize,
    closed: Vec<Ticket<Pack<T>>>,
    open: Vec<OpenPack<T>>,
    unmatched: Vec<Ticket<T>>,
    /// Calls take more than one item, so more items are read.
    shared: bool,
}

/// A pack with free capacity.
struct OpenPack<T> {
    pack: Ticket<Pack<T>>,
    inputs: usize,
    tokens: u32,
}

impl<T> Packing<T> {
    fn has_room(&self) -> bool {
        let room = self.closed.len() < self.max || !self.open.is_empty();
        self.shared && room && self.unmatched.len() < MOST_UNMATCHED
    }

    fn add<B: Backlog<Task = T>>(&mut self, items: &B, ticket: Ticket<T>) {
        let fits = |open: &OpenPack<T>| {
            open.pack.class == ticket.class
                && same_history(&open.pack.tries, &ticket.tries)
                && items.alike(&open.pack.task[0].task, &ticket.task)
        };
        if let Some(at) = self.open.iter().position(fits) {
            let open = &mut self.open[at];
            let tokens = open.pack.cost.input.saturating_add(ticket.cost.input);
            if tokens <= open.tokens {
                open.pack.cost = sum(open.pack.cost, ticket.cost);
                open.pack.task.push(member(ticket));
                if open.pack.task.len() == open.inputs {
                    self.closed.push(self.open.swap_remove(at).pack);
                }
                return;
            }
            // Later items belong behind this one.
            self.closed.push(self.open.swap_remove(at).pack);
        }
        if self.closed.len() + self.open.len() >= self.max {
            self.unmatched.push(ticket);
            return;
        }
        let limits = items.limits(&ticket.task);
        self.shared |= limits.inputs > 1;
        let inputs = match ticket.tries.max_pack {
            0 => limits.inputs,
            max_pack => limits.inputs.min(max_pack),
        };
        let pack = Ticket {
            cost: ticket.cost,
            order: ticket.order,
            class: ticket.class.clone(),
            tries: ticket.tries,
            task: vec![member(ticket)],
        };
        match inputs {
            0 | 1 => self.closed.push(pack),
            inputs => self.open.push(OpenPack {
                pack,
                inputs: inputs.into(),
                tokens: limits.tokens,
            }),
        }
    }
}

fn member<T>(ticket: Ticket<T>) -> Member<T> {
    Member {
        task: ticket.task,
        cost: ticket.cost,
        order: ticket.order,
    }
}

/// Only items with equal histories share a call, so that the call has one history. The start time may differ.
fn same_history(a: &Tries, b: &Tries) -> bool {
    Tries {
        first: b.first,
        ..*a
    } == *b
}

fn sum(a: Cost, b: Cost) -> Cost {
    let caps = a.output_cap.zip(b.output_cap);
    Cost {
        input: a.input.saturating_add(b.input),
        output_cap: caps.map(|(a, b)| a.saturating_add(b)),
    }
}

#[cfg(test)]
#[path = "pack_tests.rs"]
pub(crate) mod tests;
