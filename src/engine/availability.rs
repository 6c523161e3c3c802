//! Which steps can be called now: the first step of an item's route that is neither excluded nor in an outage, and whose
//! quota is not paused.
//!
//! - **Pauses.** The limiter decides about pauses. Its last decisions are stored here, so that items of a paused quota are
//!   skipped without asking it for each of them.
//! - **Exclusions.** A provider that failed critically, and a model that it does not know. A run excludes them until its end;
//!   durable work probes them later with one call at a time. A rejected API key or a `Retry-After` of hours concerns all items,
//!   unless other calls are answered: a host's own client may use another API key for one item. So a step that has answered, or
//!   has other calls in flight, is in question until enough consecutive calls have failed in this way. An account without
//!   credit is critical at once.
//! - **Outages.** See [`health`].

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::{Error, ErrorKind, Time};

use super::quota::{Class, QuotaId, StepId};

mod doubt;
mod health;

#[cfg(test)]
pub(crate) use health::MAX_LOADING;
use health::{Closed, Shared, StepHealth};
pub(crate) use health::{Detour, EndFacts, Shown, may_be_shared};

/// Interval of checks while a call probes a step. The end of the probe is noticed immediately.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Everything that can make items wait, and how long each lasts.
#[derive(Debug, Default, Clone)]
pub(crate) struct Availability {
    pub pauses: Pauses,
    /// The steps that were called.
    steps: Vec<StepHealth>,
    quotas: BTreeMap<QuotaId, Shared>,
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
        let excluded = self.all_excluded().map(|closed| closed.until);
        let ends = self.pauses.0.values().copied().chain(excluded);
        ends.filter(|t| *t > now && *t < Time::FAR).min()
    }

    /// Lets one call probe what was excluded or away long enough.
    pub(super) fn advance(&mut self, now: Time) {
        let steps = self.steps.iter_mut();
        let of_steps = steps.flat_map(|step| [&mut step.outage, &mut step.shared.excluded]);
        let of_quotas = self.quotas.values_mut().map(|quota| &mut quota.excluded);
        for closed in of_steps.chain(of_quotas).flatten() {
            closed.advance(now);
        }
    }

    /// The first callable step at or after `from`. A step in an outage is skipped if a later step is callable.
    pub(crate) fn callable_step(&self, class: &Class, from: u8) -> Option<u8> {
        let mut left = self.not_excluded(class, from);
        let first = left.next()?;
        let is_up = |step: &u8| self.outage(class.at(*step)).is_none();
        let found = std::iter::once(first).chain(left).find(is_up);
        Some(found.unwrap_or(first))
    }

    fn not_excluded(&self, class: &Class, from: u8) -> impl Iterator<Item = u8> {
        let steps = from..class.steps() as u8;
        steps.filter(|step| self.excluded(class, *step).is_none())
    }

    /// If this step is unavailable: the first time at which this or a later step can be probed.
    pub(super) fn opens_again(&self, class: &Class, step: u8, now: Time) -> Option<Time> {
        let closed = |step| {
            let outage = self.step(class.at(step))?.closed()?;
            let is_probed = outage.probe.is_some();
            Some(if is_probed {
                now.after(LOOK_AGAIN)
            } else {
                outage.until
            })
        };
        let first = closed(step)?;
        let later = self.not_excluded(class, step + 1).filter_map(closed);
        Some(later.fold(first, Time::min))
    }

    /// Why items skip a step.
    pub(super) fn why_passed_by(&self, class: &Class, step: u8) -> Option<&Error> {
        let outage = || self.outage(class.at(step));
        self.excluded(class, step).or_else(outage)
    }

    /// Why a step is not called while another step can be.
    pub(super) fn outage(&self, step: StepId) -> Option<&Error> {
        self.step(step)?.closed().map(|outage| &outage.why)
    }

    /// Whether all steps that were called are in an outage.
    pub(super) fn all_away(&self) -> bool {
        !self.steps.is_empty() && self.steps.iter().all(|step| step.outage.is_some())
    }

    /// Whether the probe of a step may start.
    pub(super) fn wants_probe(&self, now: Time) -> bool {
        self.steps.iter().any(|step| step.wants_probe(now))
    }

    /// Excludes the quota until `until`. Ends all pauses, because waiting items may have another provider now; the
    /// limiter pauses quotas again when it is asked.
    pub(super) fn exclude_quota(&mut self, quota: QuotaId, error: &Error, until: Time) {
        self.pauses.forget();
        if quota != QuotaId::NONE {
            self.quota(quota).exclude(error, until);
        }
    }

    /// Excludes the step until `until`. Returns true if it was the last callable step of its route.
    pub(crate) fn exclude_step(
        &mut self,
        class: &Class,
        step: u8,
        error: &Error,
        until: Time,
    ) -> bool {
        self.pauses.forget();
        let at = self.step_mut(class.at(step));
        at.shared.exclude(error, until);
        let is_excluded = |step| {
            let known = self.step(class.at(step));
            known.is_some_and(|known| known.shared.excluded.is_some())
        };
        (0..class.steps() as u8).all(is_excluded)
    }

    fn step(&self, id: StepId) -> Option<&StepHealth> {
        self.steps.iter().find(|step| step.id == id)
    }

    pub(super) fn step_mut(&mut self, id: StepId) -> &mut StepHealth {
        let at = self.steps.iter().position(|step| step.id == id);
        let at = at.unwrap_or_else(|| {
            self.steps.push(StepHealth::of(id));
            self.steps.len() - 1
        });
        &mut self.steps[at]
    }

    fn quota(&mut self, quota: QuotaId) -> &mut Shared {
        self.quotas.entry(quota).or_default()
    }

    /// What is known of a quota; of a step, if its tasks have none.
    pub(super) fn shared(&mut self, step: StepId, quota: QuotaId) -> &mut Shared {
        match quota {
            QuotaId::NONE => &mut self.step_mut(step).shared,
            quota => self.quota(quota),
        }
    }

    /// The exclusions of a step and of its quota, also those that a call may probe.
    fn exclusions(&self, class: &Class, step: u8) -> impl Iterator<Item = &Closed> {
        let of_step = self.step(class.at(step)).map(|step| &step.shared);
        let of_quota = self.quotas.get(&class.quota(step));
        let shared = of_step.into_iter().chain(of_quota);
        shared.filter_map(|shared| shared.excluded.as_ref())
    }

    fn all_excluded(&self) -> impl Iterator<Item = &Closed> {
        let all = self.all_shared();
        all.filter_map(|shared| shared.excluded.as_ref())
    }

    fn all_shared(&self) -> impl Iterator<Item = &Shared> {
        let of_steps = self.steps.iter().map(|step| &step.shared);
        of_steps.chain(self.quotas.values())
    }

    /// Why a step is excluded.
    pub(super) fn excluded(&self, class: &Class, step: u8) -> Option<&Error> {
        let mut found = self
            .exclusions(class, step)
            .filter(|closed| closed.holds_calls());
        found.next().map(|closed| &closed.why)
    }

    /// Whether a step is excluded, or is being probed.
    pub(super) fn was_excluded(&self, class: &Class, step: u8) -> bool {
        self.exclusions(class, step).next().is_some()
    }

    /// Why no step of a route answers, if all are excluded or were when they were last called: a rejected key only if
    /// each step rejected it, and otherwise the reason of the first step that has another one.
    pub(crate) fn refusal(&self, class: &Class) -> Option<&Error> {
        let (mut of_key, mut other) = (None, None);
        for step in 0..class.steps() as u8 {
            let mut reasons = self.exclusions(class, step).map(|closed| &closed.why);
            let first = reasons.next()?;
            let mut all = std::iter::once(first).chain(reasons);
            match all.find(|why| why.kind() == ErrorKind::Auth) {
                Some(why) => of_key = of_key.or(Some(why)),
                None => other = other.or(Some(first)),
            }
        }
        other.or(of_key)
    }

    /// Whether only one call may start, to find out if the step is still to be excluded.
    pub(crate) fn is_probed(&self, class: &Class, step: u8) -> bool {
        self.exclusions(class, step).any(Closed::is_due)
    }

    /// The reasons of the exclusions that let no call start; steps come before quotas.
    pub(crate) fn reasons(&self) -> impl Iterator<Item = &Error> {
        let closed = self.all_excluded().filter(|closed| closed.holds_calls());
        closed.map(|closed| &closed.why)
    }

    /// Records the start of a call, which is a probe if one is due.
    pub(super) fn begin_call(&mut self, step: StepId, quota: QuotaId, number: u64, now: Time) {
        if quota != QuotaId::NONE {
            self.quota(quota).begin_call(number);
        }
        let at = self.step_mut(step);
        at.first_call.get_or_insert(now);
        at.shared.begin_call(number);
        if let Some(outage) = &mut at.outage {
            outage.begin_call(number);
        }
    }

    /// Records the end of a call. Returns true if it was the probe of an outage.
    pub(super) fn end_call(
        &mut self,
        step: StepId,
        quota: QuotaId,
        (number, end): (u64, Shown),
        now: Time,
    ) -> bool {
        if let Some(quota) = self.quotas.get_mut(&quota) {
            quota.end_call(number, end, now);
        }
        let at = self.step_mut(step);
        at.shared.end_call(number, end, now);
        let probe = at.outage.as_mut().map(|outage| &mut outage.probe);
        probe.is_some_and(|probe| probe.take_if(|probe| *probe == number).is_some())
    }

    /// An item was answered: later failures concern single items until others follow.
    pub(super) fn answered(&mut self, step: StepId, quota: QuotaId) {
        self.step_mut(step).shared.answered();
        self.shared(step, quota).answered();
    }

    fn both(&self, step: StepId, quota: QuotaId) -> impl Iterator<Item = &Shared> {
        let of_step = self.step(step).map(|step| &step.shared);
        of_step.into_iter().chain(self.quotas.get(&quota))
    }

    /// For what, a step or its quota, calls in flight will show if it can be called, so that no further one begins.
    pub(super) fn held(&self, step: StepId, quota: QuotaId, now: Time) -> usize {
        let both = self.both(step, quota);
        both.filter(|shared| shared.is_held(now)).count()
    }

    /// When the next call of a step or its quota begins at the earliest, if only time holds it.
    pub(super) fn paced_until(&self, step: StepId, quota: QuotaId, now: Time) -> Option<Time> {
        let both = self.both(step, quota);
        both.filter_map(|shared| shared.doubt.paced_until(now))
            .max()
    }

    /// Whether so many calls have ended alike that the next ones are chosen from many.
    pub(crate) fn is_suspect(&self, now: Time) -> bool {
        self.all_shared().any(|shared| shared.is_in_doubt(now))
    }

    /// The same of what a class calls at a step.
    pub(crate) fn is_class_in_doubt(&self, class: &Class, step: u8, now: Time) -> bool {
        self.is_in_doubt(class.at(step), class.quota(step), now)
    }

    /// Whether so many calls of a step, or of its quota, have.
    pub(super) fn is_in_doubt(&self, step: StepId, quota: QuotaId, now: Time) -> bool {
        self.both(step, quota).any(|shared| shared.is_in_doubt(now))
    }

    /// The number of calls in flight to a step.
    pub(super) fn in_flight(&self, step: StepId) -> usize {
        self.step(step).map_or(0, |step| step.shared.in_flight)
    }

    /// Whether the step answers at the moment.
    pub(super) fn answers(&self, step: StepId, now: Time) -> bool {
        self.step(step).is_some_and(|step| step.answers(now))
    }

    /// Since when a server has been loading its model.
    pub(crate) fn loading_since(&self) -> Option<Time> {
        let all = self.all_shared();
        all.filter_map(|shared| shared.loading_since).min()
    }
}

/// The end of the pause of each quota.
#[derive(Debug, Default, Clone)]
pub(crate) struct Pauses(BTreeMap<QuotaId, Time>);

impl Pauses {
    /// Pauses the quota until `until`; a time in the past ends its pause.
    pub(crate) fn set(&mut self, quota: QuotaId, until: Time) {
        self.0.insert(quota, until);
    }

    pub(crate) fn is_paused(&self, quota: QuotaId, now: Time) -> bool {
        self.until(quota, now).is_some()
    }

    /// The end of the quota's pause, if it is paused.
    pub(crate) fn until(&self, quota: QuotaId, now: Time) -> Option<Time> {
        let until = self.0.get(&quota).copied();
        until.filter(|until| *until > now)
    }

    /// The quotas that are paused.
    pub(super) fn paused(&self, now: Time) -> impl Iterator<Item = QuotaId> + '_ {
        let paused = self.0.iter().filter(move |(_, until)| **until > now);
        paused.map(|(quota, _)| *quota)
    }

    /// Ends all pauses. The limiter pauses a quota again when the next item asks for it.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_rejects_the_key_only_if_each_step_does() {
        // A step and its quota can be excluded for different reasons.
        let quota = QuotaId(1);
        let class = Class::new([quota, quota]);
        let [key, credit, model] = [ErrorKind::Auth, ErrorKind::Quota, ErrorKind::UnknownModel]
            .map(|kind| Error::new(kind, "no"));
        let refusal = |reasons: &[&Error], of_quota: Option<&Error>| {
            let mut availability = Availability::default();
            for (step, why) in (0..).zip(reasons) {
                availability.exclude_step(&class, step, why, Time::FAR);
            }
            if let Some(why) = of_quota {
                availability.exclude_quota(quota, why, Time::FAR);
            }
            availability.refusal(&class).map(Error::kind)
        };
        assert_eq!(refusal(&[&key], None), None);
        assert_eq!(refusal(&[&key, &key], None), Some(key.kind()));
        assert_eq!(refusal(&[&credit, &key], None), Some(credit.kind()));
        assert_eq!(refusal(&[&key, &model], None), Some(model.kind()));
        assert_eq!(refusal(&[&model, &model], Some(&key)), Some(key.kind()));
    }

    #[test]
    fn critical_failures_are_counted_by_step_and_quota() {
        let (step, quota) = (StepId::default(), QuotaId(1));
        let mut availability = Availability::default();
        availability.answered(step, quota);
        availability.begin_call(step, quota, 1, Time::ZERO);
        let mut is_critical = |quota| availability.shared(step, quota).is_critical(0);
        assert!(is_critical(QuotaId(2)) && !is_critical(quota));
        assert!(!is_critical(QuotaId::NONE), "the step has answered");
        assert!(availability.held(step, quota, Time::ZERO) > 0);
    }
}
