//! What can be called now: of an item's route the first step that is neither excluded nor behind an
//! open circuit breaker, once its quota is not paused.

use crate::base::clock::Time;
use crate::base::error::Error;

use super::breaker::Breakers;
use super::class::Class;
use super::exclusions::Exclusions;
use super::pauses::Pauses;
use super::quota::QuotaId;

/// What stands in the way of items, and for how long.
#[derive(Debug, Default, Clone)]
pub(crate) struct Availability {
    pub pauses: Pauses,
    pub(super) exclusions: Exclusions,
    pub(super) breakers: Breakers,
}

impl Availability {
    /// Whether an item that has come to `step` has to wait.
    pub(crate) fn is_paused(&self, class: &Class, step: u8, now: Time) -> bool {
        self.paused_quota(class, step, now).is_some()
    }

    /// The quota that an item which has come to `step` has to wait for. One that has nobody left
    /// to ask waits for none: it is told so.
    pub(crate) fn paused_quota(&self, class: &Class, step: u8, now: Time) -> Option<QuotaId> {
        let quota = class.quota(self.callable_step(class, step)?);
        self.pauses.is_paused(quota, now).then_some(quota)
    }

    /// The next time at which a pause or an exclusion ends.
    pub(crate) fn next_change(&self, now: Time) -> Option<Time> {
        let ends = self.pauses.ends().chain(self.exclusions.ends());
        ends.filter(|t| *t > now && *t < Time::FAR).min()
    }

    /// Exclusions that have ended are lifted, and breakers that were open for long enough let one
    /// call through.
    pub(super) fn advance(&mut self, now: Time) {
        self.exclusions.expire(now);
        self.breakers.half_open(now);
    }

    /// The first step from `from` on that can still be called. One whose breaker is open is passed
    /// by where another one follows.
    pub(crate) fn callable_step(&self, class: &Class, from: u8) -> Option<u8> {
        let steps = from..class.steps() as u8;
        let mut left = steps.filter(|step| self.exclusions.reason(class, *step).is_none());
        let first = left.next()?;
        let is_closed = |step: &u8| self.breakers.open_reason(class.at(*step)).is_none();
        let found = std::iter::once(first).chain(left).find(is_closed);
        Some(found.unwrap_or(first))
    }

    /// The first time at which this step or a later one can be probed, if this one is unavailable.
    pub(super) fn opens_again(&self, class: &Class, step: u8, now: Time) -> Option<Time> {
        let closed = |step| self.breakers.closed_until(class.at(step), now);
        let first = closed(step)?;
        let later = (step + 1..class.steps() as u8)
            .filter(|step| self.exclusions.reason(class, *step).is_none())
            .filter_map(closed);
        Some(later.fold(first, Time::min))
    }

    /// Why an item goes past a step.
    pub(super) fn why_passed_by(&self, class: &Class, step: u8) -> Option<&Error> {
        let open = || self.breakers.open_reason(class.at(step));
        self.exclusions.reason(class, step).or_else(open)
    }

    /// Nothing of the quota is called before `until`. What waits for others may have another way
    /// now, so all pauses are asked for anew.
    pub(super) fn exclude_quota(&mut self, quota: QuotaId, error: &Error, until: Time) {
        self.pauses.forget();
        self.exclusions.quota(quota, error, until);
    }

    /// The step is not called before `until`; true when that was the last one of its route.
    pub(crate) fn exclude_step(
        &mut self,
        class: &Class,
        step: u8,
        error: &Error,
        until: Time,
    ) -> bool {
        self.pauses.forget();
        self.exclusions.step(class, step, error, until)
    }
}
