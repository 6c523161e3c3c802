//! What the end of a call leads to: the item has its outcome, is tried again, goes to the next
//! provider, or is given up; and what is learned of the provider on the way.

use std::time::Duration;

use crate::base::clock::Time;
use crate::base::error::{Error, ErrorKind, Sent};
use crate::base::hints::RateHints;

use super::super::breaker::{Detour, Ended, Patience, may_be_shared};
use super::super::class::StepId;
use super::super::limiter::{CallEnd, LOADING_AGAIN};
use super::super::quota::QuotaId;
use super::super::refusals::{self, QuotaHealth};
use super::super::route::{self, Next};
use super::super::work::{Settled, Ticket, Work};
use super::outage::{is_of_provider, is_overload};
use super::{Call, Dispatcher, EndedCall, ErrorPolicy, StopReason};

/// This many items given up without a connection mean that nothing gets through.
const UNREACHED: u32 = 5;
/// Items spend no attempt on refusals for their pace, up to so many seconds of waiting for one item:
/// one that is refused for ever while others are answered must not hold up the run for ever.
const MOST_WAITED: u16 = 1800;
/// A provider that refused everybody is asked again after this long, where the work can wait.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// The same for one that could not be reached.
const UNREACHED_FOR: Duration = Duration::from_secs(10);

/// So often work that can wait is tried where a filter of the provider (status 403) refuses it while others are
/// answered: its reasons may be in the prompt. A refused key (401) may come back, and is waited for.
const FORBIDDEN_TRIES: u8 = 4;

/// How far a failure reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// It may be this item's alone.
    Item,
    /// The item is not tried again at this step, if another follows.
    Step,
    /// The item is not tried again at this step.
    Gone,
    /// Every further call would fail in the same way.
    All,
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
        let Call {
            number,
            began,
            mut ticket,
            permit,
            ..
        } = call;
        let retry = self.options.retry;
        let hints = retry.obeyed(hints);
        self.ended += 1;
        ticket.timer.end_call(ticket.tries.first, now);
        if matches!(&result, Ok(done) if !self.work.is_answer(done)) {
            self.calls_out.end(number);
            self.limiter.settle(permit, CallEnd::Failed, &hints, now);
            self.counters.calls -= 1;
            *self.counters.of_kind(&ticket.tries) -= 1;
            self.pending.push(Settled::Final(ticket, result));
            return;
        }
        self.counters.last_end = Some(now);
        self.counters.call_time += now.since(began);
        let step = ticket.class.at(ticket.tries.step);
        let detour = self.detour(&ticket.class, ticket.tries.step);
        let elsewhere = detour == Detour::NextStep;
        let given_up = self.calls_out.end(number)
            && self.stop.is_none()
            && (result.as_ref()).is_err_and(|error| error.kind() == ErrorKind::Cancelled);
        let patience = self.availability.breakers.patience(step);
        // If the provider has answered meanwhile, it is asked again.
        let moves_on = given_up && patience.is_some();
        if moves_on {
            result = result.map_err(|error| gave_up(&error, patience, now.since(began)));
        }
        let ended = Ended {
            step,
            quota: ticket.quota(),
            began,
            first: ticket.tries.attempt == 0 && ticket.tries.divisions == 0,
            of_one: (result.as_ref().err()).is_some_and(|error| self.may_be_of_one(&ticket, error)),
            detour,
            out: match result {
                Ok(_) => 0,
                Err(_) => self.calls_out.to(step),
            },
        };
        let out = ended.out;
        self.note_reached(ended, &result, now);
        if given_up && !moves_on {
            result = result.map_err(|error| gave_up(&error, None, now.since(began)));
        }
        // While others are answered, a proxy that refuses calls limits their pace.
        let refused =
            |error: &Error| is_pace(error) || error.is_by_proxy() && self.answers(step, now);
        let refused = result.as_ref().is_err_and(refused);
        let mut ended = match &result {
            Ok(_) => CallEnd::Replied(used),
            Err(_) if self.options.independent => CallEnd::Failed,
            Err(e) if refused => {
                self.counters.rate_limited += 1;
                // What is absurd is no reason for a pause, of this run or of others.
                let wait = e.retry_after().filter(|_| !retry.asks_too_much(e));
                CallEnd::RateLimited(wait)
            }
            Err(e) if e.is_not_ready() => {
                CallEnd::NotReady(e.retry_after().map(|_| retry.asked(e)))
            }
            Err(e) if may_be_shared(e) && (e.status().is_some() || e.sent() == Sent::Answered) => {
                CallEnd::Troubled(used)
            }
            // Any other complete reply shows that the quota answers, whatever it said.
            Err(e) if e.status().is_some() || e.sent() == Sent::Answered => CallEnd::Replied(used),
            Err(_) if used.is_some() => CallEnd::Replied(used),
            // Where another provider can be asked, the breaker decides how long nobody waits for it.
            Err(e) if e.is_unreachable() && !elsewhere && !self.is_unavailable(step) => {
                CallEnd::Unreachable
            }
            Err(_) => CallEnd::Failed,
        };
        let waits = self.loading.note(ticket.quota(), &ended, now);
        if !waits && matches!(ended, CallEnd::NotReady(_)) {
            // It was waited for long enough: now it fails as fast as it answers.
            ended = CallEnd::Replied(None);
            result = result.map_err(Error::with_unreachable);
        }
        // The end of a call may have opened its quota, or closed it.
        let until = self.limiter.settle(permit, ended, &hints, now);
        if (self
            .availability
            .exclusions
            .reason(&ticket.class, ticket.tries.step))
        .is_none()
        {
            self.availability
                .pauses
                .set(ticket.quota(), until.unwrap_or(Time::ZERO));
        }
        if let (Err(error), Some(until)) = (&result, until) {
            self.log_long_pause(ticket.quota(), until, now, error);
        }
        if !result.as_ref().is_err_and(Error::is_unreachable) {
            self.unreached = 0;
        }
        let error = match result {
            Ok(done) => {
                self.last_failure = None;
                if std::mem::take(&mut self.unreachable_logged) {
                    log::warn!("the provider answers again");
                }
                self.critical_failures.answered(step, ticket.quota());
                self.refusals.answered(step, ticket.quota());
                self.first_replies.answered(step);
                if self.options.on_error == ErrorPolicy::StopOnError
                    && let Some(error) = self.work.failure_of_one(&done).cloned()
                {
                    self.stop_for(StopReason::ItemFailed(error));
                }
                ticket.tries.calls = ticket.tries.calls.saturating_add(1);
                self.pending.push(Settled::Final(ticket, Ok(done)));
                return;
            }
            Err(error) => error,
        };
        if fatal {
            self.stop_for(StopReason::Fatal(error.clone()));
            self.pending.push(Settled::Unsent(ticket, error));
            return;
        }
        if waits {
            self.on_not_ready(ticket, error, until.unwrap_or(now.after(LOADING_AGAIN)));
            return;
        }
        ticket.tries.count(&error);
        // A call may notice the deadline a moment before this clock does.
        if error.kind() == ErrorKind::DeadlineExceeded && self.options.deadline.is_some() {
            self.stop_for(StopReason::DeadlineExceeded);
        }
        let ended_by_us = matches!(
            error.kind(),
            ErrorKind::Cancelled | ErrorKind::DeadlineExceeded
        );
        if ended_by_us && self.stop.is_some() {
            if ticket.tries.in_doubt {
                self.counters.cut_off += 1;
            }
            self.pending.push(Settled::Unsent(ticket, error));
            return;
        }
        if self.options.independent {
            if error.kind() != ErrorKind::Transient {
                ticket.tries.max_retries = Some(0);
            }
            let reach = if error.is_critical() {
                Reach::All
            } else {
                Reach::Item
            };
            self.after_failure(ticket, error, reach, now);
            return;
        }
        if refused {
            self.on_rate_limited(ticket, error, (detour, out), &hints, now);
            return;
        }
        self.note_first_reply(step, &error, elsewhere);
        if detour == Detour::Wait
            && may_be_shared(&error)
            && !error.timed_out()
            && let Some(why) = self.patience_over(step, &error, out, now)
        {
            self.give_up_waiting(ticket, why);
            return;
        }
        if self.is_unavailable(step)
            && is_of_provider(&error)
            && !error.timed_out()
            && self.can_hold(&ticket.class, ticket.tries.step)
            && !self.can_go_on(&ticket.class, ticket.tries.step)
        {
            self.wait_for_provider(ticket, error, now);
            return;
        }
        let critical = self
            .critical_failures
            .is_critical(step, ticket.quota(), &error, out);
        let critical =
            critical && !(self.options.of_many && error.kind() == ErrorKind::UnknownModel);
        if critical {
            self.exclude(&ticket, &error, now);
        } else if error.kind() == ErrorKind::Auth
            && self.options.durable
            && !elsewhere
            && (error.status() != Some(403) || ticket.tries.attempt < FORBIDDEN_TRIES)
        {
            // It may be what all others will meet, and then it is no fault of the job.
            if error.status() != Some(403) {
                ticket.tries.uncount();
            }
            self.wait_until(ticket, now.after(UNREACHED_FOR), Some(error));
            return;
        }
        let reach = match moves_on {
            _ if critical => Reach::All,
            true => Reach::Step,
            false => Reach::Item,
        };
        self.after_failure(ticket, error, reach, now);
    }

    /// A run stops before it pays for more replies that are no answers, or sends more requests that
    /// nobody takes. What is refused goes on where another provider can be asked; what was paid for
    /// does not.
    fn note_first_reply(&mut self, step: StepId, error: &Error, elsewhere: bool) {
        let Some(why) = self.first_replies.failed(step, error) else {
            return;
        };
        let goes_on = elsewhere && error.is_unclassified();
        let answered = self.options.of_many || self.work.is_answered_elsewhere();
        if self.stops_when_critical() && !answered && !goes_on {
            self.stop_for(StopReason::AllAlike(why));
        }
    }

    /// Trips or closes the step's breaker.
    fn note_reached(&mut self, ended: Ended, result: &Result<W::Done, Error>, now: Time) {
        let (step, quota) = (ended.step, ended.quota);
        let in_doubt = self.availability.breakers.patience(step).is_some();
        if in_doubt || self.is_unavailable(step) || self.critical_failures.in_question(step, quota)
        {
            // Whoever was held back until this is known.
            self.availability.pauses.forget();
        }
        let detour = ended.detour;
        #[cfg(feature = "redis")]
        let was = self.availability.breakers.opened(step);
        let changed = self.availability.breakers.note(ended, result, now);
        #[cfg(feature = "redis")]
        self.tell_outage((step, quota), was);
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
                // Whoever waits for its quota has another way now.
                self.availability.pauses.forget();
                log::warn!(
                    "{error}; switching to the next provider and probing this one periodically"
                );
            }
        }
    }

    /// A refusal for its pace is no fault of the item, and no attempt as long as others are answered.
    fn on_rate_limited(
        &mut self,
        mut ticket: Ticket<W::Task>,
        error: Error,
        (detour, out): (Detour, usize),
        hints: &RateHints,
        now: Time,
    ) {
        let step = ticket.class.at(ticket.tries.step);
        let elsewhere = detour == Detour::NextStep;
        let health = self.refusals.refused(step, ticket.quota(), now);
        let error = if self.options.retry.asks_too_much(&error) {
            let asked = error.retry_after().unwrap_or_default();
            let quota = ticket.quota();
            // An allowance that is used up is everybody's.
            let is_everybodys =
                is_empty(hints) || self.critical_failures.is_critical(step, quota, &error, out);
            let error = error.context(format!("it requests a wait of {}", refusals::long(asked)));
            if !is_everybodys {
                if self.options.durable && !elsewhere {
                    let at = now.after(self.options.retry.asked(&error));
                    self.wait_until(ticket, at, Some(error));
                } else {
                    self.after_failure(ticket, error, Reach::Gone, now);
                }
                return;
            }
            error
        } else if health == QuotaHealth::RefusesAll {
            error.context("all calls were rejected for 10 minutes")
        } else {
            let waits = match health {
                QuotaHealth::Answering => true,
                // Nobody can tell whether anything is ever answered; a run that would stop for this waits
                // for it, as does work that outlives the run.
                _ => self.options.durable || (!elsewhere && self.stops_when_critical()),
            };
            let mut tries = ticket.tries;
            let jitter = self.options.jitter.next();
            let at = route::after_refusal(&self.options.retry, &mut tries, &error, now, jitter);
            self.refusals.waits(step, ticket.quota(), at);
            let in_time = self.options.durable || self.options.deadline.is_none_or(|end| at <= end);
            if waits && in_time && ticket.tries.waited < MOST_WAITED {
                ticket.tries = tries;
                self.last_failure = Some(error.clone());
                self.wait_until(ticket, at, Some(error));
            } else {
                self.after_failure(ticket, error, Reach::Item, now);
            }
            return;
        };
        // Other models of the provider may fare better.
        self.exclude(&ticket, &error.clone().with_model_only(), now);
        self.after_failure(ticket, error, Reach::All, now);
    }

    /// Not an attempt: the model saw nothing of it.
    fn on_not_ready(&mut self, ticket: Ticket<W::Task>, error: Error, until: Time) {
        self.counters.calls -= 1;
        *self.counters.of_kind(&ticket.tries) -= 1;
        self.last_failure = Some(error);
        self.wait_until(ticket, until, None);
    }

    /// Carries out the route's decision about a failure.
    fn after_failure(
        &mut self,
        mut ticket: Ticket<W::Task>,
        error: Error,
        reach: Reach,
        now: Time,
    ) {
        let critical = reach == Reach::All;
        let moves_on = matches!(reach, Reach::Step | Reach::Gone)
            || self.shares_open_breaker(&ticket, &error)
            || self.is_not_worth_waiting_for(&ticket, &error, now);
        let next_callable = self.next_callable(&ticket);
        let members = self.work.members(&ticket.task);
        let jitter = self.options.jitter.next();
        let mut next = route::decide(
            &self.options.retry,
            next_callable.is_some(),
            &ticket.tries,
            &error,
            now,
            // What outlives the run may wait longer than the run does.
            self.options.deadline.filter(|_| !self.options.durable),
            jitter,
        );
        if critical || moves_on {
            next = match next_callable {
                Some(_) => Next::FallBack,
                None => next,
            };
        }
        if (critical || reach == Reach::Gone) && next_callable.is_none() {
            next = Next::GiveUp;
        }
        let moves_on = moves_on && next_callable.is_some();
        let divides =
            members > 1 && route::may_divide(&error) && !(moves_on && is_overload(&error));
        // The same call would buy the same reply; a part of it may be answered.
        let in_parts = divides && error.kind() == ErrorKind::Malformed;
        match (next, next_callable) {
            (Next::RetryAt(at), _) if !in_parts => {
                let wait = at.since(now).as_secs_f64();
                log::info!("{}, again in {wait:.1} s: {error}", error.kind());
                self.last_failure = Some(error.clone());
                self.wait_until(ticket, at, Some(error));
            }
            _ if divides => {
                log::info!(
                    "{}, {members} items that shared a call are retried in smaller calls: {error}",
                    error.kind()
                );
                ticket.tries.divide(members);
                let at = route::parts_at(&self.options.retry, &error, now);
                self.wait_until(ticket, at, Some(error));
            }
            (Next::FallBack, Some(step)) => {
                log::info!("{}, on to the next provider: {error}", error.kind());
                let tries = &mut ticket.tries;
                tries.trail = self.options.trails.add(tries.trail, tries.step, &error);
                tries.next_step();
                self.pass_steps(&mut ticket, step);
                self.wait_until(ticket, now, Some(error));
            }
            _ => {
                match self.options.on_error {
                    ErrorPolicy::StopOnError => {
                        self.stop_for(StopReason::ItemFailed(error.clone()));
                    }
                    ErrorPolicy::StopOnCriticalError if critical => {
                        self.stop_for(StopReason::Critical(error.clone()));
                    }
                    ErrorPolicy::StopOnCriticalError => self.note_unreached(&error),
                    _ => {}
                }
                let unreachable = error.is_unreachable();
                if self.options.durable && unreachable && !critical {
                    if !std::mem::replace(&mut self.unreachable_logged, true) {
                        log::warn!(
                            "{error}; its jobs stay in the queue and are retried until the provider is reachable"
                        );
                    }
                    let step = ticket.tries.step;
                    let until = now.after(UNREACHED_FOR);
                    self.availability
                        .exclude_step(&ticket.class, step, &error, until);
                }
                self.pending
                    .push(if self.options.durable && (critical || unreachable) {
                        Settled::Unsent(ticket, error)
                    } else {
                        Settled::Final(ticket, Err(error))
                    });
            }
        }
    }

    /// One of several that share a call may have brought its failure upon them.
    fn may_be_of_one(&self, ticket: &Ticket<W::Task>, error: &Error) -> bool {
        let several = self.work.members(&ticket.task) > 1;
        several && route::may_divide(error) && !is_overload(error)
    }

    /// It failed like others before it, which have opened the breaker, and the next provider is not known to be
    /// unavailable as well.
    fn shares_open_breaker(&self, ticket: &Ticket<W::Task>, error: &Error) -> bool {
        let step = ticket.class.at(ticket.tries.step);
        let open = self.availability.breakers.open_reason(step).is_some();
        open && may_be_shared(error) && self.can_go_on(&ticket.class, ticket.tries.step)
    }

    /// It asks for a long wait, and nothing shows that it will answer after that.
    fn is_not_worth_waiting_for(&self, ticket: &Ticket<W::Task>, error: &Error, now: Time) -> bool {
        let step = ticket.class.at(ticket.tries.step);
        route::keeps_waiting(error) && !self.answers(step, now)
    }

    fn note_unreached(&mut self, error: &Error) {
        if error.is_unreachable() && !self.options.independent {
            self.unreached += 1;
            if self.unreached >= UNREACHED {
                self.stop_for(StopReason::Unreachable(error.clone()));
            }
        }
    }

    /// A provider that failed critically is not called again, nor a model it does not know.
    fn exclude(&mut self, ticket: &Ticket<W::Task>, error: &Error, now: Time) {
        let (class, step) = (&ticket.class, ticket.tries.step);
        let is_new = self.availability.exclusions.reason(class, step).is_none();
        let until = if self.options.durable {
            now.after(REFUSED_FOR)
        } else {
            Time::FAR
        };
        if error.is_model_only() && (ticket.quota() != QuotaId::NONE || !is_pace(error)) {
            self.availability
                .exclude_quota(ticket.quota(), error, until);
        } else if self.availability.exclude_step(class, step, error, until) && !self.options.durable
        {
            self.stop_for(StopReason::Critical(error.clone()));
        }
        // What has no quota cannot be told apart from the rest, and goes on.
        let excluded = self.availability.exclusions.reason(class, step).is_some();
        if is_new && excluded && self.options.durable {
            let wait = REFUSED_FOR.as_secs();
            log::warn!("no calls to this provider for {wait} s: {error}");
        } else if is_new && excluded && self.availability.callable_step(class, 0).is_some() {
            log::warn!("no more calls to this provider in this run: {error}");
        }
    }
}

/// What became of a call that was ended because its provider was in doubt.
fn gave_up(error: &Error, patience: Option<Patience>, waited: Duration) -> Error {
    let mut why = format!("no reply within {:.1} s", waited.as_secs_f64());
    if let Some(patience) = patience {
        let hung = patience.hung.as_secs_f64();
        why += &format!(", and another call got no reply within {hung:.1} s");
    }
    let timed_out = Error::new(ErrorKind::Transient, why).with_timed_out();
    // What its earlier calls have cost is known by the error alone.
    timed_out.with_sent(error.sent()).with_paid(error.paid())
}

/// Whether a reply says that nothing is left of an allowance.
fn is_empty(hints: &RateHints) -> bool {
    let windows = [hints.requests, hints.tokens].into_iter().flatten();
    windows
        .map(|window| window.remaining)
        .any(|left| left == Some(0))
}

fn is_pace(error: &Error) -> bool {
    error.kind() == ErrorKind::RateLimited
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::usage::Paid;

    #[test]
    fn who_is_given_up_on_keeps_what_was_paid() {
        let paid = Paid {
            usage: None,
            cost_usd: Some(0.5),
        };
        let ended = Error::cancelled().with_sent(Sent::Maybe).with_paid(paid);
        let error = gave_up(&ended, None, Duration::from_secs(3));
        assert_eq!((error.paid(), error.sent()), (paid, Sent::Maybe));
        assert!(error.timed_out());
    }
}
