//! What the dispatcher asks of whatever holds the work: a list, a file, a job store.

use crate::base::clock::Time;
use crate::base::error::Error;

use super::breaker::Breakers;
use super::class::{Class, StepId};
use super::limiter::QuotaId;
use super::route::Tries;

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
    /// as soon as its quota is open. The error is that of the call that just failed, if one did.
    Later(
        Ticket<T>,
        Time,
        #[cfg_attr(
            not(feature = "queue"),
            expect(dead_code, reason = "kept by a job store")
        )]
        Option<Error>,
    ),
    /// It will not be sent in this run; the error says why. Of work that outlives the run: it goes
    /// back to where it came from.
    Unsent(Ticket<T>, Error),
}

/// What stands in the way of items: quotas of which nothing may start before some time, and
/// steps or quotas that are not called again in this run.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    until: Vec<Time>,
    dead_steps: Vec<(StepId, Buried)>,
    dead_quotas: Vec<(QuotaId, Buried)>,
    pub(super) breakers: Breakers,
}

/// Why something is not called, and until when; [`Time::FAR`] for the rest of the run.
#[derive(Debug)]
struct Buried {
    why: Error,
    until: Time,
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
        let steps = self.dead_steps.iter().map(|(_, buried)| buried.until);
        let quotas = self.dead_quotas.iter().map(|(_, buried)| buried.until);
        let until = self.until.iter().copied().chain(steps).chain(quotas);
        until.filter(|t| *t > now && *t < Time::FAR).min()
    }

    /// What was buried until now is called again.
    pub(crate) fn revive(&mut self, now: Time) {
        self.dead_steps.retain(|(_, buried)| buried.until > now);
        self.dead_quotas.retain(|(_, buried)| buried.until > now);
    }

    /// The first step from `from` on that can still be called. One whose breaker is open is passed
    /// by where another one follows.
    pub(crate) fn live_step(&self, class: &Class, from: u8) -> Option<u8> {
        let mut live = (from..class.steps() as u8).filter(|step| self.dead(class, *step).is_none());
        let first = live.next()?;
        let is_closed = |step: &u8| self.breakers.open_reason(class.at(*step)).is_none();
        let found = std::iter::once(first).chain(live).find(is_closed);
        Some(found.unwrap_or(first))
    }

    /// Why an item goes past a step.
    pub(super) fn why_not(&self, class: &Class, step: u8) -> Option<&Error> {
        let open = || self.breakers.open_reason(class.at(step));
        self.dead(class, step).or_else(open)
    }

    /// Why a step is not called any more.
    pub(crate) fn dead(&self, class: &Class, step: u8) -> Option<&Error> {
        if self.dead_steps.is_empty() && self.dead_quotas.is_empty() {
            return None;
        }
        let (at, quota) = (class.at(step), class.quota(step));
        let by_step = self.dead_steps.iter().find(|(dead, _)| *dead == at);
        let by_step = by_step.map(|(_, buried)| &buried.why);
        by_step.or_else(|| {
            let found = self.dead_quotas.iter().find(|(dead, _)| *dead == quota);
            found.map(|(_, buried)| &buried.why)
        })
    }

    /// The first reason why something is not called at the moment.
    #[cfg(feature = "queue")]
    pub(crate) fn obituary(&self) -> Option<&Error> {
        let step = self.dead_steps.first().map(|(_, buried)| &buried.why);
        step.or_else(|| self.dead_quotas.first().map(|(_, buried)| &buried.why))
    }

    /// What waits behind a closed quota may have another way now. Whatever has none meets the
    /// limiter, which closes the quota again.
    pub(super) fn let_pass(&mut self) {
        self.until.fill(Time::ZERO);
    }

    /// Nothing of the quota is called before `until`.
    pub(crate) fn bury_quota(&mut self, quota: QuotaId, error: &Error, until: Time) {
        self.let_pass();
        if quota != QuotaId::NONE && !self.dead_quotas.iter().any(|(dead, _)| *dead == quota) {
            let why = error.clone();
            self.dead_quotas.push((quota, Buried { why, until }));
        }
    }

    /// The step is not called before `until`; true when that was the last one alive of its route.
    pub(crate) fn bury_step(
        &mut self,
        class: &Class,
        step: u8,
        error: &Error,
        until: Time,
    ) -> bool {
        self.let_pass();
        let dead =
            |gates: &Self, step| gates.dead_steps.iter().any(|(at, _)| *at == class.at(step));
        if !dead(self, step) {
            let why = error.clone();
            self.dead_steps
                .push((class.at(step), Buried { why, until }));
        }
        (0..class.steps() as u8).all(|step| dead(self, step))
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

    /// True when its provider has answered prompts of it by another way than calls.
    fn is_answered_elsewhere(&self) -> bool {
        false
    }
}
