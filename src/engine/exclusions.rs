//! What is not called any more: a provider that failed critically, and a model that it does not know.
//!
//! A run that ends excludes them for good; work that outlives the run asks again after a while.

use crate::base::clock::Time;
use crate::base::error::Error;

use super::class::{Class, StepId};
use super::quota::QuotaId;

/// The steps of routes, and the quotas, that are not called.
#[derive(Debug, Default, Clone)]
pub(super) struct Exclusions {
    steps: Vec<(StepId, Excluded)>,
    quotas: Vec<(QuotaId, Excluded)>,
}

/// Why something is not called, and until when; [`Time::FAR`] for the rest of the run.
#[derive(Debug, Clone)]
struct Excluded {
    why: Error,
    until: Time,
}

impl Exclusions {
    pub(super) fn quota(&mut self, quota: QuotaId, error: &Error, until: Time) {
        if quota != QuotaId::NONE && !self.quotas.iter().any(|(known, _)| *known == quota) {
            let why = error.clone();
            self.quotas.push((quota, Excluded { why, until }));
        }
    }

    /// True when that was the last step of its route that could be called.
    pub(super) fn step(&mut self, class: &Class, step: u8, error: &Error, until: Time) -> bool {
        if !self.has_step(class, step) {
            let why = error.clone();
            self.steps.push((class.at(step), Excluded { why, until }));
        }
        (0..class.steps() as u8).all(|step| self.has_step(class, step))
    }

    fn has_step(&self, class: &Class, step: u8) -> bool {
        self.steps.iter().any(|(known, _)| *known == class.at(step))
    }

    /// Why a step is not called.
    pub(super) fn reason(&self, class: &Class, step: u8) -> Option<&Error> {
        if self.steps.is_empty() && self.quotas.is_empty() {
            return None;
        }
        let (at, quota) = (class.at(step), class.quota(step));
        let by_step = self.steps.iter().find(|(known, _)| *known == at);
        let by_step = by_step.map(|(_, excluded)| &excluded.why);
        by_step.or_else(|| {
            let found = self.quotas.iter().find(|(known, _)| *known == quota);
            found.map(|(_, excluded)| &excluded.why)
        })
    }

    /// The reason of the first one, steps before quotas.
    #[cfg(feature = "queue")]
    pub(super) fn first_reason(&self) -> Option<&Error> {
        let step = self.steps.first().map(|(_, excluded)| &excluded.why);
        step.or_else(|| self.quotas.first().map(|(_, excluded)| &excluded.why))
    }

    pub(super) fn ends(&self) -> impl Iterator<Item = Time> + '_ {
        let steps = self.steps.iter().map(|(_, excluded)| excluded.until);
        steps.chain(self.quotas.iter().map(|(_, excluded)| excluded.until))
    }

    /// What was excluded until now is called again.
    pub(super) fn expire(&mut self, now: Time) {
        self.steps.retain(|(_, excluded)| excluded.until > now);
        self.quotas.retain(|(_, excluded)| excluded.until > now);
    }
}
