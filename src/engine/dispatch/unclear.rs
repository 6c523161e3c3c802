//! Items whose end only other calls can explain. They wait apart from the others, neither failed nor sent on, until it is
//! known [whom the end concerns](super::super::availability::doubt), and go behind the items that were not yet tried.

use crate::base::{Error, Time};

use super::super::availability::{Availability, EndFacts};
use super::super::quota::QuotaId;
use super::super::work::{Ticket, Work};
use super::failure::Reach;
use super::{Call, Dispatcher, StopReason};

/// An item whose end is unclear.
pub(super) struct Undecided<T> {
    ticket: Ticket<T>,
    error: Error,
    /// The calls that had begun when its call ended.
    begun: u64,
    /// When it is tried again, if there is nothing else to try; `None` if it was often enough.
    due: Option<Time>,
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
        // After an answer it counts again, unless that answers a later call: then it may be the cause itself.
        let again = doubt.row != tries.unclear_row && !doubt.is_of_request(tries.unclear_call);
        if (tries.unclear == 0 || again)
            && doubt.note(error.likeness(), facts.number, begun, shared.in_flight)
        {
            tries.unclear_row = doubt.row;
        }
        let retry = &self.options.retry;
        let most = retry.most(&ticket.tries).min(TRIES);
        let due = now.after(retry.backoff(ticket.tries.unclear + 1));
        let due = (ticket.tries.unclear < most).then_some(due);
        ticket.tries.unclear += 1;
        // No model saw the item.
        ticket.tries.uncount();
        self.last_failure = Some(error.clone());
        self.counters.in_flight -= 1;
        self.undecided.push(Undecided {
            ticket,
            error,
            begun,
            due,
        });
    }

    /// Ends the waiting of items about which enough is known, as far as there are slots. `idle`: there is nothing else to
    /// try.
    fn decide_undecided(&mut self, idle: bool, now: Time) -> bool {
        let (mut at, before) = (0, self.undecided.len());
        while at < self.undecided.len() && self.counters.in_flight < self.options.concurrency {
            let Some(decision) = self.decision(at, idle, now) else {
                at += 1;
                continue;
            };
            let Undecided { ticket, error, .. } = self.undecided.remove(at);
            self.counters.in_flight += 1;
            match decision {
                Decision::OfRequest => self.after_failure(ticket, error, Reach::Item, now),
                Decision::OfWay => self.on_lost_way(ticket, error, now),
                Decision::Unsent => self.cut_off(ticket, error),
            }
        }
        self.undecided.len() < before
    }

    /// Ends the waiting of those about which enough is known; each group of ends makes room for the next.
    pub(super) fn end_decided(&mut self, now: Time) {
        while self.decide_undecided(false, now) {
            self.flush(now);
        }
    }

    fn decision(&mut self, at: usize, idle: bool, now: Time) -> Option<Decision> {
        if self.stop.is_some() {
            return Some(Decision::Unsent);
        }
        let item = &self.undecided[at];
        let (step, quota) = (item.ticket.step(), self.explained_by(&item.ticket));
        let is_held = item.is_held(&self.availability, now);
        let shared = self.availability.shared(step, quota);
        let is_over = idle && item.due.is_none() && !is_held;
        if shared.doubt.is_of_request(item.begun) || is_over && shared.answered {
            Some(Decision::OfRequest)
        } else if shared.doubt.is_of_way() || is_over && shared.in_flight == 0 {
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
        if self.stops_when_critical() {
            self.stop_for(StopReason::Critical(error.clone()));
        }
        self.cut_off(ticket, error);
    }

    /// Whether there are too many of them to try another item.
    pub(super) fn is_full_of_undecided(&self) -> bool {
        self.undecided.len() >= MOST
    }

    /// When the next of them is tried again.
    pub(super) fn undecided_due(&self, now: Time) -> Option<Time> {
        let items = self.undecided.iter();
        let items = items.filter(|item| !item.is_held(&self.availability, now));
        items.filter_map(|item| item.due).min()
    }

    /// Where there is nothing else to try: tries those that are due again, and ends the waiting of those that were tried
    /// often enough. Returns whether there were any.
    pub(super) fn retry_undecided(&mut self, now: Time, start: &mut Vec<Call<W::Task>>) -> bool {
        let before = self.undecided.len();
        self.decide_undecided(true, now);
        let availability = &self.availability;
        let is_due = |item: &mut Undecided<W::Task>| {
            item.due.is_some_and(|due| due <= now) && !item.is_held(availability, now)
        };
        let free = (self.options.concurrency).saturating_sub(self.counters.in_flight);
        let due = self.undecided.extract_if(.., is_due).take(free);
        for Undecided { ticket, .. } in due.collect::<Vec<_>>() {
            self.admit(ticket, now, start);
        }
        self.flush(now);
        self.undecided.len() < before
    }
}
