//! What the end of a call shows about the provider and the quota. Failures continue in [`super::failure`].

use std::time::Duration;

use crate::base::verdict::{Form, Whom};
use crate::base::{Error, ErrorKind, Mark, Sent, Time};

use super::super::availability::{Detour, EndFacts, Shown, may_be_shared};
use super::super::limiter::{CallEnd, LOADING_AGAIN};
use super::super::route;
use super::super::work::{Settled, Ticket, Work};
use super::failure::long;
use super::{Call, Dispatcher, EndedCall, ErrorPolicy, StopReason};

/// What a failure shows about the key and the model.
fn shown(error: &Error) -> Shown {
    let is_own = error.verdict().whom == Whom::Request && error.sent() == Sent::Answered;
    match error.kind() {
        ErrorKind::Blocked => Shown::Answer,
        // The provider has read the request.
        _ if is_own && error.likeness().1 == Form::Coded => Shown::Answer,
        ErrorKind::Invalid if is_own => Shown::Accepted,
        _ => Shown::Nothing,
    }
}

/// Longer pauses of a quota are logged.
const LONG_PAUSE: Duration = Duration::from_secs(60);

impl<W: Work> Dispatcher<W> {
    pub(super) fn on_call_ended(&mut self, ended: EndedCall<W::Task, W::Done>, now: Time) {
        let (step, quota) = (ended.call.ticket.step(), ended.call.ticket.quota());
        let held = self.availability.held(step, quota, now);
        self.note_end(ended, now);
        let is_paced = self.availability.paced_until(step, quota, now).is_some();
        if self.availability.held(step, quota, now) < held || is_paced {
            // Items were held back until this was known, or until a time that is known from now on.
            self.availability.pauses.forget();
        }
    }

    fn note_end(&mut self, ended: EndedCall<W::Task, W::Done>, now: Time) {
        let EndedCall {
            call,
            mut result,
            used,
            hints,
            fatal,
        } = ended;
        let hints = self.options.retry.obeyed(hints);
        self.ended += 1;
        let shown = match &result {
            Ok(done) if self.work.is_answer(done) => Shown::Answer,
            Ok(_) => Shown::Nothing,
            Err(error) => shown(error),
        };
        let (step, quota) = (call.ticket.step(), call.ticket.quota());
        let end = (call.number, shown);
        let probed = self.availability.end_call(step, quota, end, now);
        let not_made = match &result {
            Ok(done) => !self.work.is_answer(done),
            Err(error) => error.kind() == ErrorKind::BudgetExceeded,
        };
        if not_made {
            self.limiter
                .settle(call.permit, CallEnd::Failed, &hints, now);
            self.counters.forget(&call.ticket.tries);
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
        let facts = self.note_provider(&call, &result, probed, now);
        let Call { ticket, permit, .. } = call;
        let mut end = self.end_of_call(&result, used, &facts);
        let shared = self.availability.shared(step, quota);
        let is_loading = match end {
            CallEnd::NotReady(_) => shared.is_loading(now),
            CallEnd::Replied(_) | CallEnd::Troubled(_) | CallEnd::RateLimited(_) => {
                shared.loading_since = None;
                false
            }
            CallEnd::Failed => false,
        };
        if !is_loading && matches!(end, CallEnd::NotReady(_)) {
            // The server has loaded for too long; from now on the failure counts as a reply.
            end = CallEnd::Replied(None);
            result = result.map_err(Error::with_unreachable);
        }
        let until = self.limiter.settle(permit, end, &hints, now);
        self.note_quota(&ticket, &result, until, now);
        match result {
            Ok(done) => self.on_answer(ticket, done),
            Err(error) if fatal => {
                self.stop_for(StopReason::Fatal(error.clone()));
                self.pending.push(Settled::Unsent(ticket, error));
            }
            Err(error) if is_loading => {
                // Not an attempt.
                self.counters.forget(&ticket.tries);
                self.last_failure = Some(error);
                self.wait_until(ticket, until.unwrap_or(now.after(LOADING_AGAIN)), None);
            }
            Err(error) => self.on_failure(ticket, error, &facts, &hints, now),
        }
    }

    /// Records what the end shows about the provider.
    fn note_provider(
        &mut self,
        call: &Call<W::Task>,
        result: &Result<W::Done, Error>,
        probed: bool,
        now: Time,
    ) -> EndFacts {
        let Ticket { class, tries, .. } = &call.ticket;
        let step = call.ticket.step();
        let error = result.as_ref().err();
        let facts = EndFacts {
            number: call.number,
            step,
            took: now.since(call.began),
            first: tries.attempt == 0 && !tries.alone,
            of_one: error.is_some_and(|error| self.may_be_of_one(&call.ticket, error)),
            probed,
            detour: self.detour(class, tries.step),
            out: error.map_or(0, |_| self.availability.in_flight(step)),
            refused: false,
        };
        self.note_reached(facts, error, now);
        // If other calls are answered, a proxy that rejects calls limits their rate.
        let refused = |error: &Error| {
            error.kind() == ErrorKind::RateLimited
                || error.is_by_proxy() && self.availability.answers(step, now)
        };
        EndFacts {
            refused: error.is_some_and(refused),
            ..facts
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
        let (quota, availability) = (ticket.quota(), &mut self.availability);
        let was_paused = availability.pauses.is_paused(quota, now);
        if availability
            .excluded(&ticket.class, ticket.tries.step)
            .is_none()
        {
            availability.pauses.set(quota, until.unwrap_or(Time::ZERO));
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

    fn on_answer(&mut self, mut ticket: Ticket<W::Task>, done: W::Done) {
        self.last_failure = None;
        if std::mem::take(&mut self.unreachable_logged) {
            log::warn!("the provider answers again");
        }
        self.availability.answered(ticket.step(), ticket.quota());
        if self.options.on_error == ErrorPolicy::StopOnError
            && let Some(error) = self.work.failure_of_one(&done).cloned()
        {
            self.stop_for(StopReason::ItemFailed(error));
        }
        ticket.tries.calls = ticket.tries.calls.saturating_add(1);
        self.pending.push(Settled::Final(ticket, Ok(done)));
    }

    /// Begins or ends an outage of the step.
    fn note_reached(&mut self, facts: EndFacts, error: Option<&Error>, now: Time) {
        let availability = &mut self.availability;
        if facts.probed || availability.outage(facts.step).is_some() {
            // Items were held back until the result of this call.
            availability.pauses.forget();
        }
        let step = availability.step_mut(facts.step);
        if !step.note(facts, error, now) {
            return;
        }
        match error {
            None => log::warn!("the provider answers again; calls to it resume"),
            Some(error) if availability.outage(facts.step).is_none() => {
                log::warn!("the provider is reachable again; calls to it resume: {error}");
            }
            Some(error) if facts.detour == Detour::Wait => {
                log::warn!(
                    "{error}; no other call is answered either, so items wait, and the provider is probed periodically"
                );
            }
            Some(error) => {
                // Items that wait for their quota may have another provider now.
                availability.pauses.forget();
                log::warn!(
                    "{error}; switching to the next provider and probing this one periodically"
                );
            }
        }
    }

    /// Whether one of the items that share the call may have caused the failure.
    fn may_be_of_one(&self, ticket: &Ticket<W::Task>, error: &Error) -> bool {
        let several = self.work.members(&ticket.task) > 1;
        several && route::may_divide(error) && !route::is_of_provider(error)
    }
}
