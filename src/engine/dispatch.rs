//! The dispatcher: a state machine that decides who starts, what an ending leads to, and when to
//! look again.
//!
//! It has no threads and no clock. Events go in with the time they happened; flights to start and
//! a time to come back go out. [`run`](super::run) turns it with real threads, the simulation
//! with thousands of seeded schedules.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::error::{Error, ErrorKind, Sent};
use crate::base::hints::RateHints;

use super::bottleneck::{Bottleneck, Bound, BoundsSoFar};
use super::class::StepId;
use super::counters::Counters;
use super::critical::Standing;
use super::first_replies::FirstReplies;
use super::jitter::Jitter;
use super::limiter::{Ended, Gate, LOADING_AGAIN, Limiter, Permit};
use super::loading::Loading;
use super::quota::QuotaId;
use super::refusals::{self, Patience, Refusals};
use super::route::{self, Next, RetryPolicy};
pub use super::stop::{ErrorPolicy, StopReason};
use super::trail::Trails;
use super::work::{Gates, Settled, Take, Ticket, Work};

/// A call to make, with what was reserved for it.
#[derive(Debug)]
pub(crate) struct Flight<T> {
    pub ticket: Ticket<T>,
    pub permit: Permit,
}

/// A call that ended.
pub(crate) struct Landed<T, D> {
    pub flight: Flight<T>,
    pub result: Result<D, Error>,
    /// Tokens used for input and output, if the reply told.
    pub used: Option<(u64, u64)>,
    pub hints: RateHints,
    /// The whole run must end: the task could not even be read.
    pub fatal: bool,
}

/// Something that happened.
#[expect(clippy::large_enum_variant, reason = "nearly every event is a landing")]
pub(crate) enum Event<T, D> {
    Landed(Landed<T, D>),
    /// The caller took this many outcomes of a work that defers their release.
    Released(usize),
    /// The number of permits changes while the run goes on.
    SetConcurrency(usize),
    Stop(StopReason),
    /// There may be something to take that was not there before.
    Woken,
}

/// What to do after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Come back at that time, or when something happens.
    Wait(Option<Time>),
    /// All is settled.
    Finished,
}

/// This many items given up without a connection mean that nothing gets through.
const UNREACHED: u32 = 5;
/// Items spend no attempt on refusals for their pace, up to so many seconds of waiting for one item:
/// one that is refused for ever while others are answered must not hold up the run for ever.
const MOST_WAITED: u16 = 1800;
/// A pause for longer is told of.
const LONG_PAUSE: Duration = Duration::from_secs(60);
/// A provider that refused everybody is asked again after this long, where the work can wait.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// The same for one that could not be reached.
const UNREACHED_FOR: Duration = Duration::from_secs(10);
/// A settling write that failed is tried again after this long.
const SETTLE_AGAIN: Duration = Duration::from_secs(1);
/// What ends within this time of each other is settled together where each settling is a transaction.
const GATHER: Duration = Duration::from_micros(300);

pub(crate) struct Options {
    pub concurrency: usize,
    pub retry: RetryPolicy,
    pub trails: Arc<Trails>,
    pub on_error: ErrorPolicy,
    pub deadline: Option<Time>,
    pub jitter: Jitter,
    /// The work outlives the run: what fails for its provider's sake goes back instead of failing,
    /// and the provider is asked again after a while.
    pub durable: bool,
    /// The work comes from many callers: who misspelt a model or asks for the wrong thing stops nobody
    /// else.
    pub of_many: bool,
}

pub(crate) struct Dispatcher<W: Work> {
    pub work: W,
    options: Options,
    limiter: Arc<Limiter>,
    pending: Vec<Settled<W::Task, W::Done>>,
    settle_at: Option<Time>,
    settle_error: Option<Error>,
    /// The latest failure that is tried again, until something succeeds.
    last_failure: Option<Error>,
    gates: Gates,
    standing: Standing,
    refusals: Refusals,
    first_replies: FirstReplies,
    stop: Option<StopReason>,
    /// Items given up in a row without one connection having come about.
    unreached: u32,
    loading: Loading,
    /// A provider could not be reached, and nothing has been answered since.
    away: bool,
    counters: Counters,
    bounds: BoundsSoFar,
}

impl<W: Work> Dispatcher<W> {
    pub(crate) fn new(work: W, limiter: Arc<Limiter>, options: Options) -> Self {
        Self {
            work,
            options,
            limiter,
            pending: Vec::new(),
            settle_at: None,
            settle_error: None,
            last_failure: None,
            gates: Gates::default(),
            standing: Standing::default(),
            refusals: Refusals::default(),
            first_replies: FirstReplies::default(),
            stop: None,
            unreached: 0,
            away: false,
            counters: Counters::default(),
            loading: Loading::default(),
            bounds: BoundsSoFar::default(),
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    pub(crate) fn bounds(&self) -> Bottleneck {
        self.bounds.times
    }

    pub(crate) fn stop_reason(&self) -> Option<&StopReason> {
        self.stop.as_ref()
    }

    /// Why outcomes cannot be settled at the moment.
    pub(crate) fn settle_error(&self) -> Option<&Error> {
        self.settle_error.as_ref()
    }

    /// The latest failure that is tried again, unless something has succeeded since.
    pub(crate) fn last_failure(&self) -> Option<&Error> {
        self.last_failure.as_ref()
    }

    /// Why a provider is not asked at the moment, if one is not.
    #[cfg(feature = "queue")]
    pub(crate) fn obituary(&self) -> Option<&Error> {
        self.gates.obituary()
    }

    /// Since when a server has been loading its model, if one is.
    pub(crate) fn loading_since(&self) -> Option<Time> {
        self.loading.since()
    }

    /// Takes over what could not be settled; only for a run that ends regardless.
    pub(crate) fn abandon(&mut self) -> Vec<Settled<W::Task, W::Done>> {
        let lost = std::mem::take(&mut self.pending);
        let held = lost.iter().filter(|s| holds_permit(s)).count();
        self.counters.in_flight = self.counters.in_flight.saturating_sub(held);
        self.settle_at = None;
        lost
    }

    /// Takes note of what happened; [`turn`](Self::turn) draws the conclusions.
    pub(crate) fn handle(&mut self, event: Event<W::Task, W::Done>, now: Time) {
        self.check_deadline(now);
        match event {
            Event::Landed(landed) => self.land(landed, now),
            Event::Released(n) => {
                self.counters.in_flight = self.counters.in_flight.saturating_sub(n);
            }
            Event::SetConcurrency(n) => self.options.concurrency = n,
            Event::Stop(reason) => self.stop_for(reason),
            Event::Woken => {}
        }
    }

    /// Settles what ended and names the flights to start.
    pub(crate) fn turn(&mut self, now: Time, start: &mut Vec<Flight<W::Task>>) -> Turn {
        self.check_deadline(now);
        self.gather(now);
        self.flush(now);
        self.gates.revive(now);
        self.gates.breakers.half_open(now);
        let mut wake = None;
        let mut bound = Bound::Nothing;
        let mut exhausted = false;
        while self.stop.is_none() {
            if !self.pending.is_empty() {
                bound = Bound::Output;
                break;
            }
            let free = self
                .options
                .concurrency
                .saturating_sub(self.counters.in_flight);
            if free == 0 {
                bound = Bound::Concurrency;
                break;
            }
            match self.work.take(free, &self.gates, now) {
                Err(error) => self.stop_for(StopReason::Fatal(error)),
                Ok(Take::Items(items)) => {
                    for ticket in items {
                        self.admit(ticket, now, start);
                    }
                    self.flush(now);
                }
                Ok(Take::Idle { until, source_open }) => {
                    let opening = self.gates.next_opening(now);
                    wake = earlier(until, opening);
                    exhausted = wake.is_none() && !source_open;
                    bound = if opening.is_some() {
                        Bound::RateLimit
                    } else if source_open {
                        Bound::Source
                    } else {
                        Bound::Backoff
                    };
                    break;
                }
                Ok(Take::Done) => {
                    exhausted = true;
                    break;
                }
            }
        }
        self.bounds.account(bound, now);
        let over = self.stop.is_some() || exhausted;
        if over && self.counters.in_flight == 0 && self.pending.is_empty() {
            return Turn::Finished;
        }
        Turn::Wait(earlier(wake, self.settle_at))
    }

    fn check_deadline(&mut self, now: Time) {
        if self.options.deadline.is_some_and(|at| at <= now) {
            self.stop_for(StopReason::DeadlineExceeded);
        }
    }

    fn admit(&mut self, mut ticket: Ticket<W::Task>, now: Time, start: &mut Vec<Flight<W::Task>>) {
        let step = ticket.tries.step;
        match self.gates.live_step(&ticket.class, step) {
            Some(live) => self.pass_by(&mut ticket, live),
            None => {
                let dead = self.gates.dead(&ticket.class, step);
                let kind = dead.map_or(ErrorKind::Cancelled, Error::kind);
                let why = dead.map_or_else(String::new, ToString::to_string);
                let error = Error::new(kind, format!("not sent: {why}"));
                self.counters.in_flight += 1;
                self.pending.push(Settled::Unsent(ticket, error));
                return;
            }
        }
        let quota = ticket.quota();
        if self.gates.is_closed(quota, now) {
            self.pending.push(Settled::Later(ticket, Time::ZERO, None));
            return;
        }
        let (input, cap) = (
            ticket.cost.input.into(),
            ticket.cost.output_cap.map(u64::from),
        );
        match self.limiter.try_acquire(quota, input, cap, now) {
            Gate::NotUntil(at) => {
                self.tell_of_pause(quota, at, now, &"another call was refused");
                self.gates.close(quota, at);
                self.pending.push(Settled::Later(ticket, Time::ZERO, None));
            }
            Gate::Go(permit) => {
                let tries = &mut ticket.tries;
                if tries.in_doubt {
                    tries.in_doubt = false;
                    self.counters.possibly_paid_twice += 1;
                }
                *self.counters.of_kind(tries) += 1;
                tries.first.begin(now);
                self.counters.first_start.get_or_insert(now);
                self.counters.calls += 1;
                self.counters.in_flight += 1;
                let step = ticket.class.at(ticket.tries.step);
                self.gates.breakers.begin_call(step);
                self.refusals.called(step, quota, now);
                start.push(Flight { ticket, permit });
                // What durable work takes in vain has to be written back.
                if self.options.durable
                    && let Some(at) = self.limiter.closed_until(quota, now)
                {
                    self.gates.close(quota, at);
                }
            }
        }
    }

    fn land(&mut self, landed: Landed<W::Task, W::Done>, now: Time) {
        let Landed {
            flight: Flight { mut ticket, permit },
            mut result,
            used,
            hints,
            fatal,
        } = landed;
        let retry = self.options.retry;
        let hints = retry.obeyed(hints);
        self.counters.last_end = Some(now);
        let step = ticket.class.at(ticket.tries.step);
        let elsewhere = self.next_live(&ticket).is_some();
        self.note_reached(step, &result, elsewhere, now);
        let mut ended = match &result {
            Ok(_) => Ended::Replied(used),
            Err(e) if e.kind() == ErrorKind::RateLimited => {
                self.counters.rate_limited += 1;
                // What is absurd is no reason for a pause, of this run or of others.
                let wait = e.retry_after().filter(|_| !retry.asks_too_much(e));
                Ended::RateLimited(wait)
            }
            Err(e) if e.is_not_ready() => Ended::NotReady(e.retry_after().map(|_| retry.asked(e))),
            // Any complete reply shows that the quota answers, whatever it said.
            Err(e) if e.status().is_some() || e.sent() == Sent::Answered => Ended::Replied(used),
            Err(_) if used.is_some() => Ended::Replied(used),
            // Where another provider can be asked, the breaker decides how long nobody waits for it.
            Err(e) if e.is_unreachable() && !elsewhere => Ended::Unreachable,
            Err(_) => Ended::Failed,
        };
        let waits = self.loading.note(ticket.quota(), &ended, now);
        if !waits && matches!(ended, Ended::NotReady(_)) {
            // It was waited for long enough: now it fails as fast as it answers.
            ended = Ended::Replied(None);
            result = result.map_err(Error::with_unreachable);
        }
        // The end of a call may have opened its quota, or closed it.
        let until = self.limiter.settle(permit, ended, &hints, now);
        if (self.gates.dead(&ticket.class, ticket.tries.step)).is_none() {
            self.gates
                .close(ticket.quota(), until.unwrap_or(Time::ZERO));
        }
        if let (Err(error), Some(until)) = (&result, until) {
            self.tell_of_pause(ticket.quota(), until, now, error);
        }
        if !result.as_ref().is_err_and(Error::is_unreachable) {
            self.unreached = 0;
        }
        let error = match result {
            Ok(done) => {
                self.last_failure = None;
                if std::mem::take(&mut self.away) {
                    log::warn!("the provider answers again");
                }
                self.standing.answered(step);
                self.refusals.answered(step, ticket.quota());
                self.first_replies.answered(step);
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
            self.refused_unready(ticket, error, until.unwrap_or(now.after(LOADING_AGAIN)));
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
        if error.kind() == ErrorKind::RateLimited {
            self.refused(ticket, error, elsewhere, now);
            return;
        }
        self.note_first_reply(step, &error, elsewhere);
        let lost = self.standing.is_lost(step, &error);
        let lost = lost && !(self.options.of_many && error.kind() == ErrorKind::UnknownModel);
        if lost {
            self.bury(&ticket, &error, now);
        }
        self.follow(ticket, error, lost, now);
    }

    /// Moves on to a step past others that are not called any more.
    fn pass_by(&self, ticket: &mut Ticket<W::Task>, live: u8) {
        while ticket.tries.step < live {
            let step = ticket.tries.step;
            if let Some(error) = self.gates.why_not(&ticket.class, step) {
                let tries = &mut ticket.tries;
                tries.trail = self.options.trails.add(tries.trail, step, error);
            }
            ticket.tries.next_step();
        }
    }

    fn next_live(&self, ticket: &Ticket<W::Task>) -> Option<u8> {
        self.gates.live_step(&ticket.class, ticket.tries.step + 1)
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
    fn note_reached(
        &mut self,
        step: StepId,
        result: &Result<W::Done, Error>,
        elsewhere: bool,
        now: Time,
    ) {
        if !self.gates.breakers.note(step, result, elsewhere, now) {
            return;
        }
        match result {
            Ok(_) => log::warn!("the provider answers again, and is asked again"),
            Err(error) if self.gates.breakers.open_reason(step).is_none() => {
                log::warn!("the provider can be reached again, and is asked again: {error}");
            }
            Err(error) => {
                // Whoever waits for its quota has another way now.
                self.gates.let_pass();
                log::warn!(
                    "{error}; items go on to the next provider, and one call now and then finds out \
                     whether this one is back"
                );
            }
        }
    }

    /// A refusal for its pace is no fault of the item, and no attempt as long as others are answered.
    fn refused(&mut self, mut ticket: Ticket<W::Task>, error: Error, elsewhere: bool, now: Time) {
        let step = ticket.class.at(ticket.tries.step);
        let patience = self.refusals.refused(step, ticket.quota(), now);
        let error = if self.options.retry.asks_too_much(&error) {
            let asked = error.retry_after().unwrap_or_default();
            error.context(format!("it asks to wait for {}", refusals::long(asked)))
        } else if patience == Patience::Over {
            error.context("refused for ten minutes, and not one call was answered")
        } else {
            let waits = match patience {
                Patience::Lively => true,
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
                self.later(ticket, at, Some(error));
            } else {
                self.follow(ticket, error, false, now);
            }
            return;
        };
        // Other models of the provider may fare better.
        self.bury(&ticket, &error.clone().with_model_only(), now);
        self.follow(ticket, error, true, now);
    }

    fn stops_when_critical(&self) -> bool {
        self.options.on_error == ErrorPolicy::StopOnCriticalError
    }

    /// Says once why nothing of a quota is called for a long time.
    fn tell_of_pause(&mut self, quota: QuotaId, until: Time, now: Time, why: &dyn Display) {
        let wait = until.since(now);
        if wait > LONG_PAUSE && self.refusals.is_news(quota, until) {
            log::warn!(
                "{why}; the provider asked to wait for {}: nothing is sent to it before {}",
                refusals::long(wait),
                refusals::time_of_day(wait),
            );
        }
    }

    /// Not an attempt: the model saw nothing of it.
    fn refused_unready(&mut self, ticket: Ticket<W::Task>, error: Error, until: Time) {
        self.counters.calls -= 1;
        *self.counters.of_kind(&ticket.tries) -= 1;
        self.last_failure = Some(error);
        self.later(ticket, until, None);
    }

    /// Carries out the route's decision about a failure.
    fn follow(&mut self, mut ticket: Ticket<W::Task>, error: Error, lost: bool, now: Time) {
        let next_live = self.next_live(&ticket);
        let members = self.work.members(&ticket.task);
        let jitter = self.options.jitter.next();
        let mut next = route::decide(
            &self.options.retry,
            next_live.is_some(),
            &ticket.tries,
            &error,
            now,
            // What outlives the run may wait longer than the run does.
            self.options.deadline.filter(|_| !self.options.durable),
            jitter,
        );
        if lost || self.is_unreached(&ticket, &error) {
            next = match next_live {
                Some(_) => Next::FallBack,
                None => next,
            };
        }
        if lost && next_live.is_none() {
            next = Next::GiveUp;
        }
        let divides = members > 1 && route::may_divide(&error);
        // The same call would buy the same reply; a part of it may be answered.
        let in_parts = divides && error.kind() == ErrorKind::Malformed;
        match (next, next_live) {
            (Next::RetryAt(at), _) if !in_parts => {
                let wait = at.since(now).as_secs_f64();
                log::info!("{}, again in {wait:.1} s: {error}", error.kind());
                self.last_failure = Some(error.clone());
                self.later(ticket, at, Some(error));
            }
            _ if divides => {
                log::info!(
                    "{}, {members} that shared a call go on in parts: {error}",
                    error.kind()
                );
                ticket.tries.divide(members);
                let at = route::parts_at(&self.options.retry, &error, now);
                self.later(ticket, at, Some(error));
            }
            (Next::FallBack, Some(step)) => {
                log::info!("{}, on to the next provider: {error}", error.kind());
                let tries = &mut ticket.tries;
                tries.trail = self.options.trails.add(tries.trail, tries.step, &error);
                tries.next_step();
                self.pass_by(&mut ticket, step);
                self.later(ticket, now, Some(error));
            }
            _ => {
                match self.options.on_error {
                    ErrorPolicy::StopOnError => {
                        self.stop_for(StopReason::ItemFailed(error.clone()));
                    }
                    ErrorPolicy::StopOnCriticalError if lost => {
                        self.stop_for(StopReason::Critical(error.clone()));
                    }
                    ErrorPolicy::StopOnCriticalError => self.note_unreached(&error),
                    _ => {}
                }
                let unreachable = error.is_unreachable();
                if self.options.durable && unreachable && !lost {
                    if !std::mem::replace(&mut self.away, true) {
                        log::warn!("{error}; its jobs wait, and it is asked again and again");
                    }
                    let step = ticket.tries.step;
                    let until = now.after(UNREACHED_FOR);
                    self.gates.bury_step(&ticket.class, step, &error, until);
                }
                self.pending
                    .push(match self.options.durable && (lost || unreachable) {
                        true => Settled::Unsent(ticket, error),
                        false => Settled::Final(ticket, Err(error)),
                    });
            }
        }
    }

    /// It could not reach its provider, like others before it.
    fn is_unreached(&self, ticket: &Ticket<W::Task>, error: &Error) -> bool {
        let step = ticket.class.at(ticket.tries.step);
        let open = self.gates.breakers.open_reason(step).is_some();
        open && error.kind() == ErrorKind::Transient && error.status().is_none()
    }

    fn note_unreached(&mut self, error: &Error) {
        if error.is_unreachable() {
            self.unreached += 1;
            if self.unreached >= UNREACHED {
                self.stop_for(StopReason::Unreachable(error.clone()));
            }
        }
    }

    fn later(&mut self, ticket: Ticket<W::Task>, at: Time, why: Option<Error>) {
        self.counters.in_flight -= 1;
        self.pending.push(Settled::Later(ticket, at, why));
    }

    /// A provider that failed critically is not called again, nor a model it does not know.
    fn bury(&mut self, ticket: &Ticket<W::Task>, error: &Error, now: Time) {
        let (class, step) = (&ticket.class, ticket.tries.step);
        let news = self.gates.dead(class, step).is_none();
        let until = match self.options.durable {
            true => now.after(REFUSED_FOR),
            false => Time::FAR,
        };
        if error.is_model_only() && (ticket.quota() != QuotaId::NONE || !is_pace(error)) {
            self.gates.bury_quota(ticket.quota(), error, until);
        } else if self.gates.bury_step(class, step, error, until) && !self.options.durable {
            self.stop_for(StopReason::Critical(error.clone()));
        }
        // What has no quota cannot be told apart from the rest, and goes on.
        let buried = self.gates.dead(class, step).is_some();
        if news && buried && self.options.durable {
            let wait = REFUSED_FOR.as_secs();
            log::warn!("not asked again for {wait} s: {error}");
        } else if news && buried && self.gates.live_step(class, 0).is_some() {
            log::warn!("not asked again in this run: {error}");
        }
    }

    /// The first reason stays: what comes after it is its echo.
    fn stop_for(&mut self, reason: StopReason) {
        if self.stop.is_none() {
            self.stop = Some(reason);
        }
    }

    /// Waits a moment for more ends while calls are out that may bring them.
    fn gather(&mut self, now: Time) {
        if !self.options.durable || self.settle_error.is_some() || self.pending.is_empty() {
            return;
        }
        if self.pending.len() >= self.counters.in_flight {
            self.settle_at = None;
        } else if self.settle_at.is_none() {
            self.settle_at = Some(now.after(GATHER));
        }
    }

    fn flush(&mut self, now: Time) {
        if self.pending.is_empty() {
            return;
        }
        if self.settle_at.is_some_and(|at| at > now)
            && self.pending.iter().all(|s| matches!(s, Settled::Final(..)))
        {
            return;
        }
        let held = |pending: &[_]| pending.iter().filter(|s| holds_permit(s)).count();
        let before = held(&self.pending);
        let result = self.work.settle(&mut self.pending, now);
        if !self.work.defers_release() {
            self.counters.in_flight -= before - held(&self.pending);
        }
        match result {
            Ok(()) => {
                self.settle_at = None;
                self.settle_error = None;
            }
            Err(error) => {
                self.settle_at = Some(now.after(SETTLE_AGAIN));
                self.settle_error = Some(error);
            }
        }
        if self.pending.is_empty() {
            self.settle_at = None;
        }
    }
}

fn is_pace(error: &Error) -> bool {
    error.kind() == ErrorKind::RateLimited
}

fn holds_permit<T, D>(settled: &Settled<T, D>) -> bool {
    !matches!(settled, Settled::Later(..))
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
