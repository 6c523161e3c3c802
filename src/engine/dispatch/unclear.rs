//! Items whose end only other calls can explain. They wait apart from the others, neither failed nor sent on, until it is
//! known [whom the end concerns](super::super::availability::doubt), and go behind the items that were not yet tried.

use std::time::Duration;

use crate::base::{Error, Time};

use super::super::availability::{Availability, EndFacts};
use super::super::quota::QuotaId;
use super::super::work::{Ticket, Work};
use super::failure::{REFUSED_FOR, Reach};
use super::{Call, Dispatcher, StopReason};

/// An item whose end is unclear.
pub(super) struct Undecided<T> {
    ticket: Ticket<T>,
    error: Error,
    /// The calls that had begun when its call ended.
    begun: u64,
    /// When it is tried again, if there is nothing else to try.
    due: Time,
    /// It was tried often enough.
    is_last: bool,
}

impl<T> Undecided<T> {
    /// Whether others of its quota wait too, so that they are still to be tried.
    fn is_held(&self, availability: &Availability, now: Time) -> bool {
        availability.is_paused(&self.ticket.class, self.ticket.tries.step, now)
    }
}

/// The most of them. With as many, no other item is tried.
const MOST: usize = 1_000;
/// How often each is tried again.
const TRIES: u8 = 3;
/// So long after its time, each is tried again although there is something else to try: that may never end.
const OVERDUE: Duration = Duration::from_secs(10);
/// So long an item waits for more of the input, which may wait for the item.
const SOURCE_WAITS: Duration = Duration::from_secs(60);

/// What there is to try beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    Some,
    /// None for now: a source that is still read may bring more.
    NotYet,
    None,
}

/// What an unclear end has turned out to be.
enum Decision {
    OfRequest,
    OfWay,
    /// The run ends before it was known.
    Unsent,
}

impl<W: Work> Dispatcher<W> {
    /// The quota whose other calls explain an end; none if all calls of a step do.
    fn explained_by(&self, ticket: &Ticket<W::Task>) -> QuotaId {
        if self.options.multi_tenant {
            ticket.quota()
        } else {
            QuotaId::NONE
        }
    }

    pub(super) fn on_unclear(
        &mut self,
        mut ticket: Ticket<W::Task>,
        error: Error,
        facts: &EndFacts,
        now: Time,
    ) {
        let quota = self.explained_by(&ticket);
        let begun = self.started;
        let shared = self.availability.shared(facts.step, quota);
        let (doubt, tries) = (&mut shared.doubt, &mut ticket.tries);
        if tries.unclear == 0 {
            tries.unclear_call = facts.number;
        }
        // It counts once in each row, unless a call was answered that began after its first one: then it may be the cause
        // itself.
        let counts = tries.unclear_row != doubt.row + 1
            && (tries.unclear == 0 || !doubt.is_of_request(tries.unclear_call));
        if counts && doubt.note(error.likeness(), facts.number, begun, shared.in_flight) {
            tries.unclear_row = doubt.row + 1;
        }
        let retry = &self.options.retry;
        let most = retry.most(&ticket.tries).min(TRIES);
        let due = now.after(retry.backoff(ticket.tries.unclear + 1));
        let is_last = ticket.tries.unclear >= most;
        ticket.tries.unclear += 1;
        // No model saw the item.
        ticket.tries.uncount();
        self.last_failure = Some(error.clone());
        self.counters.in_flight -= 1;
        shared.undecided += 1;
        self.undecided.push(Undecided {
            ticket,
            error,
            begun,
            due: if is_last { now } else { due },
            is_last,
        });
    }

    fn leaves_undecided(&mut self, ticket: &Ticket<W::Task>) {
        let quota = self.explained_by(ticket);
        let shared = self.availability.shared(ticket.step(), quota);
        shared.undecided = shared.undecided.saturating_sub(1);
    }

    /// Ends the waiting of items about which enough is known, while there are slots.
    fn decide_undecided(&mut self, others: Others, now: Time) -> bool {
        let (mut at, before) = (0, self.undecided.len());
        while at < self.undecided.len() && self.counters.in_flight < self.options.concurrency {
            let Some(decision) = self.decision(at, others, now) else {
                at += 1;
                continue;
            };
            let Undecided { ticket, error, .. } = self.undecided.remove(at);
            self.leaves_undecided(&ticket);
            self.counters.in_flight += 1;
            match decision {
                Decision::OfRequest => self.after_failure(ticket, error, Reach::Item, now),
                Decision::OfWay => self.on_lost_way(ticket, error, now),
                // The reason is why the run ends.
                Decision::Unsent if self.options.durable => self.cut_off(ticket, error),
                Decision::Unsent => self.wait_until(ticket, Time::ZERO, None),
            }
        }
        self.undecided.len() < before
    }

    /// Ends the waiting of those about which enough is known; each group of ends makes room for the next.
    pub(super) fn end_decided(&mut self, now: Time) {
        while self.decide_undecided(Others::Some, now) {
            self.flush(now);
        }
    }

    fn decision(&mut self, at: usize, others: Others, now: Time) -> Option<Decision> {
        if self.stop.is_some() {
            return Some(Decision::Unsent);
        }
        let item = &self.undecided[at];
        let (step, quota) = (item.ticket.step(), self.explained_by(&item.ticket));
        let due = item.due;
        let may_be_over = item.is_last && !item.is_held(&self.availability, now);
        let begun = item.begun;
        let durable = self.options.durable;
        let shared = self.availability.shared(step, quota);
        // Its row may still grow while other calls end.
        let is_overdue =
            durable && due.after(OVERDUE) <= now && shared.doubt.is_quiet(OVERDUE, now);
        let is_over = may_be_over && (others != Others::Some || is_overdue);
        let brings_more = others == Others::NotYet && due.after(SOURCE_WAITS) > now;
        // A full row decides when the calls that had begun before it have ended.
        let is_over = is_over && !shared.doubt.is_full();
        if shared.doubt.is_of_request(begun) || is_over && shared.answered {
            Some(Decision::OfRequest)
        } else if shared.doubt.is_of_way() || is_over && shared.in_flight == 0 && !brings_more {
            Some(Decision::OfWay)
        } else {
            None
        }
    }

    /// No call gets through this way.
    pub(super) fn on_lost_way(&mut self, mut ticket: Ticket<W::Task>, error: Error, now: Time) {
        self.exclude(&ticket, &error, now);
        if let Some(step) = self.next_callable(&ticket) {
            ticket.tries.next_step(Some(&error));
            self.pass_steps(&mut ticket, step);
            return self.wait_until(ticket, now, Some(error));
        }
        let (durable, stops) = (self.options.durable, self.stops_when_critical());
        if durable && !stops {
            // Others come before it when the way is tried again.
            return self.wait_until(ticket, now.after(REFUSED_FOR), Some(error));
        }
        if durable {
            self.lost_way = true;
        } else if stops {
            self.stop_for(StopReason::Critical(error.clone()));
        }
        self.cut_off(ticket, error);
    }

    /// Ends durable work that ends with its queue, if only items are left that wait for a lost way.
    pub(super) fn stop_for_lost_way(&mut self) {
        let is_over = self.undecided.is_empty() && self.calls_in_flight() == 0;
        let mut reasons = self.availability.reasons();
        let why = reasons.find(|why| why.verdict().is_unclear()).cloned();
        drop(reasons);
        if self.lost_way
            && self.stops_when_critical()
            && is_over
            && self.work.held_by().is_none()
            && let Some(why) = why
        {
            self.stop_for(StopReason::Critical(why));
        }
    }

    /// Whether there are too many of them to try another item.
    pub(super) fn is_full_of_undecided(&self) -> bool {
        self.undecided.len() >= MOST
    }

    /// When the next of them is tried again, or decided without a call.
    pub(super) fn undecided_due(&self, others: Others, now: Time) -> Option<Time> {
        let items = self.undecided.iter();
        let items = items.filter(|item| !item.is_held(&self.availability, now));
        let times = items.map(|item| {
            item.due.after(match (others, item.is_last) {
                (Others::Some, _) => OVERDUE,
                (Others::NotYet, true) => SOURCE_WAITS,
                _ => Duration::ZERO,
            })
        });
        // One whose time has come waits for a slot, or for a call in flight.
        times.filter(|at| *at > now).min()
    }

    /// Tries those that are due again, and ends the waiting of those that were tried often enough. Returns whether there
    /// were any.
    pub(super) fn retry_undecided(
        &mut self,
        others: Others,
        now: Time,
        start: &mut Vec<Call<W::Task>>,
    ) -> bool {
        let before = self.undecided.len();
        self.decide_undecided(others, now);
        let availability = &self.availability;
        let wait = if others == Others::Some {
            OVERDUE
        } else {
            Duration::ZERO
        };
        let is_due = |item: &mut Undecided<W::Task>| {
            let is_due = !item.is_last && item.due.after(wait) <= now;
            is_due && !item.is_held(availability, now)
        };
        let free = (self.options.concurrency).saturating_sub(self.counters.in_flight);
        let due = self.undecided.extract_if(.., is_due).take(free);
        for Undecided { ticket, .. } in due.collect::<Vec<_>>() {
            self.leaves_undecided(&ticket);
            self.admit(ticket, now, start);
        }
        self.flush(now);
        self.undecided.len() < before
    }
}
