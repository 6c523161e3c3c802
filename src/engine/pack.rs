//! Items that share a call: a backlog that is taken from in packs.
//!
//! What waits, resumes and is counted is always the single item. A pack exists from its dispatch
//! to the end of its call; what comes back is handed to the items' own backlog and packed anew.
//! A completion is a pack of one.

use crate::base::clock::Time;
use crate::base::error::Error;

use super::availability::Availability;
use super::route::Tries;
use super::work::{Cost, Take, Ticket};

/// How much of what is embedded goes into one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub struct PackLimits {
    /// Texts, at least 1.
    pub inputs: u16,
    /// Tokens of all texts together, by estimate; a single text may have more.
    pub tokens: u32,
}

impl PackLimits {
    /// A call for each text.
    pub const ONE: Self = Self {
        inputs: 1,
        tokens: u32::MAX,
    };

    /// What fits into both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            inputs: self.inputs.min(other.inputs).max(1),
            tokens: self.tokens.min(other.tokens),
        }
    }
}

/// Where items come from and where those that wait are kept.
pub(crate) trait Backlog {
    type Task: Send;
    fn take(
        &mut self,
        max: usize,
        availability: &Availability,
        now: Time,
    ) -> Result<Take<Self::Task>, Error>;
    fn wait(&mut self, ticket: Ticket<Self::Task>, due: Time);

    /// Another item to share a call that has been begun, which costs no permit.
    fn more(&mut self, availability: &Availability, now: Time) -> Result<Take<Self::Task>, Error> {
        self.take(1, availability, now)
    }

    /// How much may share a call with the task.
    fn limits(&self, task: &Self::Task) -> PackLimits;

    /// Whether these two may share a call, as far as it depends on what they ask for.
    fn alike(&self, a: &Self::Task, b: &Self::Task) -> bool;

    /// False while nothing is at hand that could be taken, now or later.
    fn has_more(&mut self) -> bool {
        true
    }

    /// Items that are known here and in no total.
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

/// What one call is made for; never empty, and all in the same class with the same tries.
pub(crate) type Pack<T> = Vec<Member<T>>;

/// Items that may be looked at in vain while a pack is filled: of several models in turn, each
/// pack finds its own, yet a pack does not search a whole file.
const MISFITS: usize = 4096;

/// A backlog whose items are taken in packs.
pub(crate) struct Packed<B: Backlog> {
    pub items: B,
    /// What the backlog said when some of a pack had been taken already.
    broken: Option<Error>,
}

impl<B: Backlog> Packed<B> {
    pub(crate) fn new(items: B) -> Self {
        Self {
            items,
            broken: None,
        }
    }

    /// Up to `max` packs.
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
            misfits: Vec::new(),
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
        for ticket in packing.misfits {
            self.items.wait(ticket, Time::ZERO);
        }
        let mut packs = packing.closed;
        packs.extend(packing.open.into_iter().map(|open| open.pack));
        Ok(Take::Items(packs))
    }

    /// Gives the members of a pack back, each with what the pack has been through.
    pub(crate) fn wait(&mut self, pack: Ticket<Pack<B::Task>>, due: Time) {
        let (class, tries, timer) = (pack.class, pack.tries, pack.timer);
        for Member { task, cost, order } in pack.task {
            let ticket = Ticket {
                task,
                cost,
                order,
                class: class.clone(),
                tries,
                timer,
            };
            self.items.wait(ticket, due);
        }
    }
}

/// Packs in the making.
struct Packing<T> {
    max: usize,
    closed: Vec<Ticket<Pack<T>>>,
    open: Vec<OpenPack<T>>,
    misfits: Vec<Ticket<T>>,
    /// Calls take more than one item, so it is worth looking for more.
    shared: bool,
}

/// A pack with room for others.
struct OpenPack<T> {
    pack: Ticket<Pack<T>>,
    inputs: usize,
    tokens: u32,
}

impl<T> Packing<T> {
    fn has_room(&self) -> bool {
        let room = self.closed.len() < self.max || !self.open.is_empty();
        self.shared && room && self.misfits.len() < MISFITS
    }

    fn add<B: Backlog<Task = T>>(&mut self, items: &B, ticket: Ticket<T>) {
        let fits = |open: &OpenPack<T>| {
            open.pack.class == ticket.class
                && same(&open.pack.tries, &ticket.tries)
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
            // What follows belongs behind this one.
            self.closed.push(self.open.swap_remove(at).pack);
        }
        if self.closed.len() + self.open.len() >= self.max {
            self.misfits.push(ticket);
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
            timer: ticket.timer,
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

/// Only items that have been through the same share a call, so that it has one history. When that
/// began is no matter.
fn same(a: &Tries, b: &Tries) -> bool {
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
