//! Excluded providers and models: a provider that failed critically, and a model that it does not know.
//!
//! A run excludes them until its end; durable work calls them again later.

use crate::base::clock::Time;
use crate::base::error::Error;

use super::class::{Class, StepId};
use super::quota::QuotaId;

/// Excluded steps of routes, and excluded quotas.
#[derive(Debug, Default, Clone)]
pub(super) struct Exclusions {
    steps: Vec<(StepId, Excluded)>,
    quotas: Vec<(QuotaId, Excluded)>,
}

/// Why something is excluded, and until when; [`Time::FAR`] until the end of the run.
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

    /// Excludes a step. Returns true if it was the last callable step of its route.
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

    /// Why a step is excluded.
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

    /// The reason of the first exclusion; steps come before quotas.
    pub(super) fn first_reason(&self) -> Option<&Error> {
        let step = self.steps.first().map(|(_, excluded)| &excluded.why);
        step.or_else(|| self.quotas.first().map(|(_, excluded)| &excluded.why))
    }

    pub(super) fn ends(&self) -> impl Iterator<Item = Time> + '_ {
        let steps = self.steps.iter().map(|(_, excluded)| excluded.until);
        steps.chain(self.quotas.iter().map(|(_, excluded)| excluded.until))
    }

    /// Ends exclusions that have expired.
    pub(super) fn expire(&mut self, now: Time) {
        self.steps.retain(|(_, excluded)| excluded.until > now);
        self.quotas.retain(|(_, excluded)| excluded.until > now);
    }
}
