//! Effect of a failure: the item is retried, fails over, waits for its provider, or fails.

use std::time::Duration;

use humantime::{FormattedDuration, format_duration};

use crate::base::verdict::{Again, Bill, Verdict, Whom};
use crate::base::{Error, ErrorKind, RateHints, Time};

use super::super::availability::{Detour, EndFacts, may_be_shared};
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
pub(super) const REFUSED_FOR: Duration = Duration::from_secs(10);

/// What a failure leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    /// The item is tried again after a wait; after its last attempt as if never.
    Retry,
    /// The item waits, which uses up no attempt.
    Wait,
    /// The item waits apart from the others until it is known whom the failure concerns.
    Apart,
    /// The item goes on to the next provider.
    NextStep,
    /// The item fails.
    Fail,
    /// What is concerned is not called any more: its items go on to the next provider, or are not sent.
    Close,
}

/// What a failure is decided by, beside its verdict.
#[derive(Debug, Clone, Copy)]
struct Case {
    /// Another provider can be called.
    further: bool,
    /// The work outlives the run.
    durable: bool,
    /// All calls to whom it concerns fail so.
    shared: bool,
}

/// The table of what follows from a failure.
fn course(verdict: Verdict, case: Case) -> Course {
    let Case {
        further,
        durable,
        shared,
    } = case;
    match (verdict.whom, verdict.again) {
        // It would be paid again.
        (_, Again::Never) if verdict.paid == Bill::Yes => Course::Fail,
        (Whom::Way, Again::Later) if shared && !further => Course::Wait,
        (Whom::Way, Again::Later) if shared => Course::NextStep,
        // Where it waits for room, that is over.
        (_, Again::Later | Again::Room) => Course::Retry,
        (Whom::Model | Whom::Account | Whom::Way | Whom::Unclear, Again::Never) if shared => {
            Course::Close
        }
        (Whom::Unclear, Again::Never) => Course::Apart,
        (_, Again::Never) if further => Course::NextStep,
        // The key may be corrected.
        (Whom::Account, Again::Never) if durable => Course::Wait,
        (_, Again::Never) => Course::Fail,
    }
}

/// Which items a failure concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
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
        let further = facts.detour == Detour::NextStep;
        self.note_first_reply(&ticket, &error, further);
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
        let mut verdict = error.verdict();
        if verdict.again == Again::Room {
            // It has waited for room for too long, or nothing shows that there will be any.
            (verdict.whom, verdict.again) = (Whom::Way, Again::Later);
        }
        let case = Case {
            further,
            durable: self.options.durable,
            shared: self.is_shared(&ticket, facts, (verdict, &error)),
        };
        match course(verdict, case) {
            Course::Apart => self.on_unclear(ticket, error, facts, now),
            Course::Close if verdict.is_unclear() => {
                ticket.tries.uncount();
                self.on_lost_way(ticket, error, now);
            }
            Course::Close => {
                self.exclude(&ticket, &error, now);
                self.after_failure(ticket, error, Reach::All, now);
            }
            // No model saw the item, so it is no attempt.
            Course::Wait if verdict.again == Again::Never => {
                ticket.tries.uncount();
                self.wait_until(ticket, now.after(REFUSED_FOR), Some(error));
            }
            Course::Wait => {
                ticket.tries.uncount();
                let at = now.after(self.options.retry.asked(&error).max(SHORTEST_WAIT));
                self.last_failure = Some(error.clone());
                self.wait_until(ticket, at, Some(error));
            }
            Course::Retry | Course::NextStep | Course::Fail => {
                self.after_failure(ticket, error, Reach::Item, now);
            }
        }
    }

    /// Whether all calls to whom a failure concerns fail so.
    fn is_shared(
        &mut self,
        ticket: &Ticket<W::Task>,
        facts: &EndFacts,
        (verdict, error): (Verdict, &Error),
    ) -> bool {
        let step = ticket.tries.step;
        // No model saw the request, and nothing was charged.
        let is_unseen = verdict.whom == Whom::Way && verdict.paid == Bill::No;
        match verdict.again {
            Again::Later | Again::Room => {
                self.availability.outage(facts.step).is_some()
                    && is_unseen
                    && !error.timed_out()
                    && self.can_hold(&ticket.class, step)
                    && !self.can_go_on(&ticket.class, step)
            }
            _ if verdict.is_unclear() => self.availability.was_excluded(&ticket.class, step),
            _ => {
                let quota = match error.kind() {
                    // One of many callers may use a model that the key may not use.
                    ErrorKind::Auth if !self.options.multi_tenant => QuotaId::NONE,
                    _ => ticket.quota(),
                };
                self.is_critical(facts, quota, error)
            }
        }
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
    pub(super) fn after_failure(
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
        let divides = members > 1
            && route::may_divide(&error)
            && !(moves_on && route::is_of_provider(&error));
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
    pub(super) fn exclude(&mut self, ticket: &Ticket<W::Task>, error: &Error, now: Time) {
        let (class, step) = (&ticket.class, ticket.tries.step);
        let is_new = !self.availability.was_excluded(class, step);
        let until = if self.options.durable {
            now.after(REFUSED_FOR)
        } else {
            Time::FAR
        };
        let has_quota = ticket.quota() != QuotaId::NONE;
        let is_shared = error.kind() == ErrorKind::Auth || error.verdict().is_unclear();
        let of_caller = self.options.multi_tenant && has_quota && is_shared;
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
/// The same if each that is not chosen is claimed and given back.
const CHOICE_OF_STORE: usize = 100;
/// Minimum wait for an unavailable provider. It lets another item probe the next time.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

impl<W: Work> Dispatcher<W> {
    /// Number of items to take. If a provider is to be probed, several to choose from, unless returning them needs a
    /// write.
    pub(super) fn wanted(&self, free: usize, now: Time) -> usize {
        if self.availability.is_suspect(now) {
            free.max(if self.options.durable {
                CHOICE_OF_STORE
            } else {
                CHOICE
            })
        } else if !self.availability.wants_probe(now) {
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
        let quota = class.quota(step);
        let is_held = self.availability.held(at, quota, now) > 0;
        let look = now.after(LOOK_AGAIN);
        let look = (self.availability.paced_until(at, quota, now)).map_or(look, |at| look.min(at));
        (is_held && self.can_hold(class, step)).then_some(look)
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
    pub(super) fn cut_off(&mut self, ticket: Ticket<W::Task>, why: Error) {
        self.counters.cut_off += u64::from(ticket.tries.in_doubt);
        let why = ticket.tries.ended(why);
        self.pending.push(Settled::Unsent(ticket, why));
    }
}

/// A duration for messages.
pub(super) fn long(time: Duration) -> FormattedDuration {
    format_duration(Duration::from_secs(time.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a course means for an item.
    fn meaning(course: Course, case: Case) -> &'static str {
        match course {
            Course::Retry => "retried",
            Course::Wait => "waits",
            Course::Apart => "waits apart",
            Course::NextStep => "next provider",
            Course::Fail => "fails",
            Course::Close if case.further => "next provider for all",
            Course::Close if case.durable => "back to the queue",
            Course::Close => "the run stops",
        }
    }

    #[test]
    fn the_documentation_has_the_table_of_what_follows() {
        use strum::VariantArray as _;
        let mut rows = Vec::<(String, String, Vec<String>)>::new();
        for again in Again::VARIANTS {
            for whom in Whom::VARIANTS {
                if *again == Again::Room {
                    continue;
                }
                let paid = Bill::No;
                let verdict = Verdict {
                    whom: *whom,
                    again: *again,
                    paid,
                };
                let cells =
                    [(true, false), (false, false), (false, true)].map(|(further, durable)| {
                        let of = |shared| {
                            let case = Case {
                                further,
                                durable,
                                shared,
                            };
                            meaning(course(verdict, case), case)
                        };
                        match (of(false), of(true)) {
                            (one, all) if one == all => one.to_owned(),
                            (one, all) => format!("{one}; {all}"),
                        }
                    });
                let (name, again): (&str, &str) = (whom.into(), again.into());
                let again = again.to_owned();
                match rows.last_mut() {
                    Some((names, of, known)) if *of == again && *known == cells => {
                        *names += ", ";
                        *names += name;
                    }
                    _ => rows.push((name.to_owned(), again, cells.into())),
                }
            }
        }
        let lines = rows.into_iter().map(|(names, again, cells)| {
            format!("| {names} | {again} | {} |\n", cells.join(" | "))
        });
        let table: String = lines.collect();
        let docs = include_str!("../../../docs/limits.md");
        assert!(docs.contains(&table), "docs/limits.md lacks this:\n{table}");
    }
}
