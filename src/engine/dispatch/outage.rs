//! Outages of a provider without alternative: which items wait, which item probes, and when the outage ends.
//! [`breaker`](super::super::breaker) decides whether a provider is unavailable.

use std::time::Duration;

use crate::base::{Error, ErrorKind, Sent, Time};

use super::super::breaker::{Detour, is_overload};
use super::super::class::{Class, StepId};
use super::super::quota::QuotaId;
use super::super::work::{Settled, Ticket, Work};
use super::{Dispatcher, LOOK_AGAIN, SOON, StopReason};

/// The item that probes a provider is chosen among this many.
const CHOICE: usize = 16;
/// Minimum wait for an unavailable provider. It lets another item probe the next time.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

impl<W: Work> Dispatcher<W> {
    /// Number of items to take. If a provider is to be probed, several to choose from, unless returning them needs a
    /// write.
    pub(super) fn wanted(&self, free: usize, now: Time) -> usize {
        let breakers = &self.availability.breakers;
        if !breakers.any_half_open(now) {
            free
        } else if self.options.durable {
            1
        } else {
            let failed = breakers.items_in_question(now).unwrap_or_default();
            free.max(failed + CHOICE)
        }
    }

    /// What items at a step can do while it is unavailable.
    pub(super) fn detour(&self, class: &Class, step: u8) -> Detour {
        if self.availability.callable_step(class, step + 1).is_some() {
            Detour::NextStep
        } else if self.can_hold(class, step) {
            Detour::Wait
        } else {
            Detour::None
        }
    }

    /// Whether the items at a step can be held back without holding back others: they have a quota, or there are no
    /// other items.
    pub(super) fn can_hold(&self, class: &Class, step: u8) -> bool {
        let is_one = class.steps() == 1 && !self.options.durable;
        !self.options.no_shared_fate && (is_one || class.quota(step) != QuotaId::NONE)
    }

    /// Whether a later step can be called and is not known to be unavailable.
    pub(super) fn can_go_on(&self, class: &Class, step: u8) -> bool {
        let next = self.availability.callable_step(class, step + 1);
        next.is_some_and(|next| !self.is_unavailable(class.at(next)))
    }

    pub(super) fn is_unavailable(&self, step: StepId) -> bool {
        self.availability.breakers.open_reason(step).is_some()
    }

    /// Time until which no call starts at the step. Reasons: this and all later steps are unavailable, or calls in
    /// flight will show whether its API key is valid or whether it is worth waiting for.
    pub(crate) fn held_until(&self, class: &Class, step: u8, now: Time) -> Option<Time> {
        let at = class.at(step);
        if self.can_hold(class, step)
            && !self.can_go_on(class, step)
            && let Some(until) = self.availability.opens_again(class, step, now)
        {
            return Some(until.max(now.after(SOON)));
        }
        let in_question = self.health.in_question(at, class.quota(step));
        let waits = in_question && self.can_hold(class, step) && self.health.out(at) > 0;
        waits.then(|| now.after(LOOK_AGAIN))
    }

    /// The provider is unavailable, and no other can be called now. Not an attempt: no model saw the item.
    pub(super) fn wait_for_provider(
        &mut self,
        mut ticket: Ticket<W::Task>,
        error: Error,
        now: Time,
    ) {
        ticket.tries.uncount();
        let at = now.after(self.options.retry.asked(&error).max(SHORTEST_WAIT));
        self.last_failure = Some(error.clone());
        self.wait_until(ticket, at, Some(error));
    }

    /// If the run stops waiting for a provider: the reason. Durable work keeps waiting, unless its run stops on
    /// critical errors.
    pub(super) fn patience_over(
        &self,
        step: StepId,
        error: &Error,
        out: usize,
        now: Time,
    ) -> Option<Error> {
        let ends = !self.options.durable || self.stops_when_critical();
        if !ends {
            return None;
        }
        let breakers = &self.availability.breakers;
        breakers.patience_over(step, error, out, now)
    }

    /// Leaves the item unsent, and ends the run or excludes the step.
    pub(super) fn give_up_waiting(&mut self, ticket: Ticket<W::Task>, why: Error) {
        let (class, step) = (&ticket.class, ticket.tries.step);
        if self.availability.exclude_step(class, step, &why, Time::FAR) {
            self.stop_for(StopReason::Unreachable(why.clone()));
        }
        if ticket.tries.in_doubt {
            self.counters.cut_off += 1;
        }
        self.pending.push(Settled::Unsent(ticket, why));
    }

    /// Whether the provider answers at the moment.
    pub(super) fn answers(&self, step: StepId, now: Time) -> bool {
        !self.is_unavailable(step) && self.availability.breakers.answers(step, now)
    }
}

/// Whether the provider is the cause: no model saw the request, and nothing was charged.
pub(super) fn is_of_provider(error: &Error) -> bool {
    let refused = error.is_unreachable() || is_overload(error);
    refused && error.kind() == ErrorKind::Transient && error.sent() != Sent::Maybe
}
