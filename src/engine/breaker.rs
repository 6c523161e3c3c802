//! Circuit breakers: a provider that fails everything is unavailable, and is left alone for a while.
//!
//! Failures in a row of a step of a route *trip* its breaker. While it is *open*, items go on to the
//! next step at once, without the retries they had left. After a while it is *half open*: one call
//! probes the step, and the others still go on. An answer closes the breaker; a failure opens it for
//! twice as long.
//!
//! Items that have no other step to go to wait until it closes. Pauses are shorter then, and it takes less
//! time to trip, since nothing is diverted; but five items must have failed, since the last items of a run may
//! be the cause of their own failures. Only connections that did not come about, lost connections and replies
//! such as 503 count. Patience ends after [`LONGEST_OUTAGE`], or [`NEVER_REACHED`] where no server has ever
//! been reached.
//!
//! What trips it where there is another step, with no answer in between:
//!
//! - five connections in a row that did not come about;
//! - three calls in a row that ran into their time-out, or two where the step has never answered;
//! - five failures of any sort in a row (5xx, replies that broke off), and no fewer than there are
//!   calls out that may still be answered: errors are fast, answers slow. Once the step has answered,
//!   also five seconds of nothing but failures, so that a bad moment of a good provider diverts nothing.
//!
//! Refusals for their pace and servers that load their model are waits. A wrong request, a refused or
//! blocked answer says nothing of the provider. The retries of one item are not enough: at least two of
//! the failures are first calls of theirs. Where several share a call (embeddings), a failure that one
//! of them may have brought about says nothing either.
//!
//! *In doubt* is a step when a call has run into its time-out and nothing was answered during all of
//! it. Until something is, calls that may go elsewhere are given [`Patience`]: three quarters of that
//! time, and never less than twice the longest the step has taken to answer. Who is given up
//! on goes to the next step, and counts as having run into its time-out. No call starts beside those
//! that are out: the next one finds out. Calls that probe have their whole time.

use std::time::Duration;

use crate::base::clock::Time;
use crate::base::error::{Error, ErrorKind, Sent};

use super::class::StepId;
use super::cool_downs::CoolDowns;
use super::quota::QuotaId;

#[cfg(feature = "redis")]
mod shared;
#[cfg(feature = "redis")]
pub(super) use shared::{Heard, Opened};

/// This many connections in a row that did not come about trip a breaker,
const UNREACHED: u32 = 5;
/// so many calls in a row that no reply came to in time: each may have held a slot for minutes,
const HUNG: u32 = 3;
/// or so many where the step has never answered,
const HUNG_FROM_THE_START: u32 = 2;
/// and so many failures of any sort,
const FAILED: u32 = 5;
/// with so many items among them
const ITEMS: u32 = 2;
/// and, where the step has answered before, nothing but failures for so long.
const NOTHING_BUT_FAILURES: Duration = Duration::from_secs(5);
/// While a call probes a step, this is how soon to look again; its end is heard of at once.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A step that nothing has probed for so long is not waited for.
const UNPROBED: Duration = Duration::from_secs(60);
/// How long a breaker is open, at first and at most.
pub(super) const FIRST_OPEN: Duration = Duration::from_secs(5);
const LONGEST_OPEN: Duration = Duration::from_secs(60);
/// The same numbers where items can only wait.
const WAITING_UNREACHED: u32 = 3;
const WAITING_ITEMS: u32 = 5;
const WAITING_QUIET: Duration = Duration::from_secs(1);
/// So many failures in a row need not have taken that long.
const WAITING_FAILED: u32 = 20;
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(8);
/// Items wait no longer for a provider that fails everything,
const LONGEST_OUTAGE: Duration = Duration::from_secs(600);
/// or, where no server was ever reached at its address, for so long: one that is just being started is up by then.
const NEVER_REACHED: Duration = Duration::from_secs(8);

/// The breakers of the steps that were called.
#[derive(Debug, Default, Clone)]
pub(super) struct Breakers(Vec<Breaker>);

#[derive(Debug, Clone)]
struct Breaker {
    step: StepId,
    #[cfg(feature = "redis")]
    quota: QuotaId,
    /// Another machine opened this breaker.
    #[cfg(feature = "redis")]
    heard: bool,
    state: State,
    /// When it opened, while it is not closed.
    open_since: Option<Time>,
    /// When it was open.
    times: CoolDowns,
    /// When the first call began.
    first_call: Time,
    /// A server was there, whatever it said.
    reached: bool,
    /// The longest it has taken to answer, if it ever has.
    slowest: Option<Duration>,
    last_answer: Option<Time>,
    since_answer: Failures,
}

/// Failures since the last answer.
#[derive(Debug, Default, Clone)]
struct Failures {
    /// In a row that did not reach it, and that hung.
    unreached: u32,
    hung: u32,
    /// Of any sort, and those of them that were the first calls of their items.
    all: u32,
    firsts: u32,
    began: Option<Time>,
    /// How long a call took to run into its time-out; it is in doubt.
    doubt: Option<Duration>,
}

#[derive(Debug, Clone)]
enum State {
    Closed,
    Open {
        until: Time,
        why: Error,
        wait: Duration,
    },
    HalfOpen {
        since: Time,
        probing: bool,
        why: Error,
        wait: Duration,
    },
}

/// What the end of a call says of its provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// The model answered, to whatever end.
    Answered,
    /// A reply came that says nothing of other items.
    Reached,
    /// A failure that others may share.
    Failed,
    /// No connection came about.
    Unreached,
    /// No reply came in time.
    Hung,
    /// It was ended by us, or never sent.
    Unknown,
}

impl Sign {
    fn of<T>(result: &Result<T, Error>) -> Self {
        result.as_ref().err().map_or(Self::Answered, Self::of_error)
    }

    fn of_error(error: &Error) -> Self {
        let replied = error.status().is_some() || error.sent() == Sent::Answered;
        match error.kind() {
            ErrorKind::Blocked => Self::Answered,
            _ if error.is_misfit() => Self::Answered,
            _ if error.is_not_ready() || error.is_unusable_reply() => Self::Reached,
            _ if error.is_unreachable() && !replied => Self::Unreached,
            ErrorKind::Transient if error.timed_out() => Self::Hung,
            ErrorKind::Transient | ErrorKind::Malformed => Self::Failed,
            _ if error.is_unreachable() => Self::Failed,
            _ if replied => Self::Reached,
            _ => Self::Unknown,
        }
    }

    fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Unreached | Self::Hung)
    }
}

/// What items can do while a provider is unavailable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detour {
    /// Another step can be called.
    NextStep,
    /// They wait for it.
    Wait,
    /// They cannot be told apart from those of others, and go on.
    None,
}

/// Whether other items may meet the same failure, so that it counts towards tripping a breaker.
pub(super) fn may_be_shared(error: &Error) -> bool {
    Sign::of_error(error).is_failure()
}

/// A call that ended, as its breaker sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub step: StepId,
    pub quota: QuotaId,
    pub began: Time,
    /// The item was never called at this step before.
    pub first: bool,
    /// One of several items that share the call may have brought a failed reply upon all of them.
    pub of_one: bool,
    pub detour: Detour,
    /// Other calls to the step that may still be answered.
    pub out: usize,
}

/// How long calls to a step in doubt are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience {
    /// [`Duration::MAX`] where they have their whole time.
    pub lasts: Duration,
    /// How long the call was waited for that no reply came to.
    pub hung: Duration,
}

impl Breakers {
    /// Takes note of how a call ended. True when the step's state changed between closed and open.
    pub(super) fn note<T>(&mut self, call: Ended, result: &Result<T, Error>, now: Time) -> bool {
        let step = call.step;
        let at = self.0.iter().position(|breaker| breaker.step == step);
        let at = at.unwrap_or_else(|| {
            self.0.push(Breaker {
                step,
                #[cfg(feature = "redis")]
                quota: call.quota,
                #[cfg(feature = "redis")]
                heard: false,
                state: State::Closed,
                open_since: None,
                times: CoolDowns::default(),
                first_call: call.began,
                reached: false,
                slowest: None,
                last_answer: None,
                since_answer: Failures::default(),
            });
            self.0.len() - 1
        });
        let breaker = &mut self.0[at];
        let sign = Sign::of(result);
        breaker.reached |= !matches!(sign, Sign::Unreached | Sign::Unknown);
        let error = match (sign, result) {
            (Sign::Answered, _) => {
                breaker.last_answer = Some(now);
                breaker.slowest = breaker.slowest.max(Some(now.since(call.began)));
                return breaker.close(true);
            }
            (Sign::Reached, _) => return breaker.close(false),
            (Sign::Failed, _) if call.of_one => return breaker.close(false),
            (_, Err(error)) => error,
            (_, Ok(_)) => return false,
        };
        if sign.is_failure() {
            breaker.count(sign, call, now);
        }
        let probing = matches!(breaker.state, State::HalfOpen { probing: true, .. });
        if probing && sign == Sign::Hung && call.detour == Detour::Wait {
            // A slow provider is not waited for.
            return breaker.close(false);
        }
        match &breaker.state {
            State::Closed if breaker.trips(call, error, now) => {
                breaker.open(error, Duration::ZERO, call.detour, now);
                true
            }
            State::HalfOpen {
                probing: true,
                wait,
                ..
            } => {
                let wait = *wait;
                breaker.open(error, wait, call.detour, now);
                false
            }
            _ => false,
        }
    }

    /// Whether a step has answered lately: a failure among answers is one of its own.
    pub(super) fn answers(&self, step: StepId, now: Time) -> bool {
        let known = self.0.iter().find(|breaker| breaker.step == step);
        known.is_some_and(|breaker| {
            let lately = NOTHING_BUT_FAILURES.max(breaker.slowest.unwrap_or_default() * 2);
            let last = breaker.last_answer;
            last.is_some_and(|last| now.since(last) <= lately)
        })
    }

    /// Breakers that were open for long enough let one call through.
    pub(super) fn half_open(&mut self, now: Time) {
        for breaker in &mut self.0 {
            if let State::Open { until, why, wait } = &breaker.state
                && *until <= now
            {
                breaker.state = State::HalfOpen {
                    since: now,
                    probing: false,
                    why: why.clone(),
                    wait: *wait,
                };
            }
        }
    }

    /// A call to the step starts. True if its breaker is half open: this one probes.
    pub(super) fn begin_call(&mut self, step: StepId) -> bool {
        let breaker = self.0.iter_mut().find(|breaker| breaker.step == step);
        match breaker.map(|breaker| &mut breaker.state) {
            Some(State::HalfOpen { probing, .. }) => {
                *probing = true;
                true
            }
            _ => false,
        }
    }

    /// Why the step is not called now, if another can be.
    pub(super) fn open_reason(&self, step: StepId) -> Option<&Error> {
        match &self.of(step)?.state {
            State::Open { why, .. }
            | State::HalfOpen {
                probing: true, why, ..
            } => Some(why),
            _ => None,
        }
    }

    /// Until when no call starts at the step, for items that have no other: its breaker is open, or one call probes it
    /// and says what follows.
    pub(super) fn closed_until(&self, step: StepId, now: Time) -> Option<Time> {
        match &self.of(step)?.state {
            State::Open { until, .. } => Some(*until),
            State::HalfOpen { probing: true, .. } => Some(now.after(LOOK_AGAIN)),
            _ => None,
        }
    }

    /// How much of this time the breaker of a step was open.
    pub(super) fn open_between(&self, step: StepId, from: Time, to: Time) -> Duration {
        let breaker = self.of(step);
        breaker.map_or(Duration::ZERO, |breaker| breaker.times.between(from, to))
    }

    /// True when no step that was called can be.
    pub(super) fn all_open(&self) -> bool {
        let is_open = |breaker: &Breaker| !matches!(breaker.state, State::Closed);
        !self.0.is_empty() && self.0.iter().all(is_open)
    }

    /// True when one call may probe the step of some breaker. One that nothing has probed for long is not on the way
    /// of any item.
    pub(super) fn any_half_open(&self, now: Time) -> bool {
        self.0.iter().any(|breaker| match breaker.state {
            State::HalfOpen { since, probing, .. } => !probing && now.since(since) <= UNPROBED,
            _ => false,
        })
    }

    /// Why items that can only wait for the step wait no longer after this failure, if they do not. `out`: other
    /// calls to it that may still be answered.
    pub(super) fn patience_over(
        &self,
        step: StepId,
        error: &Error,
        out: usize,
        now: Time,
    ) -> Option<Error> {
        let breaker = self.of(step)?;
        // These may be connected: one that waits for its reply has shown nothing yet.
        let undecided = !breaker.reached && out > 0;
        if undecided || breaker.patience_ends() > now {
            return None;
        }
        Some(if breaker.reached {
            error
                .clone()
                .context("no call was answered for ten minutes")
        } else {
            let hint = "no server has been reached there: check the address and its port, and whether the server runs";
            error
                .clone()
                .reworded(format!("{}; {hint}", error.message()))
        })
    }

    /// How long calls to the step are waited for, if it is in doubt.
    pub(super) fn patience(&self, step: StepId) -> Option<Patience> {
        let breaker = self.of(step)?;
        let hung = breaker.since_answer.doubt?;
        let usual = breaker.slowest.unwrap_or_default() * 2;
        let lasts = (hung / 4 * 3).max(usual);
        let lasts = if lasts < hung { lasts } else { Duration::MAX };
        Some(Patience { lasts, hung })
    }

    pub(super) fn any_in_doubt(&self) -> bool {
        self.0.iter().any(|b| b.since_answer.doubt.is_some())
    }

    fn of(&self, step: StepId) -> Option<&Breaker> {
        self.0.iter().find(|breaker| breaker.step == step)
    }
}

impl Breaker {
    fn count(&mut self, sign: Sign, call: Ended, now: Time) {
        let failures = &mut self.since_answer;
        failures.all += 1;
        failures.firsts += u32::from(call.first);
        failures.began.get_or_insert(now);
        match sign {
            Sign::Unreached => failures.unreached += 1,
            Sign::Hung => failures.hung += 1,
            _ => (failures.unreached, failures.hung) = (0, 0),
        }
        let nothing_since = self.last_answer.is_none_or(|last| last <= call.began);
        if sign == Sign::Hung && (nothing_since || failures.hung >= HUNG) {
            failures.doubt = failures.doubt.max(Some(now.since(call.began)));
        }
    }

    fn trips(&self, call: Ended, error: &Error, now: Time) -> bool {
        let failures = &self.since_answer;
        let (unreached, items, quiet, hung) = match call.detour {
            Detour::NextStep => (UNREACHED, ITEMS, NOTHING_BUT_FAILURES, HUNG),
            // Waiting makes a slow provider no faster, and an item that waits for a reply that breaks off
            // would buy it again and again.
            Detour::Wait if error.timed_out() || error.kind() != ErrorKind::Transient => {
                return false;
            }
            Detour::Wait => (WAITING_UNREACHED, WAITING_ITEMS, WAITING_QUIET, u32::MAX),
            Detour::None => return false,
        };
        let (quiet, hung) = match self.last_answer {
            None => (
                Duration::ZERO,
                if hung == HUNG {
                    HUNG_FROM_THE_START
                } else {
                    hung
                },
            ),
            Some(_) => (quiet, hung),
        };
        let lasted = failures.began.map_or(Duration::ZERO, |at| now.since(at));
        let many = call.detour == Detour::Wait && failures.all >= WAITING_FAILED;
        let fails_all = failures.all >= FAILED
            && failures.all as usize >= call.out
            && failures.firsts >= items
            && (lasted >= quiet || many);
        failures.unreached >= unreached || failures.hung >= hung || fails_all
    }

    /// When items that can only wait for it give up.
    fn patience_ends(&self) -> Time {
        match self.open_since {
            _ if !self.reached => self.first_call.after(NEVER_REACHED),
            Some(since) => since.after(LONGEST_OUTAGE),
            None => Time::FAR,
        }
    }

    /// True if it was open. What was counted is forgotten with an answer; any reply shows that it can
    /// be reached.
    fn close(&mut self, answered: bool) -> bool {
        let was_open = !matches!(self.state, State::Closed);
        self.state = State::Closed;
        #[cfg(feature = "redis")]
        {
            self.heard = false;
        }
        self.open_since = None;
        let failures = &mut self.since_answer;
        if answered || was_open {
            *failures = Failures::default();
        } else {
            (failures.unreached, failures.hung, failures.doubt) = (0, 0, None);
        }
        was_open
    }

    /// Opens it for twice as long as it was before.
    fn open(&mut self, why: &Error, before: Duration, detour: Detour, now: Time) {
        self.open_since.get_or_insert(now);
        let (first, longest) = match detour {
            Detour::NextStep => (FIRST_OPEN, LONGEST_OPEN),
            _ => (FIRST_WAIT, LONGEST_WAIT),
        };
        let wait = (before * 2).clamp(first, longest);
        let mut until = now.after(wait);
        if detour == Detour::Wait {
            let asked = why.retry_after().unwrap_or_default().min(LONGEST_OPEN);
            until = until.max(now.after(asked));
            // The last call of all finds out whether it is back.
            let end = self.patience_ends();
            until = if end > now { until.min(end) } else { until };
        }
        self.times.note(until, now);
        self.state = State::Open {
            until,
            why: why.clone(),
            wait,
        };
    }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
