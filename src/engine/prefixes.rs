//! Calls whose prompts share a beginning that the provider caches: one of them is made first, and the others wait until
//! it has ended, because a cache can be read only when it has been written.
//!
//! Pure: the time is a value. The first call ends, or [`LONGEST`] passes, so no call waits forever. If the first call
//! fails, the next one becomes the first; after [`MOST_FAILED`] failures no call waits any more, until one succeeds. A call
//! that the provider refused to process does not count. A beginning that was not used for [`LIFETIME`] has left the cache,
//! and its next call is a first one again.

use std::collections::HashMap;
use std::time::Duration;

use crate::base::Time;

use super::class::{Class, StepId};
use super::quota::QuotaId;

/// How long calls wait for the first one. Providers write a cache when the reply begins, not when it ends.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);
/// Failures of first calls, one after the other, after which calls no longer wait.
const MOST_FAILED: u8 = 3;
/// How long a provider keeps a beginning after its last use, at least.
pub(crate) const LIFETIME: Duration = Duration::from_secs(300);

/// The beginning of a prompt that is cached at some steps of its route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Prefix {
    /// A number that is the same for equal beginnings; 0: it is not cached.
    id: u32,
    /// The steps at which it is cached, one bit each.
    steps: u32,
}

impl Prefix {
    pub(crate) const NONE: Self = Self { id: 0, steps: 0 };

    /// The beginning with this number, from 1, at these steps of its route.
    pub(crate) fn new(id: u32, steps: impl IntoIterator<Item = bool>) -> Self {
        let bits = steps.into_iter().zip(0..32);
        let steps = bits.fold(0, |all, (cached, at)| all | u32::from(cached) << at);
        if steps == 0 {
            return Self::NONE;
        }
        Self { id, steps }
    }

    /// Whether it is cached at a step.
    pub(crate) fn is_cached_at(self, step: u8) -> bool {
        self.steps.checked_shr(step.into()).unwrap_or(0) & 1 == 1
    }
}

/// Where an item waits: for the quota of its step, and perhaps for its beginning at this provider. Another provider has
/// another cache, and so has another model or account, which have other quotas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(super) quota: QuotaId,
    /// The number of the beginning, and the step.
    beginning: Option<(u32, StepId)>,
}

impl Place {
    /// The place of an item with this beginning at a step of its route.
    pub(crate) fn new(class: &Class, step: u8, prefix: Prefix) -> Self {
        let cached = prefix.id != 0 && prefix.is_cached_at(step);
        Self {
            quota: class.quota(step),
            beginning: cached.then(|| (prefix.id, class.at(step))),
        }
    }

    /// The place of an item whose beginning is not cached.
    pub(super) fn of_quota(quota: QuotaId) -> Self {
        Self {
            quota,
            beginning: None,
        }
    }
}

/// More are not remembered at once; a beginning that is forgotten has a first call again.
const MOST_KNOWN: usize = 8192;

#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// The number of the first call in flight, and when the others stop waiting for it.
    writer: Option<(u64, Time)>,
    /// When a call last used the cache, if it was written.
    used: Option<Time>,
    /// How many first calls have failed, one after the other.
    failed: u8,
}

/// What is known of all beginnings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Prefixes {
    states: HashMap<Place, State>,
    /// The calls in flight that may write a cache. Usually there are none; after failures they are all calls.
    writing: Vec<(u64, Place)>,
}

impl Prefixes {
    /// Whether a call at this step must wait for another one.
    pub(crate) fn holds(&self, prefix: Prefix, class: &Class, step: u8, now: Time) -> bool {
        prefix.id != 0 && self.holds_at(&Place::new(class, step, prefix), now)
    }

    /// Whether an item at this place must wait for another call.
    pub(super) fn holds_at(&self, place: &Place, now: Time) -> bool {
        if self.writing.is_empty() || place.beginning.is_none() {
            return false;
        }
        let state = self.states.get(place);
        let writer = state.and_then(|state| state.writer);
        writer.is_some_and(|(_, until)| now < until)
    }

    /// A call starts; it is not [held](Self::holds).
    pub(super) fn begin(&mut self, prefix: Prefix, class: &Class, step: u8, call: u64, now: Time) {
        if prefix.id == 0 || !prefix.is_cached_at(step) {
            return;
        }
        if self.states.len() >= MOST_KNOWN {
            self.states.retain(|_, state| state.writer.is_some());
        }
        let key = Place::new(class, step, prefix);
        let state = self.states.entry(key).or_default();
        let is_kept = state.used.is_some_and(|used| now < used.after(LIFETIME));
        if is_kept {
            state.used = Some(now);
        } else if state.failed >= MOST_FAILED {
            self.writing.push((call, key));
        } else if state.writer.is_none() {
            state.writer = Some((call, now.after(LONGEST)));
            self.writing.push((call, key));
        }
    }

    /// A call has ended. `wrote` tells whether the provider has read its prompt; `None` if it refused to.
    pub(super) fn end(&mut self, call: u64, wrote: Option<bool>, now: Time) {
        let Some(at) = self.writing.iter().position(|(writer, _)| *writer == call) else {
            return;
        };
        let (_, key) = self.writing.swap_remove(at);
        if let Some(state) = self.states.get_mut(&key) {
            state.writer = state.writer.filter(|(writer, _)| *writer != call);
            match wrote {
                Some(true) => (state.used, state.failed) = (Some(now), 0),
                Some(false) => state.failed = state.failed.saturating_add(1),
                None => {}
            }
        }
    }

    /// The next time at which calls stop waiting for a first one.
    pub(super) fn next_change(&self, now: Time) -> Option<Time> {
        let states = self
            .writing
            .iter()
            .filter_map(|(_, key)| self.states.get(key));
        let ends = states.filter_map(|state| state.writer.map(|(_, until)| until));
        ends.filter(|until| *until > now).min()
    }
}

#[cfg(test)]
#[path = "prefixes_tests.rs"]
mod tests;
