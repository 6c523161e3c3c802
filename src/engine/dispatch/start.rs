//! Starts the calls that slots, quotas and providers allow, and determines what limits the others.

use crate::base::{Error, ErrorKind, Time};

use super::super::limited_by::Limit;
use super::super::limiter::{Gate, Permit};
use super::super::route::Tries;
use super::super::work::{Settled, Take, Ticket, Work};
use super::unclear::Others;
use super::{Call, Dispatcher, Io, StopReason, earlier};

/// Why no more calls start in this turn.
#[derive(Default)]
pub(super) struct Started {
    /// When more calls may start.
    pub wake: Option<Time>,
    pub limit: Option<Limit>,
    /// No item is left, now or later.
    pub exhausted: bool,
}

impl Started {
    fn held_by(limit: Limit) -> Self {
        Self {
            limit: Some(limit),
            ..Self::default()
        }
    }
}

impl<W: Work> Dispatcher<W> {
    /// Starts calls until something limits them.
    pub(super) fn start_calls(&mut self, now: Time, start: &mut Vec<Call<W::Task>>) -> Started {
        self.retry_undecided(Others::Some, now, start);
        while self.stop.is_none() {
            let free = match self.free_slots() {
                Ok(free) => free,
                Err(limit) => return Started::held_by(limit),
            };
            let wanted = self.wanted(free, now);
            let taken = if self.is_full_of_undecided() {
                Ok(Take::Done)
            } else {
                self.work.take(wanted, &self.availability, now)
            };
            match taken {
                Err(error) => self.stop_for(StopReason::Fatal(error)),
                Ok(Take::Items(items)) => {
                    self.start_items(items, now, start);
                    self.flush(now);
                }
                Ok(taken) => {
                    let (until, source_open) = match taken {
                        Take::Idle { until, source_open } => (until, source_open),
                        _ => (None, false),
                    };
                    let others = match source_open {
                        true if !self.work.has_store() => Others::NotYet,
                        _ if self.claims() => Others::Some,
                        _ => Others::None,
                    };
                    if others != Others::Some {
                        if self.retry_undecided(others, now, start) {
                            continue;
                        }
                        // Otherwise nothing is left, and nothing waits for the way.
                        if !matches!(taken, Take::Done) {
                            self.stop_for_lost_way();
                        }
                    }
                    if matches!(taken, Take::Done) && self.undecided.is_empty() {
                        return Started {
                            exhausted: true,
                            ..Started::default()
                        };
                    }
                    return self.nothing_to_start(until, source_open, others, now);
                }
            }
        }
        Started::default()
    }

    /// Sends the claim that the last take needed. Returns whether one is in flight.
    pub(super) fn claims(&mut self) -> bool {
        if let Some(io) = self.work.take_io() {
            self.taking = true;
            self.io.push(Io::Take(io));
        }
        self.taking
    }

    /// Number of calls that can start, or what holds them back.
    fn free_slots(&mut self) -> Result<usize, Limit> {
        // Calls start during a write to a store.
        let waits_for_disk =
            self.settle_error.is_some() || !self.work.has_store() && !self.pending.is_empty();
        let most = self.options.concurrency;
        let free = most.saturating_sub(self.counters.in_flight);
        if waits_for_disk {
            Err(Limit::Disk)
        } else if free == 0 {
            Err(self.slots_hold())
        } else if self.settling.is_some() && 2 * free < most {
            // A write in flight frees slots soon. Fewer and larger claims are cheaper for a store.
            Err(Limit::Disk)
        } else {
            Ok(free)
        }
    }

    /// Starts the calls of these items.
    fn start_items(
        &mut self,
        mut items: Vec<Ticket<W::Task>>,
        now: Time,
        start: &mut Vec<Call<W::Task>>,
    ) {
        if self.availability.wants_probe(now) {
            // Items that never failed show best whether a provider is available again.
            let failures = |tries: &Tries| tries.refused + u16::from(tries.attempt);
            items.sort_by_key(|ticket| failures(&ticket.tries));
        } else if self.availability.is_suspect(now) {
            // Untried items from everywhere, because a part of the input may look like all of it. This order is as even
            // as one can be (https://en.wikipedia.org/wiki/Hash_function#Fibonacci_hashing).
            let scattered = |order: u64| order.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            items.sort_by_cached_key(|ticket| {
                let (step, quota, order) = (ticket.step(), ticket.quota(), ticket.order);
                let is_its = self.availability.is_in_doubt(step, quota, now);
                let order = if is_its { scattered(order) } else { order };
                (ticket.tries.calls > 0, is_its, order)
            });
        }
        for ticket in items {
            if self.counters.in_flight >= self.options.concurrency {
                self.pending.push(Settled::Later(ticket, Time::ZERO, None));
                continue;
            }
            self.admit(ticket, now, start);
        }
    }

    fn nothing_to_start(
        &mut self,
        until: Option<Time>,
        source_open: bool,
        others: Others,
        now: Time,
    ) -> Started {
        let opening = self.availability.next_change(now);
        let wake = earlier(earlier(until, opening), self.undecided_due(others, now));
        let limit = if opening.is_some() {
            Some(self.pauses_hold(now))
        } else if let Some(held) = self.work.held_by() {
            let is_full = held == Limit::Quota && self.is_full();
            Some(if is_full { Limit::Concurrency } else { held })
        } else if source_open {
            Some(Limit::Source)
        } else {
            until
                .filter(|_| self.calls_in_flight() == 0)
                .map(|_| Limit::Backoff)
        };
        Started {
            wake,
            limit,
            exhausted: wake.is_none() && !source_open,
        }
    }

    /// What occupies the slots.
    fn slots_hold(&mut self) -> Limit {
        if 2 * self.calls_in_flight() < self.counters.in_flight {
            Limit::Disk
        } else if self.work.has_more() {
            Limit::Concurrency
        } else {
            Limit::Provider
        }
    }

    /// Why quotas are paused.
    fn pauses_hold(&mut self, now: Time) -> Limit {
        if self.availability.all_away() {
            return Limit::Cooldown;
        }
        if self.is_full() {
            return Limit::Concurrency;
        }
        let mut paused = self.availability.pauses.paused(now);
        if paused.any(|quota| self.limiter.paused_until(quota) <= now) {
            Limit::Quota
        } else {
            Limit::Cooldown
        }
    }

    /// Whether items wait because their provider has as many calls in flight as it accepts.
    fn is_full(&mut self) -> bool {
        let (work, availability) = (&mut self.work, &self.availability);
        self.limiter
            .is_full(|quota| work.waits_for(quota, availability))
    }

    pub(super) fn admit(
        &mut self,
        mut ticket: Ticket<W::Task>,
        now: Time,
        start: &mut Vec<Call<W::Task>>,
    ) {
        let step = ticket.tries.step;
        match self.availability.callable_step(&ticket.class, step) {
            Some(live) => self.pass_steps(&mut ticket, live),
            None => {
                let dead = self.availability.excluded(&ticket.class, step);
                let kind = dead.map_or(ErrorKind::Cancelled, Error::kind);
                let why = dead.map_or_else(String::new, ToString::to_string);
                let again = if ticket.tries.calls > 0 { " again" } else { "" };
                let error = Error::new(kind, format!("not sent{again}: {why}"));
                let error = ticket.tries.ended(error);
                self.counters.in_flight += 1;
                self.pending.push(Settled::Unsent(ticket, error));
                return;
            }
        }
        let quota = ticket.quota();
        if self.must_wait(&ticket, now) {
            self.pending.push(Settled::Later(ticket, Time::ZERO, None));
            return;
        }
        let (input, cap) = (
            ticket.cost.input.into(),
            ticket.cost.output_cap.map(u64::from),
        );
        match self.limiter.try_acquire(quota, input, cap, now) {
            Gate::NotUntil(at) => {
                self.availability.pauses.set(quota, at);
                self.pending.push(Settled::Later(ticket, Time::ZERO, None));
            }
            Gate::Go(permit) => {
                start.push(self.begin_call(ticket, permit, now));
                // Durable work must write back each item that it takes and cannot start.
                if self.options.durable
                    && let Some(at) = self.limiter.closed_until(quota, now)
                {
                    self.availability.pauses.set(quota, at);
                }
            }
        }
    }

    /// Whether the provider of this item takes no call now.
    fn must_wait(&mut self, ticket: &Ticket<W::Task>, now: Time) -> bool {
        let (quota, step) = (ticket.quota(), ticket.tries.step);
        if self.availability.pauses.is_paused(quota, now) {
            return true;
        }
        let held_until = self.held_until(&ticket.class, step, now);
        if let Some(at) = held_until {
            self.availability.pauses.set(quota, at);
        }
        held_until.is_some()
    }

    fn begin_call(
        &mut self,
        mut ticket: Ticket<W::Task>,
        permit: Permit,
        now: Time,
    ) -> Call<W::Task> {
        let quota = ticket.quota();
        let tries = &mut ticket.tries;
        if tries.in_doubt {
            tries.in_doubt = false;
            self.counters.possibly_paid_twice += 1;
        }
        *self.counters.of_kind(tries) += 1;
        if tries.first == Time::ZERO {
            // A test may begin its time at 0, which means that no call has begun.
            tries.first = now.max(Time::from_nanos(1));
        }
        self.counters.first_start.get_or_insert(now);
        self.counters.calls += 1;
        self.counters.in_flight += 1;
        let most = &mut self.counters.most_in_flight;
        *most = self.counters.in_flight.max(*most);
        self.started += 1;
        self.availability
            .begin_call(ticket.step(), quota, self.started, now);
        Call {
            number: self.started,
            began: now,
            ticket,
            permit,
        }
    }
}
