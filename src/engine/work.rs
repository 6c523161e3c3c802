//! What the dispatcher asks of whatever holds the work: a list, a file, later a job store.

use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::error::Error;

use super::limit::QuotaId;
use super::route::Tries;

/// The quotas an item meets, one for each step of its route. Items of one class are alike to the
/// limiter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Class(pub Arc<[QuotaId]>);

impl Class {
    pub(crate) fn steps(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn quota(&self, step: u8) -> QuotaId {
        self.0.get(step as usize).copied().unwrap_or(QuotaId::NONE)
    }
}

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

/// How one trip of an item ended.
pub(crate) enum Settled<T, D> {
    /// It has its outcome.
    Final(Ticket<T>, Result<D, Error>),
    /// It waits and is offered again, not before then; at [`Time::ZERO`], ahead of all others,
    /// as soon as its quota is open.
    Later(Ticket<T>, Time),
    /// It will not be sent in this run; the error says why.
    Unsent(Ticket<T>, Error),
}

/// What stands in the way of items: quotas of which nothing may start before some time, and
/// steps or quotas that are not called again in this run.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    until: Vec<Time>,
    dead_steps: Vec<Option<Error>>,
    dead_quotas: Vec<(QuotaId, Error)>,
}

impl Gates {
    /// Nothing of the quota is taken before `until`; a time in the past opens it.
    pub(crate) fn close(&mut self, quota: QuotaId, until: Time) {
        let at = quota.0 as usize;
        if self.until.len() <= at {
            self.until.resize(at + 1, Time::ZERO);
        }
        self.until[at] = until;
    }

    pub(crate) fn is_closed(&self, quota: QuotaId, now: Time) -> bool {
        self.until.get(quota.0 as usize).is_some_and(|t| *t > now)
    }

    /// Whether an item that has come to `step` has to wait.
    pub(crate) fn holds(&self, class: &Class, step: u8, now: Time) -> bool {
        self.held_by(class, step, now).is_some()
    }

    /// The quota that an item which has come to `step` has to wait for. One that has nobody left
    /// to ask waits for none: it is told so.
    pub(crate) fn held_by(&self, class: &Class, step: u8, now: Time) -> Option<QuotaId> {
        let quota = class.quota(self.live_step(class, step)?);
        self.is_closed(quota, now).then_some(quota)
    }

    /// The next time at which a closed quota opens.
    pub(crate) fn next_opening(&self, now: Time) -> Option<Time> {
        self.until.iter().copied().filter(|t| *t > now).min()
    }

    /// The first step from `from` on that can still be called.
    pub(crate) fn live_step(&self, class: &Class, from: u8) -> Option<u8> {
        (from..class.steps() as u8).find(|step| self.dead(class.quota(*step), *step).is_none())
    }

    /// Why a step is not called any more.
    pub(crate) fn dead(&self, quota: QuotaId, step: u8) -> Option<&Error> {
        let by_step = self
            .dead_steps
            .get(usize::from(step))
            .and_then(Option::as_ref);
        by_step.or_else(|| {
            let found = self.dead_quotas.iter().find(|(dead, _)| *dead == quota);
            found.map(|(_, error)| error)
        })
    }

    /// What waits behind a closed quota may have another way now. Whatever has none meets the
    /// limiter, which closes the quota again.
    fn let_pass(&mut self) {
        self.until.fill(Time::ZERO);
    }

    /// Nothing of the quota is called again.
    pub(crate) fn bury_quota(&mut self, quota: QuotaId, error: &Error) {
        self.let_pass();
        if quota != QuotaId::NONE && !self.dead_quotas.iter().any(|(dead, _)| *dead == quota) {
            self.dead_quotas.push((quota, error.clone()));
        }
    }

    /// The step is not called again; true when that was the last one alive.
    pub(crate) fn bury_step(&mut self, class: &Class, step: u8, error: &Error) -> bool {
        self.let_pass();
        let steps = class.steps().max(self.dead_steps.len());
        self.dead_steps.resize(steps, None);
        self.dead_steps[usize::from(step)].get_or_insert_with(|| error.clone());
        self.dead_steps.iter().all(Option::is_some)
    }
}

/// A store of work and of what waits. Called under the engine's lock, so it never blocks on
/// anything but the settling write.
pub(crate) trait Work {
    type Task: Send;
    type Done: Send;

    /// Up to `max` due items whose quota is open.
    fn take(&mut self, max: usize, gates: &Gates, now: Time) -> Result<Take<Self::Task>, Error>;

    /// Makes these ends durable. What it has dealt with it removes from `done`; the rest is
    /// offered again after a while. An error says why something is left.
    fn settle(
        &mut self,
        done: &mut Vec<Settled<Self::Task, Self::Done>>,
        now: Time,
    ) -> Result<(), Error>;

    /// How many items a task stands for. Where it is several, and a failure may be the fault of one
    /// of them, the task comes back to wait and is to be offered again in parts, none of more
    /// than its tries' `company`.
    fn members(&self, _task: &Self::Task) -> usize {
        1
    }

    /// True when a final settle's permit returns later, by an event of its own.
    fn defers_release(&self) -> bool {
        false
    }
}
