//! Calls in flight that are not probes, and which of them are abandoned because their provider is in doubt; see
//! [`breaker`](super::breaker).

use std::collections::BTreeMap;

use crate::base::Time;

use super::breaker::Breakers;
use super::class::{Class, StepId};

/// Calls by number.
#[derive(Debug, Default)]
pub(super) struct AbandonableCalls(BTreeMap<u64, AbandonableCall>);

#[derive(Debug)]
struct AbandonableCall {
    class: Class,
    step: u8,
    began: Time,
    /// The call was asked to end.
    abandoned: bool,
}

impl AbandonableCalls {
    pub(super) fn begin(&mut self, number: u64, class: Class, step: u8, now: Time) {
        let began = now;
        self.0.insert(
            number,
            AbandonableCall {
                class,
                step,
                began,
                abandoned: false,
            },
        );
    }

    /// Removes a call; returns true if it was abandoned.
    pub(super) fn end(&mut self, number: u64) -> bool {
        self.0.remove(&number).is_some_and(|call| call.abandoned)
    }

    /// Number of calls to the step that may still be answered.
    pub(super) fn to(&self, step: StepId) -> usize {
        let to = |call: &&AbandonableCall| call.is_to(step) && !call.abandoned;
        self.0.values().filter(to).count()
    }

    /// When the first call to the step is abandoned: `None` if no call is in flight, [`Time::FAR`] if none will be.
    pub(super) fn first_end(&self, step: StepId, breakers: &Breakers) -> Option<Time> {
        let ends = self.0.values().filter(|call| call.is_to(step));
        ends.map(|call| call.ends_at(breakers)).min()
    }

    /// Abandons the calls whose time has passed if `abandonable` allows it. Returns when to check again.
    pub(super) fn abandon_overdue(
        &mut self,
        breakers: &Breakers,
        now: Time,
        abandonable: impl Fn(&Class, u8) -> bool,
        ended: &mut Vec<u64>,
    ) -> Option<Time> {
        let mut next = None;
        if !breakers.any_in_doubt() {
            return next;
        }
        for (number, call) in self.0.iter_mut().filter(|(_, call)| !call.abandoned) {
            let at = call.ends_at(breakers);
            if at == Time::FAR || !abandonable(&call.class, call.step) {
                continue;
            }
            if at <= now {
                call.abandoned = true;
                ended.push(*number);
            } else {
                next = Some(next.map_or(at, |next: Time| next.min(at)));
            }
        }
        next
    }
}

impl AbandonableCall {
    fn is_to(&self, step: StepId) -> bool {
        self.class.at(self.step) == step
    }

    fn ends_at(&self, breakers: &Breakers) -> Time {
        let patience = breakers.patience(self.class.at(self.step));
        patience.map_or(Time::FAR, |patience| self.began.after(patience.lasts))
    }
}
