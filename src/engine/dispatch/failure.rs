//! Effect of a failure: the item is retried, fails over, waits for its provider, or fails.

use std::time::Duration;

use humantime::{FormattedDuration, format_duration};

use crate::base::{Error, ErrorKind, RateHints, Sent, Time};

use super::super::availability::{Detour, EndFacts, is_overload, may_be_shared};
use super::super::quota::{Class, QuotaId};
use super::super::route::{self, Next};
use super::super::work::{Settled, Ticket, Work};
use super::{Dispatcher, ErrorPolicy, StopReason};

/// Interval of checks whether calls in flight have shown if a key is valid or a provider is worth waiting for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Shortest wait for a provider.
const SOON: Duration = Duration::from_millis(20);

/// Consecutive items that failed without a connection: no request gets through.
const UNREACHED: u32 = 5;
/// Rate-limited calls are no attempts until an item has waited this many seconds. An item that is always rate-limited
/// while others are answered must not delay the end of the run for ever.
const MOST_WAITED: u16 = 1800;
/// Give up on a quota after this long without a single answer.
const GIVE_UP_AFTER: Duration = Duration::from_secs(600);
/// Time until durable work probes a provider again that rejected every call, or could not be reached.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// Number of attempts of durable work if status 403 rejects the item while others are answered: the prompt may be the
/// cause. A rejected API key (401) may be corrected, so its items wait.
const FORBIDDEN_TRIES: u8 = 4;

/// Which items a failure concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Possibly only this item.
    Item,
    /// The item is not retried at this step.
    Gone,
    /// Every further call would fail in the same way.
    All,
}

impl Reach {
    fn of(critical: bool) -> Self {
        if critical { Self::All } else { Self::Item }
    }
}

impl<W: Work> Dispatcher<W> {
    pub(super) fn on_failure(
        &mut self,
        mut ticket: Ticket<W::Task>,
        error: Error,
        facts: &EndFacts,
        hints: &RateHints,
        now: Time,
    ) {
        ticket.tries.count(&error);
        // A call may notice the deadline slightly before this clock does.
        if error.kind() == ErrorKind::DeadlineExceeded && self.options.deadline.is_some() {
            self.stop_for(StopReason::DeadlineExceeded);
        }
        let ended_by_us = matches!(
            error.kind(),
            ErrorKind::Cancelled | ErrorKind::DeadlineExceeded
        );
        if ended_by_us && self.stop.is_some() {
            self.cut_off(ticket, error);
        } else if self.options.no_shared_fate {
            if error.kind() != ErrorKind::Transient {
                ticket.tries.max_retries = Some(0);
            }
            let reach = Reach::of(error.is_critical());
            self.after_failure(ticket, error, reach, now);
        } else if facts.refused {
            self.on_rate_limited(ticket, error, facts, hints, now);
        } else {
            self.on_provider_failure(ticket, error, facts, now);
        }
    }

    /// A failure that the provider may have caused: the item waits for the provider, or the failure counts.
    fn on_provider_failure(
        &mut self,
        mut ticket: Ticket<W::Task>,
        error: Error,
        facts: &EndFacts,
        now: Time,
    ) {
        let step = ticket.tries.step;
        let has_next_step = facts.detour == Detour::NextStep;
        self.note_first_reply(&ticket, &error, has_next_step);
        // Durable work keeps waiting, unless its run stops on critical errors.
        let may_end = !self.options.durable || self.stops_when_critical();
        if facts.detour == Detour::Wait
            && may_be_shared(&error)
            && !error.timed_out()
            && may_end
            && let Some(why) =
                (self.availability.step_mut(facts.step)).patience_over(&error, facts.out, now)
        {
            return self.give_up_waiting(ticket, why);
        }
        if self.availability.outage(facts.step).is_some()
            && is_of_provider(&error)
            && !error.timed_out()
            && self.can_hold(&ticket.class, step)
            && !self.can_go_on(&ticket.class, step)
        {
            // Not an attempt: no model saw the item.
            ticket.tries.uncount();
            let at = now.after(self.options.retry.asked(&error).max(SHORTEST_WAIT));
            self.last_failure = Some(error.clone());
            return self.wait_until(ticket, at, Some(error));
        }
        let quota = match error.kind() {
            // One of many callers may use a model that the key may not use.
            ErrorKind::Auth if !self.options.multi_tenant => QuotaId::NONE,
            _ => ticket.quota(),
        };
        let critical = self.is_critical(facts, quota, &error);
        if critical {
            self.exclude(&ticket, &error, now);
        } else if error.kind() == ErrorKind::Auth
            && self.options.durable
            && !has_next_step
            && (error.status() != Some(403) || ticket.tries.attempt < FORBIDDEN_TRIES)
        {
            // All other calls may fail in the same way; then it is not the job's fault.
            if error.status() != Some(403) {
                ticket.tries.uncount();
            }
            return self.wait_until(ticket, now.after(REFUSED_FOR), Some(error));
        }
        self.after_failure(ticket, error, Reach::of(critical), now);
    }

    /// Whether every further call would fail in the same way.
    fn is_critical(&mut self, facts: &EndFacts, quota: QuotaId, error: &Error) -> bool {
        match error.kind() {
            ErrorKind::RateLimited | ErrorKind::Auth => {
                let shared = self.availability.shared(facts.step, quota);
                shared.is_critical(facts.out)
            }
            ErrorKind::UnknownModel if self.options.multi_tenant => false,
            _ => error.is_critical(),
        }
    }

    /// Stops a run before it pays for more unusable replies, or sends more requests that are always rejected.
    /// Rejected items fail over if another provider can be called; items with unusable replies do not.
    fn note_first_reply(&mut self, ticket: &Ticket<W::Task>, error: &Error, elsewhere: bool) {
        let step = self.availability.step_mut(ticket.step());
        let Some(why) = step.failed_at_first(error) else {
            return;
        };
        let goes_on = elsewhere && error.is_unclassified();
        let answered = self.options.multi_tenant || self.work.is_answered_elsewhere();
        if self.stops_when_critical() && !answered && !goes_on {
            self.stop_for(StopReason::AllAlike(why));
        }
    }

    /// A rate-limited call. It is no attempt while other calls are answered.
    fn on_rate_limited(
        &mut self,
        mut ticket: Ticket<W::Task>,
        error: Error,
        facts: &EndFacts,
        hints: &RateHints,
        now: Time,
    ) {
        let (durable, quota) = (self.options.durable, ticket.quota());
        let elsewhere = facts.detour == Detour::NextStep;
        let shared = self.availability.shared(facts.step, quota);
        let refused_for = now.since(*shared.refused_since.get_or_insert(now));
        // If it is unknown whether the quota ever answers, a run that would stop for this waits, as does durable work.
        let waits = shared.answered || durable || (!elsewhere && self.stops_when_critical());
        if self.options.retry.exceeds_longest_wait(&error) {
            // A used-up allowance concerns all items.
            let affects_all = hints.is_used_up() || self.is_critical(facts, quota, &error);
            let asked = long(error.retry_after().unwrap_or_default());
            let error = error.context(format!("it requests a wait of {asked}"));
            if affects_all {
                self.quota_is_lost(ticket, error, now);
            } else if durable && !elsewhere {
                let at = now.after(self.options.retry.asked(&error));
                self.wait_until(ticket, at, Some(error));
            } else {
                self.after_failure(ticket, error, Reach::Gone, now);
            }
            return;
        }
        if refused_for >= GIVE_UP_AFTER {
            let error = error.context("all calls were rejected for 10 minutes");
            return self.quota_is_lost(ticket, error, now);
        }
        let mut tries = ticket.tries.clone();
        let jitter = self.options.jitter.share();
        let at = route::after_refusal(&self.options.retry, &mut tries, &error, now, jitter);
        let in_time = durable || self.options.deadline.is_none_or(|end| at <= end);
        if waits && in_time && ticket.tries.waited < MOST_WAITED {
            ticket.tries = tries;
            self.last_failure = Some(error.clone());
            self.wait_until(ticket, at, Some(error));
        } else {
            self.after_failure(ticket, error, Reach::Item, now);
        }
    }

    fn quota_is_lost(&mut self, ticket: Ticket<W::Task>, error: Error, now: Time) {
        // Other models of the provider may have capacity.
        self.exclude(&ticket, &error.clone().with_model_only(), now);
        self.after_failure(ticket, error, Reach::All, now);
    }

    /// Applies the route's decision about a failure.
    fn after_failure(
        &mut self,
        mut ticket: Ticket<W::Task>,
        error: Error,
        reach: Reach,
        now: Time,
    ) {
        let critical = reach == Reach::All;
        let step = ticket.step();
        // During an outage, items do not wait. Nor do they if the server requests a long wait, and nothing suggests that
        // it will answer afterwards.
        let moves_on = reach == Reach::Gone
            || self.availability.outage(step).is_some()
                && may_be_shared(&error)
                && self.can_go_on(&ticket.class, ticket.tries.step)
            || route::requests_long_wait(&error) && !self.availability.answers(step, now);
        let next_callable = self.next_callable(&ticket);
        let members = self.work.members(&ticket.task);
        let jitter = self.options.jitter.share();
        let next = match next_callable {
            Some(_) if critical || moves_on => Next::FallBack,
            None if critical || reach == Reach::Gone => Next::GiveUp,
            _ => route::decide(
                &self.options.retry,
                next_callable.is_some(),
                &ticket.tries,
                &error,
                now,
                // Durable work may wait beyond the end of the run.
                self.options.deadline.filter(|_| !self.options.durable),
                jitter,
            ),
        };
        let moves_on = moves_on && next_callable.is_some();
        let divides =
            members > 1 && route::may_divide(&error) && !(moves_on && is_overload(&error));
        // The same call would get the same reply; most calls for one item may be answered.
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
                    "{}, {members} items that shared a call are retried one by one: {error}",
                    error.kind()
                );
                ticket.tries.divide();
                let at = route::parts_at(&self.options.retry, &error, now);
                self.wait_until(ticket, at, Some(error));
            }
            (Next::FallBack, Some(step)) => {
                log::info!("{}, on to the next provider: {error}", error.kind());
                ticket.tries.next_step(Some(&error));
                self.pass_steps(&mut ticket, step);
                self.wait_until(ticket, now, Some(error));
            }
            _ => self.fail(ticket, error, critical, now),
        }
    }

    /// Fails the item, or returns it to the queue if the work is durable and the provider is the cause.
    fn fail(&mut self, ticket: Ticket<W::Task>, error: Error, critical: bool, now: Time) {
        match self.options.on_error {
            ErrorPolicy::StopOnError => {
                self.stop_for(StopReason::ItemFailed(error.clone()));
            }
            ErrorPolicy::StopOnCriticalError if critical => {
                self.stop_for(StopReason::Critical(error.clone()));
            }
            ErrorPolicy::StopOnCriticalError
                if error.is_unreachable() && !self.options.no_shared_fate =>
            {
                self.unreached += 1;
                if self.unreached >= UNREACHED {
                    self.stop_for(StopReason::Unreachable(error.clone()));
                }
            }
            _ => {}
        }
        let unreachable = error.is_unreachable();
        if self.options.durable && unreachable && !critical {
            if !std::mem::replace(&mut self.unreachable_logged, true) {
                log::warn!(
                    "{error}; its jobs stay in the queue and are retried until the provider is reachable"
                );
            }
            let until = now.after(REFUSED_FOR);
            self.availability
                .exclude_step(&ticket.class, ticket.tries.step, &error, until);
        }
        let is_unsent = self.options.durable && (critical || unreachable);
        self.pending.push(if is_unsent {
            Settled::Unsent(ticket, error)
        } else {
            Settled::Final(ticket, Err(error))
        });
    }

    /// Excludes a provider after a critical failure, or a model that it does not know.
    fn exclude(&mut self, ticket: &Ticket<W::Task>, error: &Error, now: Time) {
        let (class, step) = (&ticket.class, ticket.tries.step);
        let is_new = !self.availability.was_excluded(class, step);
        let until = if self.options.durable {
            now.after(REFUSED_FOR)
        } else {
            Time::FAR
        };
        let has_quota = ticket.quota() != QuotaId::NONE;
        let of_caller = self.options.multi_tenant && has_quota && error.kind() == ErrorKind::Auth;
        if of_caller
            || error.is_model_only() && (has_quota || error.kind() != ErrorKind::RateLimited)
        {
            self.availability
                .exclude_quota(ticket.quota(), error, until);
        } else if self.availability.exclude_step(class, step, error, until) && !self.options.durable
        {
            self.stop_for(StopReason::Critical(error.clone()));
        }
        // Items without a quota cannot be distinguished from others, so the step is not excluded.
        let excluded = self.availability.excluded(class, step).is_some();
        if is_new && excluded && self.options.durable {
            let wait = REFUSED_FOR.as_secs();
            log::warn!("one call every {wait} s until the provider answers again: {error}");
        } else if is_new && excluded && self.availability.callable_step(class, 0).is_some() {
            log::warn!("no more calls to this provider in this run: {error}");
        }
    }
}

// Outages of a provider without alternative: which items wait, which item probes, and when the outage ends.

/// The item that probes a provider is chosen among this many, so that one that never failed is found.
const CHOICE: usize = 1_000;
/// Minimum wait for an unavailable provider. It lets another item probe the next time.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

impl<W: Work> Dispatcher<W> {
    /// Number of items to take. If a provider is to be probed, several to choose from, unless returning them needs a
    /// write.
    pub(super) fn wanted(&self, free: usize, now: Time) -> usize {
        if !self.availability.wants_probe(now) {
            free
        } else if self.options.durable {
            1
        } else {
            free.max(CHOICE)
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
    fn can_hold(&self, class: &Class, step: u8) -> bool {
        let is_one = class.steps() == 1 && !self.options.durable;
        !self.options.no_shared_fate && (is_one || class.quota(step) != QuotaId::NONE)
    }

    /// Whether a later step can be called and is not known to be unavailable.
    fn can_go_on(&self, class: &Class, step: u8) -> bool {
        let next = self.availability.callable_step(class, step + 1);
        next.is_some_and(|next| self.availability.outage(class.at(next)).is_none())
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
        let in_question = self.availability.in_question(at, class.quota(step));
        let waits =
            in_question && self.can_hold(class, step) && self.availability.in_flight(at) > 0;
        waits.then(|| now.after(LOOK_AGAIN))
    }

    /// Leaves the item unsent, and ends the run or excludes the step.
    fn give_up_waiting(&mut self, ticket: Ticket<W::Task>, why: Error) {
        let (class, step) = (&ticket.class, ticket.tries.step);
        if self.availability.exclude_step(class, step, &why, Time::FAR) {
            self.stop_for(StopReason::Unreachable(why.clone()));
        }
        self.cut_off(ticket, why);
    }

    /// Leaves the item unsent.
    fn cut_off(&mut self, ticket: Ticket<W::Task>, why: Error) {
        self.counters.cut_off += u64::from(ticket.tries.in_doubt);
        self.pending.push(Settled::Unsent(ticket, why));
    }
}

/// Whether the provider is the cause: no model saw the request, and nothing was charged.
fn is_of_provider(error: &Error) -> bool {
    let refused = error.is_unreachable() || is_overload(error);
    refused && error.kind() == ErrorKind::Transient && error.sent() != Sent::Maybe
}

/// A duration for messages.
pub(super) fn long(time: Duration) -> FormattedDuration {
    format_duration(Duration::from_secs(time.as_secs()))
}
