//! The dispatcher: a state machine that decides which calls start, what the end of a call causes, and when to check
//! again.
//!
//! It has no threads and no clock. Its inputs are events with their times; its outputs are calls to start and the
//! time of the next turn. [`run`](super::run) drives it with real threads, the simulation with thousands of seeded
//! schedules.

use std::sync::Arc;

use crate::base::{Error, RateHints, Time};

use super::availability::Availability;
use super::limited_by::{Lately, Limit};
use super::limiter::{Limiter, Permit};
use super::route::{RetryPolicy, Tries};
use super::work::{SettleEnd, SettleIo, Settled, TakeEnd, TakeIo, Ticket, Work};
use crate::base::random::Random;

mod call_ended;
mod failure;
mod settle;
mod start;
mod unclear;

use start::Started;
use unclear::Undecided;

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
    /// Items whose end is unclear; they hold no permit.
    undecided: Vec<Undecided<W::Task>>,
    /// Items of durable work went back because nothing gets through to the last provider that they have.
    lost_way: bool,
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
    /// What is known of providers and models.
    pub availability: Availability,
    stop: Option<StopReason>,
    /// Consecutive items that failed without a connection.
    unreached: u32,
    started: u64,
    pub ended: u64,
    /// A connection failed, and nothing has been answered since.
    unreachable_logged: bool,
    pub counters: Counters,
    /// What limited the run in about the last second.
    pub lately: Lately,
    /// When the next call can start, if all items wait for a retry or a cooldown.
    pub resumes_at: Option<Time>,
}

impl<W: Work> Dispatcher<W> {
    pub(crate) fn new(work: W, limiter: Arc<Limiter>, options: Options) -> Self {
        Self {
            work,
            options,
            limiter,
            pending: Vec::new(),
            undecided: Vec::new(),
            lost_way: false,
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
        self.end_decided(now);
        self.delay_for_more(now);
        self.flush(now);
        self.availability.advance(now);
        let Started {
            wake,
            limit,
            exhausted,
        } = self.start_calls(now, start);
        if self.stop.is_some() {
            self.end_decided(now);
        }
        self.claims();
        let over = self.stop.is_some() || exhausted;
        let under_way = self.settling.is_some() || self.taking;
        let settled = self.pending.is_empty() && self.undecided.is_empty() && !under_way;
        let finished = over && self.counters.in_flight == 0 && settled;
        // If nothing else limits the run, the last calls do, or the writing of their outcomes.
        let limit = limit.unwrap_or(match self.calls_in_flight() {
            0 if !self.undecided.is_empty() => Limit::Backoff,
            0 => Limit::Disk,
            _ => Limit::Provider,
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
    pub(crate) fn calls_in_flight(&self) -> usize {
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

/// Counters that the dispatcher keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Calls, without those that were rejected because the model was still loading.
    pub calls: u64,
    pub firsts: u64,
    pub retries: u64,
    pub moved_on: u64,
    pub divided: u64,
    pub rate_limited: u64,
    pub possibly_paid_twice: u64,
    /// Calls that were aborted and whose outcome is unknown.
    pub cut_off: u64,
    pub in_flight: usize,
    pub most_in_flight: usize,
    pub first_start: Option<Time>,
    pub last_end: Option<Time>,
}

impl Counters {
    /// The counter of a call, by its cause.
    pub(super) fn of_kind(&mut self, tries: &Tries) -> &mut u64 {
        match tries {
            Tries { calls: 0, .. } => &mut self.firsts,
            Tries { part: true, .. } => &mut self.divided,
            Tries { moved: true, .. } => &mut self.moved_on,
            _ => &mut self.retries,
        }
    }

    /// Counts a call no longer.
    fn forget(&mut self, tries: &Tries) {
        self.calls -= 1;
        *self.of_kind(tries) -= 1;
    }
}

/// What the failure of an item means for the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ErrorPolicy {
    /// Continue with the others. The library's default. A provider that rejected the API key or has no credit is
    /// still not called again: items that have no other provider stay unsent.
    #[default]
    ContinueOnError,
    /// Stop at the first item that failed permanently.
    StopOnError,
    /// Stop if all further calls would fail in the same way: a rejected API key, an account without credit, an
    /// unknown model, a provider that has rate-limited all calls for ten minutes, or whose first ten replies are
    /// unusable in the same way. If other calls are answered, a rejected API key or an account without credit
    /// concerns one item, until five in a row fail so. The default of `batchwright run`.
    ///
    /// Under any policy, a run stops when no provider is left that can be called: see [`StopReason::Unreachable`].
    StopOnCriticalError,
}

/// Why a run ended before its work did.
#[derive(Debug, Clone, derive_more::From)]
#[non_exhaustive]
pub enum StopReason {
    /// The context was cancelled.
    Cancelled,
    /// The context's deadline passed.
    DeadlineExceeded,
    /// An item failed under [`ErrorPolicy::StopOnError`].
    ItemFailed(Error),
    /// No provider of the route can be called any more; or under [`ErrorPolicy::StopOnCriticalError`] a critical
    /// error, a permanent rate limit, or a `Retry-After` that is too long.
    Critical(Error),
    /// The last callable provider was unavailable for ten minutes, or no server was ever reached at its address.
    /// Under [`ErrorPolicy::StopOnCriticalError`] also: the server accepts no prompts, or its model never loaded.
    Unreachable(Error),
    /// Under [`ErrorPolicy::StopOnCriticalError`], if nothing was answered: the first ten replies of a provider were
    /// billed and are unusable, or the first ten requests were rejected in the same way by an error of unknown
    /// meaning.
    AllAlike(Error),
    /// The next call could cost more than is left of the [`Budget`](crate::Budget), or its cost has no upper bound.
    BudgetExceeded(Error),
    /// The consumer of the results takes no more.
    SinkClosed,
    /// The source or the output cannot be used any more.
    #[from]
    Fatal(Error),
    /// Another program removed, replaced, truncated or wrote to the output. The message says where the results of
    /// this run are.
    OutputLost(Error),
    /// The options contradict each other, or one is invalid, such as a concurrency of 0.
    Misuse(String),
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cancelled => f.write_str("cancelled"),
            Self::DeadlineExceeded => f.write_str("the deadline passed"),
            Self::ItemFailed(e) => write!(f, "an item failed: {e}"),
            Self::Critical(e)
                if e.verdict().is_unclear() && matches!(e.status(), Some(404 | 405)) =>
            {
                write!(f, "the address is not that of the provider's API: {e}")
            }
            Self::Critical(e)
            | Self::Fatal(e)
            | Self::AllAlike(e)
            | Self::BudgetExceeded(e)
            | Self::OutputLost(e) => {
                write!(f, "{e}")
            }
            Self::Unreachable(e) if e.is_not_ready() => write!(f, "{e} after ten minutes"),
            Self::Unreachable(e) if e.is_unreachable() => {
                write!(f, "the provider cannot be reached: {e}")
            }
            Self::Unreachable(e) => write!(f, "the provider is unavailable: {e}"),
            Self::SinkClosed => f.write_str("the reader of the results went away"),
            Self::Misuse(why) => f.write_str(why),
        }
    }
}

fn earlier(a: Option<Time>, b: Option<Time>) -> Option<Time> {
    a.into_iter().chain(b).min()
}

#[cfg(test)]
#[path = "dispatch_tests.rs"]
mod tests;
