//! The dispatcher: a state machine that decides which calls start, what the end of a call causes, and when to check
//! again.
//!
//! It has no threads and no clock. Its inputs are events with their times; its outputs are calls to start and the
//! time of the next turn. [`run`](super::run) drives it with real threads, the simulation with thousands of seeded
//! schedules.

use std::sync::Arc;

use crate::base::{Error, RateHints, Time};

use super::availability::Availability;
use super::counters::Counters;
use super::limited_by::{Lately, Limit, LimitedBy};
use super::limiter::{Limiter, Permit};
use super::route::RetryPolicy;
pub use super::stop::{ErrorPolicy, StopReason};
use super::work::{SettleEnd, SettleIo, Settled, TakeEnd, TakeIo, Ticket, Work};
use crate::base::random::Random;

mod call_ended;
mod failure;
mod settle;
mod start;

use start::Started;

/// A call to make, with its reservation.
#[derive(Debug)]
pub(crate) struct Call<T> {
    /// Number of the call in this run, from 1.
    pub number: u64,
    pub began: Time,
    pub ticket: Ticket<T>,
    pub permit: Permit,
}

/// A call that ended.
pub(crate) struct EndedCall<T, D> {
    pub call: Call<T>,
    pub result: Result<D, Error>,
    /// Input and output tokens, if the reply reports them.
    pub used: Option<(u64, u64)>,
    pub hints: RateHints,
    /// The run must end: the task could not be read.
    pub fatal: bool,
}

/// A request to the store, sent without the lock. At most one of each kind is in flight.
pub(crate) enum Io<W: Work> {
    Settle(SettleIo<W>),
    Take(TakeIo<W>),
}

impl<W: Work> Io<W> {
    /// Performs the request. The dispatcher handles the returned event.
    pub(crate) fn run(self) -> Event<W> {
        match self {
            Self::Settle(io) => Event::Settled(io()),
            Self::Take(io) => Event::Taken(io()),
        }
    }
}

/// An event.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every event is the end of a call"
)]
pub(crate) enum Event<W: Work> {
    CallEnded(EndedCall<W::Task, W::Done>),
    /// A settling write has ended.
    Settled(SettleEnd<W>),
    /// A claim has ended.
    Taken(TakeEnd<W>),
    /// The caller took this many outcomes; only for work that [defers their release](Work::defers_release).
    Released(usize),
    /// Changes the number of permits during the run.
    SetConcurrency(usize),
    Stop(StopReason),
    /// New items may be available.
    Woken,
}

/// What to do after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Turn again at this time, or at the next event.
    Wait(Option<Time>),
    /// All items are settled.
    Finished,
}

pub(crate) struct Options {
    pub concurrency: usize,
    pub retry: RetryPolicy,
    pub on_error: ErrorPolicy,
    pub deadline: Option<Time>,
    pub jitter: Random,
    /// The work outlives the run: failures of a provider return the item to the queue instead of failing it, and the
    /// provider is called again later.
    pub durable: bool,
    /// The work comes from many callers: an unknown model or an invalid request of one caller stops no other.
    pub multi_tenant: bool,
    /// The tasks call no common provider: a failure shows nothing about other tasks, unless the error is marked as
    /// critical.
    pub no_shared_fate: bool,
}

/// More than 15 fields, because all decisions about a run are made in one place and under one lock; each topic with rules
/// of its own is a struct in its own file.
pub(crate) struct Dispatcher<W: Work> {
    pub work: W,
    options: Options,
    limiter: Arc<Limiter>,
    pending: Vec<Settled<W::Task, W::Done>>,
    /// Ends that the write in flight makes durable.
    settling: Option<Vec<Settled<W::Task, W::Done>>>,
    /// Whether a claim is in flight.
    taking: bool,
    /// Requests to perform without the lock.
    io: Vec<Io<W>>,
    settle_at: Option<Time>,
    settle_error: Option<Error>,
    /// The latest failure that will be retried, until something succeeds.
    last_failure: Option<Error>,
    availability: Availability,
    stop: Option<StopReason>,
    /// Consecutive items that failed without a connection.
    unreached: u32,
    started: u64,
    ended: u64,
    /// A connection failed, and nothing has been answered since.
    unreachable_logged: bool,
    counters: Counters,
    lately: Lately,
    resumes_at: Option<Time>,
}

impl<W: Work> Dispatcher<W> {
    pub(crate) fn new(work: W, limiter: Arc<Limiter>, options: Options) -> Self {
        Self {
            work,
            options,
            limiter,
            pending: Vec::new(),
            settling: None,
            taking: false,
            io: Vec::new(),
            settle_at: None,
            settle_error: None,
            last_failure: None,
            availability: Availability::default(),
            stop: None,
            unreached: 0,
            unreachable_logged: false,
            counters: Counters::default(),
            started: 0,
            ended: 0,
            lately: Lately::default(),
            resumes_at: None,
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// What limited the run in about the last second.
    pub(crate) fn limited_by(&mut self, now: Time) -> LimitedBy {
        let mut paused = self.availability.pauses.paused(now);
        let learned = paused.find_map(|quota| self.limiter.learned_limit(quota, now));
        self.lately.limited_by(learned, now)
    }

    pub(crate) fn stop_reason(&self) -> Option<&StopReason> {
        self.stop.as_ref()
    }

    /// Why outcomes cannot be written at the moment.
    pub(crate) fn settle_error(&self) -> Option<&Error> {
        self.settle_error.as_ref()
    }

    /// The latest failure that will be retried, unless something has succeeded since.
    pub(crate) fn last_failure(&self) -> Option<&Error> {
        self.last_failure.as_ref()
    }

    /// Why a provider is not called at the moment.
    pub(crate) fn not_called(&self) -> Option<&Error> {
        self.availability.reasons().next()
    }

    /// What is known of providers and models.
    pub(crate) fn availability(&self) -> &Availability {
        &self.availability
    }

    /// When the next call can start, if all items wait for a retry or a cooldown.
    pub(crate) fn resumes_at(&self) -> Option<Time> {
        self.resumes_at
    }

    /// Since when a server has been loading its model.
    pub(crate) fn loading_since(&self) -> Option<Time> {
        self.availability.loading_since()
    }

    /// Takes the requests to perform without the lock. Their outcomes return as events.
    pub(crate) fn take_io(&mut self) -> Vec<Io<W>> {
        std::mem::take(&mut self.io)
    }

    /// Changes the retry policy for later failures.
    pub(crate) fn set_retry(&mut self, retry: RetryPolicy) {
        self.options.retry = retry;
    }

    /// Records an event; [`turn`](Self::turn) acts on it.
    pub(crate) fn handle(&mut self, event: Event<W>, now: Time) {
        self.check_deadline(now);
        match event {
            Event::CallEnded(ended) => self.on_call_ended(ended, now),
            Event::Settled(end) => self.on_settled(end, now),
            Event::Taken(end) => {
                self.taking = false;
                end(&mut self.work);
            }
            Event::Released(n) => {
                self.counters.in_flight = self.counters.in_flight.saturating_sub(n);
            }
            Event::SetConcurrency(n) => self.options.concurrency = n,
            Event::Stop(reason) => self.stop_for(reason),
            Event::Woken => {}
        }
    }

    /// Settles ended items and returns the calls to start.
    pub(crate) fn turn(&mut self, now: Time, start: &mut Vec<Call<W::Task>>) -> Turn {
        self.check_deadline(now);
        self.delay_for_more(now);
        self.flush(now);
        self.availability.advance(now);
        let Started {
            wake,
            limit,
            exhausted,
        } = self.start_calls(now, start);
        if let Some(io) = self.work.take_io() {
            self.taking = true;
            self.io.push(Io::Take(io));
        }
        let over = self.stop.is_some() || exhausted;
        let under_way = self.settling.is_some() || self.taking;
        let settled = self.pending.is_empty() && !under_way;
        let finished = over && self.counters.in_flight == 0 && settled;
        // If nothing else limits the run, the last calls do, or the writing of their outcomes.
        let limit = limit.unwrap_or(match self.calls_in_flight() {
            0 => Limit::Disk,
            _ => Limit::Calls,
        });
        self.lately.account(limit, now);
        let waits = matches!(limit, Limit::Cooldown | Limit::Backoff);
        self.resumes_at = wake.filter(|_| waits);
        if finished {
            return Turn::Finished;
        }
        // The end of the write in flight decides the next step.
        let settle_at = self.settle_at.filter(|_| self.settling.is_none());
        Turn::Wait(earlier(wake, settle_at))
    }

    /// Number of calls in flight. Ended calls may occupy slots until their outcomes are written.
    fn calls_in_flight(&self) -> usize {
        usize::try_from(self.started - self.ended).unwrap_or(usize::MAX)
    }

    fn check_deadline(&mut self, now: Time) {
        if self.options.deadline.is_some_and(|at| at <= now) {
            self.stop_for(StopReason::DeadlineExceeded);
        }
    }

    /// Moves the item to step `live`, past steps that are not called any more.
    fn pass_steps(&self, ticket: &mut Ticket<W::Task>, live: u8) {
        while ticket.tries.step < live {
            let step = ticket.tries.step;
            let why = self.availability.why_passed_by(&ticket.class, step);
            ticket.tries.next_step(why);
        }
    }

    fn next_callable(&self, ticket: &Ticket<W::Task>) -> Option<u8> {
        self.availability
            .callable_step(&ticket.class, ticket.tries.step + 1)
    }

    fn stops_when_critical(&self) -> bool {
        self.options.on_error == ErrorPolicy::StopOnCriticalError
    }

    fn wait_until(&mut self, ticket: Ticket<W::Task>, at: Time, why: Option<Error>) {
        self.counters.in_flight -= 1;
        self.pending.push(Settled::Later(ticket, at, why));
    }

    /// Only the first reason counts; later ones are its consequences.
    fn stop_for(&mut self, reason: StopReason) {
        if self.stop.is_none() {
            self.stop = Some(reason);
        }
    }
}

fn earlier(a: Option<Time>, b: Option<Time>) -> Option<Time> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
#[path = "dispatch_tests.rs"]
mod tests;
