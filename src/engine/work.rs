//! What the dispatcher asks of whatever holds the work: a list, a file, a job store.

use crate::base::clock::Time;
use crate::base::error::Error;

use super::availability::Availability;
use super::class::Class;
use super::item_time::ItemTimer;
use super::limiter::QuotaId;
use super::route::Tries;
use super::time_split::{Limit, TimeSplit};

/// What an item is expected to use of a quota counted in tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Estimated input tokens.
    pub input: u32,
    /// The most it may answer with, where the request says so.
    pub output_cap: Option<u32>,
}

/// An item on its way, with what it has been through.
#[derive(Debug)]
pub(crate) struct Ticket<T> {
    pub task: T,
    pub cost: Cost,
    /// Its place in the input: among equals, first come, first served.
    pub order: u64,
    pub class: Class,
    pub tries: Tries,
    pub timer: ItemTimer,
}

impl<T> Ticket<T> {
    pub(crate) fn quota(&self) -> QuotaId {
        self.class.quota(self.tries.step)
    }
}

/// What `take` found.
pub(crate) enum Take<T> {
    /// Runnable items, at least one.
    Items(Vec<Ticket<T>>),
    /// Nothing runnable now. `until`: when the next waiting item is due, if it waits for time
    /// alone. `source_open`: more may come by itself, and a wake-up will say so.
    Idle {
        until: Option<Time>,
        source_open: bool,
    },
    /// Nothing is left but what is in flight.
    Done,
}

/// What becomes of an item after a call, or without one.
pub(crate) enum Settled<T, D> {
    /// It has its outcome.
    Final(Ticket<T>, Result<D, Error>),
    /// It waits and is offered again, not before then; at [`Time::ZERO`], ahead of all others,
    /// as soon as its quota is open. The error is that of the call that just failed, if one did.
    Later(
        Ticket<T>,
        Time,
        #[cfg_attr(
            not(any(feature = "queue", test)),
            expect(dead_code, reason = "kept by a job store")
        )]
        Option<Error>,
    ),
    /// It will not be sent in this run; the error says why. Of work that outlives the run: it goes
    /// back to where it came from.
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
pub(crate) type TakeEnd<W> = Box<dyn FnOnce(&mut W, Time) + Send>;
/// A claim, made without the engine's lock.
pub(crate) type TakeIo<W> = Box<dyn FnOnce() -> TakeEnd<W> + Send>;

/// A store of work and of what waits. Called under the engine's lock, so it never blocks on
/// anything but the settling write; work that [has a store](Self::has_store) does not block on that either.
pub(crate) trait Work: Sized {
    type Task: Send;
    type Done: Send;

    /// True when items come from a database, which may be far away or locked by another program. Then
    /// [`settle_io`](Self::settle_io) and [`take_io`](Self::take_io) have reads and writes made without the engine's
    /// lock, one of each at a time.
    fn has_store(&self) -> bool {
        false
    }

    /// Takes back the items that only wait for capacity: they need no write.
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

    /// Up to `max` due items whose quota is open.
    fn take(
        &mut self,
        max: usize,
        availability: &Availability,
        now: Time,
    ) -> Result<Take<Self::Task>, Error>;

    /// Makes these ends durable. What it has dealt with it removes from `done`; the rest is
    /// offered again after a while. An error says why something is left.
    fn settle(
        &mut self,
        done: &mut Vec<Settled<Self::Task, Self::Done>>,
        now: Time,
    ) -> Result<(), Error>;

    /// How many items a task stands for. Where it is several, and a failure may be the fault of one
    /// of them, the task comes back to wait and is to be offered again in parts, none of more
    /// than its tries' `max_pack`.
    fn members(&self, _task: &Self::Task) -> usize {
        1
    }

    /// What a task comes to that needs no call; asked before one is made for it.
    fn known(&self, _task: &Self::Task) -> Option<Self::Done> {
        None
    }

    /// False when a task came back without having asked anybody: then nothing is learned of its provider.
    fn is_answer(&self, _done: &Self::Done) -> bool {
        true
    }

    /// Why an item of a task failed although the call brought answers to others of it.
    fn failure_of_one<'d>(&self, _done: &'d Self::Done) -> Option<&'d Error> {
        None
    }

    /// False while nothing is at hand that a slot could be used for, now or later; asked while all slots are in use.
    fn has_more(&mut self) -> bool {
        true
    }

    /// True when a final settle's permit returns later, by an event of its own.
    fn defers_release(&self) -> bool {
        false
    }

    /// Where the run's time has gone up to now; told before anything is taken or settled.
    fn note_time(&mut self, _time: TimeSplit) {}

    /// What keeps back that which is there while nothing can be taken, where it is not the source alone.
    fn held_by(&self) -> Option<Limit> {
        None
    }

    /// True when its provider has answered prompts of it by another way than calls.
    fn is_answered_elsewhere(&self) -> bool {
        false
    }
}
