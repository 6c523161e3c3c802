//! Maximum size of the batches of a model. It is reduced for a while after the provider rejected one because too much
//! was queued.

use std::collections::HashMap;
use std::time::Duration;

use crate::base::Time;
use crate::llm::batch::{BatchAccount, BatchLimits};

use super::machine::Facts;

/// Duration of a reduction.
const REDUCED_FOR: Duration = Duration::from_secs(3600);

/// The account and model of batches.
pub(super) type Model = (BatchAccount, Option<String>);

/// The models whose batches are smaller for a while.
#[derive(Default)]
pub(super) struct Sizes(HashMap<Model, Reduced>);

struct Reduced {
    requests: usize,
    /// No new batch before this time, unless one of the same account ends.
    pause: Time,
    until: Time,
    times: u32,
}

impl Sizes {
    /// The current limits of a batch of a model.
    pub(super) fn limits(
        &mut self,
        model: &Model,
        mut limits: BatchLimits,
        now: Time,
    ) -> BatchLimits {
        self.0.retain(|_, reduced| reduced.until > now);
        if let Some(reduced) = self.0.get(model) {
            limits.requests = limits.requests.min(reduced.requests);
        }
        limits
    }

    /// Time before which no batch of a model is started.
    pub(super) fn paused_until(&self, model: &Model) -> Option<Time> {
        self.0.get(model).map(|reduced| reduced.pause)
    }

    /// A provider whose batch queue for this account is full now.
    pub(super) fn crowded(&self, now: Time) -> Option<&str> {
        let mut crowded = self.0.iter().filter(|(_, reduced)| reduced.pause > now);
        crowded
            .next()
            .map(|((account, _), _)| account.provider.as_str())
    }

    /// Limits batches of a model to half of `requests`, and lets them wait.
    pub(super) fn reduce(&mut self, model: Model, items: u64, facts: &Facts, now: Time) {
        let items = usize::try_from(items).unwrap_or(usize::MAX);
        let times = self.0.get(&model).map_or(0, |reduced| reduced.times) + 1;
        let wait = facts.after_failures(times, None);
        let reduced = Reduced {
            requests: (items / 2).max(1),
            pause: now.after(wait),
            until: now.after(REDUCED_FOR.max(wait * 2)),
            times,
        };
        log::warn!(
            "the batch queue of {} is full: new batches have at most {} requests for 1 hour",
            model.0.provider,
            reduced.requests
        );
        self.0.insert(model, reduced);
    }

    /// The provider has accepted a batch of this model: others may follow at once.
    pub(super) fn allow_next(&mut self, model: &Model) {
        if let Some(reduced) = self.0.get_mut(model) {
            reduced.pause = Time::ZERO;
            reduced.times = 0;
        }
    }
}
