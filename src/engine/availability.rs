//! Which steps can be called now: the first step of an item's route that is neither excluded nor behind an open
//! circuit breaker, and whose quota is not paused.
//!
//! - **Pauses.** The limiter decides about pauses. Its last decisions are stored here, so that items of a paused quota are
//!   skipped without asking it for each of them.
//! - **Exclusions.** A provider that failed critically, and a model that it does not know. A run excludes them until its end;
//!   durable work probes them later with one call at a time.

use crate::base::{Error, ErrorKind, Time};

use super::breaker::Breakers;
use super::class::{Class, StepId};
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

/// The end of the pause of each quota, by its number.
#[derive(Debug, Default, Clone)]
pub(crate) struct Pauses(Vec<Time>);

impl Pauses {
    /// Pauses the quota until `until`; a time in the past ends its pause.
    pub(crate) fn set(&mut self, quota: QuotaId, until: Time) {
        let at = quota.0 as usize;
        if self.0.len() <= at {
            self.0.resize(at + 1, Time::ZERO);
        }
        self.0[at] = until;
    }

    pub(crate) fn is_paused(&self, quota: QuotaId, now: Time) -> bool {
        self.0.get(quota.0 as usize).is_some_and(|t| *t > now)
    }

    /// The end of the quota's pause, if it is paused.
    pub(crate) fn until(&self, quota: QuotaId, now: Time) -> Option<Time> {
        let until = self.0.get(quota.0 as usize).copied();
        until.filter(|until| *until > now)
    }

    /// The quotas that are paused.
    pub(super) fn paused(&self, now: Time) -> impl Iterator<Item = QuotaId> + '_ {
        let paused = self
            .0
            .iter()
            .zip(0..)
            .filter(move |(until, _)| **until > now);
        paused.map(|(_, quota)| QuotaId(quota))
    }

    /// The ends of all pauses, including past ones.
    pub(super) fn ends(&self) -> impl Iterator<Item = Time> + '_ {
        self.0.iter().copied()
    }

    /// Ends all pauses. The limiter pauses a quota again when the next item asks for it.
    pub(super) fn forget(&mut self) {
        self.0.fill(Time::ZERO);
    }
}

/// Excluded steps of routes, and excluded quotas.
#[derive(Debug, Default, Clone)]
pub(crate) struct Exclusions(Vec<Excluded>);

/// Maximum number of exclusions that are kept for a probe.
const MOST: usize = 1_000;

/// What is excluded, why, and until when; [`Time::FAR`] until the end of the run.
#[derive(Debug, Clone)]
struct Excluded {
    what: Place,
    why: Error,
    until: Time,
    /// The call that probes it.
    probe: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Step(StepId),
    Quota(QuotaId),
}

impl Excluded {
    /// Whether the next call may probe it.
    fn is_due(&self) -> bool {
        self.until == Time::ZERO && self.probe.is_none()
    }
}

impl Exclusions {
    pub(super) fn quota(&mut self, quota: QuotaId, error: &Error, until: Time) {
        if quota != QuotaId::NONE {
            self.exclude(Place::Quota(quota), error, until);
        }
    }

    /// Excludes a step. Returns true if it was the last callable step of its route.
    pub(super) fn step(&mut self, class: &Class, step: u8, error: &Error, until: Time) -> bool {
        self.exclude(Place::Step(class.at(step)), error, until);
        (0..class.steps() as u8).all(|step| self.has_step(class, step))
    }

    fn exclude(&mut self, what: Place, error: &Error, until: Time) {
        // One that no call probes, for example of a key that was replaced, stays until there are too many.
        if self.0.len() >= MOST
            && let Some(at) = self.0.iter().position(Excluded::is_due)
        {
            self.0.remove(at);
        }
        match self.0.iter_mut().find(|known| known.what == what) {
            // Calls that were in flight fail after the first one.
            Some(known) if known.until > Time::ZERO => {}
            Some(known) => {
                (known.until, known.probe) = (until, None);
                known.why = error.clone();
            }
            None => self.0.push(Excluded {
                what,
                why: error.clone(),
                until,
                probe: None,
            }),
        }
    }

    fn has_step(&self, class: &Class, step: u8) -> bool {
        let at = Place::Step(class.at(step));
        self.0.iter().any(|known| known.what == at)
    }

    fn of(&self, class: &Class, step: u8) -> impl Iterator<Item = &Excluded> {
        let (at, quota) = (Place::Step(class.at(step)), Place::Quota(class.quota(step)));
        let found = self.0.iter();
        found.filter(move |known| known.what == at || known.what == quota)
    }

    /// Whether a step is excluded, or is being probed.
    pub(super) fn has(&self, class: &Class, step: u8) -> bool {
        self.of(class, step).next().is_some()
    }

    /// Why a step is excluded.
    pub(super) fn reason(&self, class: &Class, step: u8) -> Option<&Error> {
        let mut found = self.of(class, step).filter(|known| !known.is_due());
        found.next().map(|known| &known.why)
    }

    /// Why no step of a route answers, if all are excluded or were when they were last called: a rejected key only if
    /// each step rejected it, and otherwise the reason of the first step that has another one.
    pub(crate) fn refusal(&self, class: &Class) -> Option<&Error> {
        let (mut of_key, mut other) = (None, None);
        for step in 0..class.steps() as u8 {
            let mut reasons = self.of(class, step).map(|known| &known.why);
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
        self.of(class, step).any(Excluded::is_due)
    }

    /// How many exclusions let no call start.
    pub(crate) fn closed(&self) -> usize {
        self.0.iter().filter(|known| !known.is_due()).count()
    }

    /// Records the start of a call, which is a probe if one is due.
    pub(super) fn begin_call(&mut self, step: StepId, quota: QuotaId, number: u64) {
        for known in self.0.iter_mut().filter(|known| known.is_due()) {
            if known.what == Place::Step(step) || known.what == Place::Quota(quota) {
                known.probe = Some(number);
            }
        }
    }

    /// Records the end of a call. An answered probe ends the exclusion; after another failure the next one may start.
    pub(super) fn end_call(&mut self, number: u64, is_answered: bool) {
        if is_answered {
            self.0.retain(|known| known.probe != Some(number));
        }
        for known in self
            .0
            .iter_mut()
            .filter(|known| known.probe == Some(number))
        {
            known.probe = None;
        }
    }

    /// The reason of the first exclusion; steps come before quotas.
    pub(super) fn first_reason(&self) -> Option<&Error> {
        let mut closed = self.0.iter().filter(|known| !known.is_due());
        let step = closed
            .clone()
            .find(|known| matches!(known.what, Place::Step(_)));
        step.or_else(|| closed.next()).map(|known| &known.why)
    }

    pub(super) fn ends(&self) -> impl Iterator<Item = Time> + '_ {
        self.0.iter().map(|known| known.until)
    }

    /// Lets probes start where the time is over.
    pub(super) fn expire(&mut self, now: Time) {
        for known in self.0.iter_mut().filter(|known| known.until <= now) {
            known.until = Time::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_rejects_the_key_only_if_each_step_does() {
        let class = Class::new([QuotaId::NONE, QuotaId::NONE]);
        let [key, credit, model] = [ErrorKind::Auth, ErrorKind::Quota, ErrorKind::UnknownModel]
            .map(|kind| Error::new(kind, "no"));
        let refusal = |reasons: [&[&Error]; 2]| {
            let mut exclusions = Exclusions::default();
            for (step, reasons) in (0..).zip(reasons) {
                for (at, why) in reasons.iter().enumerate() {
                    // A step and its quota can be excluded for different reasons.
                    let place = match at {
                        0 => Place::Step(class.at(step)),
                        _ => Place::Quota(QuotaId::NONE),
                    };
                    exclusions.exclude(place, why, Time::FAR);
                }
            }
            exclusions.refusal(&class).map(Error::kind)
        };
        assert_eq!(refusal([&[&key], &[]]), None);
        assert_eq!(refusal([&[&key], &[&key]]), Some(key.kind()));
        assert_eq!(refusal([&[&credit], &[&key]]), Some(credit.kind()));
        assert_eq!(refusal([&[&key], &[&model]]), Some(model.kind()));
        assert_eq!(refusal([&[&model, &key], &[&model]]), Some(key.kind()));
    }
}
