//! The random numbers and the work of the simulation: a list of items that knows where each of
//! them is, and complains when one is somewhere it cannot be.

use crate::base::clock::Time;
use crate::base::error::{Error, ErrorKind};

use crate::engine::route::Tries;
use crate::engine::waiting::Waiting;
use crate::engine::work::{Class, Cost, Gates, Settled, Take, Ticket, Work};

pub(super) struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub(super) fn warm(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            random.next();
        }
        random
    }
    pub(super) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n.max(1)
    }
    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What the model work knows of each item; the invariants are checked where it changes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Item {
    Fresh,
    Out,
    Waiting { due: Time, step: u8 },
    Final { ok: bool },
    Unsent,
}

pub(super) struct ModelWork {
    pub items: Vec<Item>,
    pub classes: Vec<Class>,
    /// The first item that was never read from the source.
    pub next: usize,
    pub waiting: Waiting<(u32, Tries)>,
    pub source_until: usize,
    /// The source breaks instead of giving this item.
    pub breaks_at: Option<usize>,
    pub broke: bool,
    pub full_disk: bool,
    pub defers: bool,
    /// Outcomes that hold their permits until somebody takes them.
    pub unreleased: usize,
}

impl ModelWork {
    pub(super) fn class(&self, item: u32) -> Class {
        self.classes[item as usize % self.classes.len()].clone()
    }
    fn ticket(&self, item: u32, tries: Tries) -> Ticket<u32> {
        Ticket {
            task: item,
            order: item.into(),
            cost: Cost {
                input: 10 + item % 50,
                output_cap: item.is_multiple_of(3).then_some(64),
            },
            class: self.class(item),
            tries,
        }
    }
    /// Items that the source will ever give.
    fn end(&self) -> usize {
        self.breaks_at.unwrap_or(self.items.len())
    }
    pub(super) fn source_open(&self) -> bool {
        self.source_until < self.items.len() && !self.broke
    }
}

impl Work for ModelWork {
    type Task = u32;
    type Done = ();

    fn take(&mut self, max: usize, gates: &Gates, now: Time) -> Result<Take<u32>, Error> {
        assert!(!self.broke, "asked again after the source broke");
        let mut out = Vec::new();
        let readable = self.source_until.min(self.end());
        while out.len() < max {
            let ticket = if let Some((item, tries)) = self.waiting.pop(gates, now) {
                match self.items[item as usize] {
                    Item::Waiting { due, .. } => {
                        assert!(due <= now, "item {item} before its time");
                    }
                    other => panic!("item {item} offered while {other:?}"),
                }
                self.ticket(item, tries)
            } else if self.next < readable {
                let item = self.next as u32;
                let class = self.class(item);
                self.next += 1;
                if let Some(quota) = gates.held_by(&class, 0, now) {
                    self.items[item as usize] = Item::Waiting { due: now, step: 0 };
                    self.waiting
                        .pass_over(quota, item.into(), (item, Tries::default()));
                    continue;
                }
                self.ticket(item, Tries::default())
            } else {
                break;
            };
            self.items[ticket.task as usize] = Item::Out;
            out.push(ticket);
        }
        if !out.is_empty() {
            return Ok(Take::Items(out));
        }
        // As a list does it: what was read before the fault is handed out first.
        if self.breaks_at == Some(self.next) && self.next < self.source_until {
            self.broke = true;
            return Err(Error::new(ErrorKind::Invalid, "the source broke"));
        }
        if self.waiting.is_empty() && !self.source_open() {
            return Ok(Take::Done);
        }
        Ok(Take::Idle {
            until: self.waiting.next_due(gates, now),
            source_open: self.source_open(),
        })
    }

    fn settle(&mut self, done: &mut Vec<Settled<u32, ()>>, _: Time) -> Result<(), Error> {
        let mut left = Vec::new();
        for settled in done.drain(..) {
            match settled {
                Settled::Later(ticket, due) => {
                    let item = &mut self.items[ticket.task as usize];
                    assert_eq!(*item, Item::Out);
                    let step = ticket.tries.step;
                    *item = Item::Waiting { due, step };
                    self.waiting.push(
                        ticket.quota(),
                        due,
                        ticket.order,
                        (ticket.task, ticket.tries),
                    );
                }
                settled if self.full_disk => left.push(settled),
                Settled::Final(ticket, result) => {
                    if let Err(error) = &result {
                        let kind = error.kind();
                        let ours = [ErrorKind::Cancelled, ErrorKind::DeadlineExceeded];
                        assert!(!ours.contains(&kind), "item {} {kind}", ticket.task);
                    }
                    let item = &mut self.items[ticket.task as usize];
                    assert_eq!(*item, Item::Out, "item {} settled twice", ticket.task);
                    *item = Item::Final { ok: result.is_ok() };
                    self.unreleased += usize::from(self.defers);
                }
                Settled::Unsent(ticket, _) => {
                    let item = &mut self.items[ticket.task as usize];
                    assert_eq!(*item, Item::Out, "item {} settled twice", ticket.task);
                    *item = Item::Unsent;
                    self.unreleased += usize::from(self.defers);
                }
            }
        }
        *done = left;
        if done.is_empty() {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::Invalid, "no space left"))
        }
    }

    fn defers_release(&self) -> bool {
        self.defers
    }
}
