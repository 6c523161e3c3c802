//! What the end of a call shows about the provider and the quota. Failures continue in [`super::failure`].

use std::time::Duration;

use crate::base::{Error, ErrorKind, Mark, Sent, Time};

use super::super::breaker::{Detour, Ended, is_overload, may_be_shared};
use super::super::class::StepId;
use super::super::health::long;
use super::super::limiter::{CallEnd, LOADING_AGAIN};
use super::super::route;
use super::super::work::{Settled, Ticket, Work};
use super::{Call, Dispatcher, EndedCall, ErrorPolicy, StopReason};

/// Longer pauses of a quota are logged.
const LONG_PAUSE: Duration = Duration::from_secs(60);

/// Facts about a call that has ended.
pub(super) struct EndFacts {
    pub step: StepId,
    pub detour: Detour,
    /// Other calls to the same provider that have not ended.
    pub out: usize,
    /// The call was rate-limited.
    pub refused: bool,
}

impl EndFacts {
    /// Whether another provider can be called.
    pub(super) fn has_next_step(&self) -> bool {
        self.detour == Detour::NextStep
    }
}

impl<W: Work> Dispatcher<W> {
    pub(super) fn on_call_ended(&mut self, ended: EndedCall<W::Task, W::Done>, now: Time) {
        let EndedCall {
            call,
            mut result,
            used,
            hints,
            fatal,
        } = ended;
        let hints = self.options.retry.obeyed(hints);
        self.ended += 1;
        if !call.probes {
            let Ticket { class, tries, .. } = &call.ticket;
            self.health.end_call(class.at(tries.step));
        }
        let is_answered = match &result {
            Ok(done) => self.work.is_answer(done),
            // The key and the model were accepted.
            Err(error) => error.kind() == ErrorKind::Invalid && error.sent() == Sent::Answered,
        };
        (self.availability.exclusions).end_call(call.number, is_answered);
        let not_made = match &result {
            Ok(done) => !self.work.is_answer(done),
            Err(error) => error.kind() == ErrorKind::BudgetExceeded,
        };
        if not_made {
            self.limiter
                .settle(call.permit, CallEnd::Failed, &hints, now);
            self.counters.calls -= 1;
            *self.counters.of_kind(&call.ticket.tries) -= 1;
            let settled = match result {
                Err(error) if error.kind() == ErrorKind::BudgetExceeded => {
                    if !error.is_marked(Mark::ProcessPaused) {
                        self.stop_for(StopReason::BudgetExceeded(error.clone()));
                    }
                    match error.retry_after() {
                        Some(wait) => {
                            // While it waits, it needs no permit.
                            self.counters.in_flight -= 1;
                            Settled::Later(call.ticket, now.after(wait), None)
                        }
                        None => Settled::Unsent(call.ticket, error),
                    }
                }
                result => Settled::Final(call.ticket, result),
            };
            self.pending.push(settled);
            return;
        }
        self.counters.last_end = Some(now);
        let facts = self.note_provider(&call, &result, now);
        let Call { ticket, permit, .. } = call;
        let mut end = self.end_of_call(&result, used, &facts);
        let is_loading = self.health.is_loading(ticket.quota(), &end, now);
        if !is_loading && matches!(end, CallEnd::NotReady(_)) {
            // The server has loaded for too long; from now on the failure counts as a reply.
            end = CallEnd::Replied(None);
            result = result.map_err(Error::with_unreachable);
        }
        let until = self.limiter.settle(permit, end, &hints, now);
        self.note_quota(&ticket, &result, until, now);
        match result {
            Ok(done) => self.on_answer(ticket, done, facts.step),
            Err(error) if fatal => {
                self.stop_for(StopReason::Fatal(error.clone()));
                self.pending.push(Settled::Unsent(ticket, error));
            }
            Err(error) if is_loading => {
                self.on_not_ready(ticket, error, until.unwrap_or(now.after(LOADING_AGAIN)));
            }
            Err(error) => self.on_failure(ticket, error, &facts, &hints, now),
        }
    }

    /// Records what the end shows about the provider.
    fn note_provider(
        &mut self,
        call: &Call<W::Task>,
        result: &Result<W::Done, Error>,
        now: Time,
    ) -> EndFacts {
        let ticket = &call.ticket;
        let step = ticket.class.at(ticket.tries.step);
        let detour = self.detour(&ticket.class, ticket.tries.step);
        let out = match result {
            Ok(_) => 0,
            Err(_) => self.health.out(step),
        };
        let ended = Ended {
            step,
            quota: ticket.quota(),
            began: call.began,
            first: ticket.tries.attempt == 0 && ticket.tries.divisions == 0,
            of_one: (result.as_ref().err()).is_some_and(|error| self.may_be_of_one(ticket, error)),
            detour,
            out,
        };
        self.note_reached(ended, result, now);
        // If other calls are answered, a proxy that rejects calls limits their rate.
        let refused = |error: &Error| {
            is_pace(error) || error.is_marked(Mark::ByProxy) && self.answers(step, now)
        };
        EndFacts {
            step,
            detour,
            out,
            refused: result.as_ref().is_err_and(refused),
        }
    }

    /// What the limiter learns from the end of a call.
    fn end_of_call(
        &mut self,
        result: &Result<W::Done, Error>,
        used: Option<(u64, u64)>,
        facts: &EndFacts,
    ) -> CallEnd {
        let retry = self.options.retry;
        match result {
            Ok(_) => CallEnd::Replied(used),
            Err(_) if self.options.no_shared_fate => CallEnd::Failed,
            Err(e) if facts.refused => {
                self.counters.rate_limited += 1;
                // An absurd `Retry-After` must not pause this run or others.
                let wait = e.retry_after().filter(|_| !retry.exceeds_longest_wait(e));
                CallEnd::RateLimited(wait)
            }
            Err(e) if e.is_not_ready() => {
                CallEnd::NotReady(e.retry_after().map(|_| retry.asked(e)))
            }
            Err(e) if may_be_shared(e) && (e.status().is_some() || e.sent() == Sent::Answered) => {
                CallEnd::Troubled(used)
            }
            // Any other complete reply shows that the quota answers.
            Err(e) if e.status().is_some() || e.sent() == Sent::Answered => CallEnd::Replied(used),
            Err(_) if used.is_some() => CallEnd::Replied(used),
            // If another provider can be called, the breaker decides about the wait.
            Err(e)
                if e.is_unreachable()
                    && !facts.has_next_step()
                    && !self.is_unavailable(facts.step) =>
            {
                CallEnd::Unreachable
            }
            Err(_) => CallEnd::Failed,
        }
    }

    /// Updates the pause of the quota: the end of a call may have opened or closed it.
    fn note_quota(
        &mut self,
        ticket: &Ticket<W::Task>,
        result: &Result<W::Done, Error>,
        until: Option<Time>,
        now: Time,
    ) {
        let availability = &mut self.availability;
        let was_paused = availability.pauses.is_paused(ticket.quota(), now);
        let excluded = availability
            .exclusions
            .reason(&ticket.class, ticket.tries.step);
        if excluded.is_none() {
            availability
                .pauses
                .set(ticket.quota(), until.unwrap_or(Time::ZERO));
        }
        let wait = until.map_or(Duration::ZERO, |until| until.since(now));
        if let Err(error) = result
            && !was_paused
            && wait > LONG_PAUSE
        {
            log::warn!("{error}; no calls to the provider for {}", long(wait));
        }
        if !result.as_ref().is_err_and(Error::is_unreachable) {
            self.unreached = 0;
        }
    }

    fn on_answer(&mut self, mut ticket: Ticket<W::Task>, done: W::Done, step: StepId) {
        self.last_failure = None;
        if std::mem::take(&mut self.unreachable_logged) {
            log::warn!("the provider answers again");
        }
        self.health.answered(step, ticket.quota());
        if self.options.on_error == ErrorPolicy::StopOnError
            && let Some(error) = self.work.failure_of_one(&done).cloned()
        {
            self.stop_for(StopReason::ItemFailed(error));
        }
        ticket.tries.calls = ticket.tries.calls.saturating_add(1);
        self.pending.push(Settled::Final(ticket, Ok(done)));
    }

    /// Trips or closes the step's breaker.
    fn note_reached(&mut self, ended: Ended, result: &Result<W::Done, Error>, now: Time) {
        let (step, quota) = (ended.step, ended.quota);
        if self.is_unavailable(step) || self.health.in_question(step, quota) {
            // Items were held back until the result of this call.
            self.availability.pauses.forget();
        }
        let detour = ended.detour;
        let changed = self.availability.breakers.note(ended, result, now);
        if !changed {
            return;
        }
        match result {
            Ok(_) => log::warn!("the provider answers again; calls to it resume"),
            Err(error) if self.availability.breakers.open_reason(step).is_none() => {
                log::warn!("the provider is reachable again; calls to it resume: {error}");
            }
            Err(error) if detour == Detour::Wait => {
                log::warn!(
                    "{error}; no other call is answered either, so items wait, and the provider is probed periodically"
                );
            }
            Err(error) => {
                // Items that wait for their quota may have another provider now.
                self.availability.pauses.forget();
                log::warn!(
                    "{error}; switching to the next provider and probing this one periodically"
                );
            }
        }
    }

    /// Whether one of the items that share the call may have caused the failure.
    fn may_be_of_one(&self, ticket: &Ticket<W::Task>, error: &Error) -> bool {
        let several = self.work.members(&ticket.task) > 1;
        several && route::may_divide(error) && !is_overload(error)
    }
}

pub(super) fn is_pace(error: &Error) -> bool {
    error.kind() == ErrorKind::RateLimited
}
