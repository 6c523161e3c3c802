//! The interface between the dispatcher and a source of work: a list, a file, a job store.

use std::iter::Sum;

use crate::base::{Error, Time};

use super::availability::Availability;
use super::limited_by::Limit;
use super::quota::{Class, QuotaId, StepId};
use super::route::Tries;

/// Expected use of a token quota.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Estimated input tokens.
    pub input: u32,
    /// Maximum number of output tokens, if the request sets one.
    pub output_cap: Option<u32>,
}

/// An item that was taken, with its history.
#[derive(Debug)]
pub(crate) struct Ticket<T> {
    pub task: T,
    pub cost: Cost,
    /// Position in the input: equal items start in this order.
    pub order: u64,
    pub class: Class,
    pub tries: Tries,
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        let none = Self {
            input: 0,
            output_cap: Some(0),
        };
        costs.fold(none, |a, b| Self {
            input: a.input.saturating_add(b.input),
            output_cap: (a.output_cap.zip(b.output_cap)).map(|(a, b)| a.saturating_add(b)),
        })
    }
}

impl<T> Ticket<T> {
    pub(crate) fn quota(&self) -> QuotaId {
        self.class.quota(self.tries.step)
    }

    pub(super) fn step(&self) -> StepId {
        self.class.at(self.tries.step)
    }
}

/// Result of `take`.
pub(crate) enum Take<T> {
    /// Runnable items, at least one.
    Items(Vec<Ticket<T>>),
    /// No item is runnable now. `until`: when the next waiting item is due, if only time is missing. `source_open`:
    /// more items may arrive, and a wake-up will announce them.
    Idle {
        until: Option<Time>,
        source_open: bool,
    },
    /// Only items in flight are left.
    Done,
}

/// The end of an item's turn, after a call or without one.
pub(crate) enum Settled<T, D> {
    /// It has its outcome.
    Final(Ticket<T>, Result<D, Error>),
    /// The item waits, and is offered again at this time or later; [`Time::ZERO`] puts it before all others as soon
    /// as its quota is open. The error is that of the call that just failed, if one did.
    Later(Ticket<T>, Time, Option<Error>),
    /// The item is not sent in this run, for this reason. Durable work returns it to the queue.
    Unsent(Ticket<T>, Error),
}

/// Applies, under the engine's lock, the outcome of a settling write that was made without it. Like
/// [`settle`](Work::settle), it removes what is durable.
pub(crate) type SettleEnd<W> = Box<
    dyn FnOnce(
            &mut W,
            &mut Vec<Settled<<W as Work>::Task, <W as Work>::Done>>,
            Time,
        ) -> Result<(), Error>
        + Send,
>;
/// A settling write, made without the engine's lock.
pub(crate) type SettleIo<W> = Box<dyn FnOnce() -> SettleEnd<W> + Send>;
/// Applies, under the engine's lock, the outcome of a claim.
pub(crate) type TakeEnd<W> = Box<dyn FnOnce(&mut W) + Send>;
/// A claim, made without the engine's lock.
pub(crate) type TakeIo<W> = Box<dyn FnOnce() -> TakeEnd<W> + Send>;

/// A source of work, which also stores waiting items. Called under the engine's lock, so it blocks on nothing but the
/// settling write. Work that [has a store](Self::has_store) does not block on that either.
pub(crate) trait Work: Sized {
    type Task: Send;
    type Done: Send;

    /// Whether items come from a database, which may be remote or locked by another program. If true,
    /// [`settle_io`](Self::settle_io) and [`take_io`](Self::take_io) make reads and writes without the engine's lock,
    /// one of each at a time.
    fn has_store(&self) -> bool {
        false
    }

    /// Takes back items that only wait for capacity: they need no write.
    fn keep(&mut self, _done: &mut Vec<Settled<Self::Task, Self::Done>>) {}

    /// The write that makes these ends durable. Work that has a store uses it instead of [`settle`](Self::settle).
    fn settle_io(
        &mut self,
        _done: &[Settled<Self::Task, Self::Done>],
        _now: Time,
    ) -> Option<SettleIo<Self>> {
        None
    }

    /// The claim that the last [`take`](Self::take) needed. The next one uses its outcome.
    fn take_io(&mut self) -> Option<TakeIo<Self>> {
        None
    }

    /// Takes up to `max` due items whose quota is open.
    fn take(
        &mut self,
        max: usize,
        availability: &Availability,
        now: Time,
    ) -> Result<Take<Self::Task>, Error>;

    /// Makes these ends durable and removes them from `done`. The rest is offered again later; the error says why.
    fn settle(
        &mut self,
        done: &mut Vec<Settled<Self::Task, Self::Done>>,
        now: Time,
    ) -> Result<(), Error>;

    /// Number of items in a task. If it is more than one, and one item may have caused a failure, the task returns to
    /// wait, and each of its items must be offered again by itself if its tries say `alone`.
    fn members(&self, _task: &Self::Task) -> usize {
        1
    }

    /// False if the task returned without a call: then it shows nothing about its provider.
    fn is_answer(&self, _done: &Self::Done) -> bool {
        true
    }

    /// The error of one item of a task whose other items were answered.
    fn failure_of_one<'d>(&self, _done: &'d Self::Done) -> Option<&'d Error> {
        None
    }

    /// False if no item is available for a slot, now or later; asked while all slots are in use.
    fn has_more(&mut self) -> bool {
        true
    }

    /// True if the permit of a final settle returns later, with a separate event.
    fn defers_release(&self) -> bool {
        false
    }

    /// What delays the available items while none can be taken, if it is not the source.
    fn held_by(&self) -> Option<Limit> {
        None
    }

    /// Whether an available item waits for this quota; asked while none can be taken. A store does not know all of its
    /// items: true.
    fn waits_for(&mut self, _quota: QuotaId, _availability: &Availability) -> bool {
        true
    }

    /// Whether the provider has answered prompts of this work in another way than by calls.
    fn is_answered_elsewhere(&self) -> bool {
        false
    }
}
