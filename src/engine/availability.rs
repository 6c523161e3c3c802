//! Which steps can be called now: the first step of an item's route that is neither excluded nor behind an open
//! circuit breaker, and whose quota is not paused.

use crate::base::{Error, Time};

use super::breaker::Breakers;
use super::class::Class;
use super::exclusions::Exclusions;
use super::pauses::Pauses;
use super::quota::QuotaId;

/// Everything that can make items wait, and how long each lasts.
#[derive(Debug, Default, Clone)]
pub(crate) struct Availability {
    pub pauses: Pauses,
    pub(crate) exclusions: Exclusions,
    pub(super) breakers: Breakers,
}

impl Availability {
    /// Whether an item at `step` must wait for a quota.
    pub(crate) fn is_paused(&self, class: &Class, step: u8, now: Time) -> bool {
        self.paused_quota(class, step, now).is_some()
    }

    /// The paused quota that an item at `step` must wait for. `None` if no provider is left for the item: it must
    /// fail now.
    pub(crate) fn paused_quota(&self, class: &Class, step: u8, now: Time) -> Option<QuotaId> {
        let quota = class.quota(self.callable_step(class, step)?);
        self.pauses.is_paused(quota, now).then_some(quota)
    }

    /// The next time at which a pause or an exclusion ends.
    pub(crate) fn next_change(&self, now: Time) -> Option<Time> {
        let ends = self.pauses.ends().chain(self.exclusions.ends());
        ends.filter(|t| *t > now && *t < Time::FAR).min()
    }

    /// Lets one call probe what was excluded long enough, and lets breakers that were open long enough admit one call.
    pub(super) fn advance(&mut self, now: Time) {
        self.exclusions.expire(now);
        self.breakers.half_open(now);
    }

    /// The first callable step at or after `from`. A step with an open breaker is skipped if a later step is
    /// callable.
    pub(crate) fn callable_step(&self, class: &Class, from: u8) -> Option<u8> {
        let steps = from..class.steps() as u8;
        let mut left = steps.filter(|step| self.exclusions.reason(class, *step).is_none());
        let first = left.next()?;
        let is_closed = |step: &u8| self.breakers.open_reason(class.at(*step)).is_none();
        let found = std::iter::once(first).chain(left).find(is_closed);
        Some(found.unwrap_or(first))
    }

    /// If this step is unavailable: the first time at which this or a later step can be probed.
    pub(super) fn opens_again(&self, class: &Class, step: u8, now: Time) -> Option<Time> {
        let closed = |step| self.breakers.closed_until(class.at(step), now);
        let first = closed(step)?;
        let later = (step + 1..class.steps() as u8)
            .filter(|step| self.exclusions.reason(class, *step).is_none())
            .filter_map(closed);
        Some(later.fold(first, Time::min))
    }

    /// Why items skip a step.
    pub(super) fn why_passed_by(&self, class: &Class, step: u8) -> Option<&Error> {
        let open = || self.breakers.open_reason(class.at(step));
        self.exclusions.reason(class, step).or_else(open)
    }

    /// Blocks the quota until `until`. Ends all pauses, because waiting items may have another provider now; the
    /// limiter pauses quotas again when it is asked.
    pub(super) fn exclude_quota(&mut self, quota: QuotaId, error: &Error, until: Time) {
        self.pauses.forget();
        self.exclusions.quota(quota, error, until);
    }

    /// Blocks the step until `until`. Returns true if it was the last callable step of its route.
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
