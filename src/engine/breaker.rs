//! Circuit breakers: a provider that fails every call counts as unavailable and is not called for a while.
//!
//! Consecutive failures of a step of a route *trip* its breaker. While the breaker is *open*, items fail over to the
//! next step immediately, without using their remaining retries. Later it is *half open*: one call probes the step,
//! and the other items still fail over. An answer closes the breaker. A failure opens it for twice as long.
//!
//! Items without another step wait until the breaker closes. The waits are shorter then, and the breaker trips
//! earlier, because no item is diverted. But at least five items must have failed, since the last items of a run may
//! cause their own failures. Only failed connections, lost connections and replies such as 503 count. After
//! [`LONGEST_OUTAGE`], or after [`NEVER_REACHED`] if no server was ever reached, the items stop waiting.
//!
//! If another step exists, any of these trips the breaker, unless an answer comes in between:
//!
//! - five consecutive failed connections;
//! - three consecutive time-outs, or two if the step has never answered;
//! - five consecutive failures of any sort (5xx, truncated replies), and at least as many as there are calls in flight that
//!   may still be answered, because errors are fast and answers slow. If the step has answered before, the failures must
//!   also last five seconds, so that a short disturbance diverts nothing.
//!
//! Rate-limited calls and servers that load their model only cause waits. An invalid request and a refused or blocked
//! answer show nothing about the provider. The retries of one item do not suffice: at least two failures must be
//! first calls of their items. If several items share a call (embeddings), a failure that one of them may have caused
//! does not count.
//!
//! An internal error of the provider (500) may also be the fault of its prompt. Where items can only wait, it counts with an
//! item's first call alone, and as a probe the breaker opens again only if the item was never tried. So untried items decide
//! one after the other. If none is left, the breaker closes, and each item ends after its own attempts.

use std::time::Duration;

use crate::base::{Error, ErrorKind, Sent, Time};

use super::class::StepId;
use super::quota::QuotaId;

/// Consecutive failed connections that trip a breaker.
const UNREACHED: u32 = 5;
/// Consecutive time-outs that trip a breaker. Each may have occupied a slot for minutes.
const HUNG: u32 = 3;
/// The same if the step has never answered.
const HUNG_FROM_THE_START: u32 = 2;
/// Consecutive failures of any sort that trip a breaker.
const FAILED: u32 = 5;
/// First calls of items that must be among these failures.
const ITEMS: u32 = 2;
/// How long a step that has answered before must do nothing but fail.
const NOTHING_BUT_FAILURES: Duration = Duration::from_secs(5);
/// Interval of checks while a call probes a step. The end of the probe is noticed immediately.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A step that was not probed for this time has no waiting items.
const UNPROBED: Duration = Duration::from_secs(60);
/// How long a breaker stays open, at first. [`LONGEST_OPEN`] is the maximum.
pub(super) const FIRST_OPEN: Duration = Duration::from_secs(5);
const LONGEST_OPEN: Duration = Duration::from_secs(60);
/// The same thresholds if items can only wait.
const WAITING_UNREACHED: u32 = 3;
const WAITING_ITEMS: u32 = 5;
const WAITING_QUIET: Duration = Duration::from_secs(1);
/// This many consecutive failures suffice, however little time they took.
const WAITING_FAILED: u32 = 20;
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(8);
/// Items stop waiting for a provider that fails every call after this time.
const LONGEST_OUTAGE: Duration = Duration::from_secs(600);
/// The same if no server was ever reached at its address. A server that is being started is up by then.
const NEVER_REACHED: Duration = Duration::from_secs(8);

/// The breakers of all steps that were called.
#[derive(Debug, Default, Clone)]
pub(super) struct Breakers(Vec<Breaker>);

#[derive(Debug, Clone)]
struct Breaker {
    step: StepId,
    state: State,
    /// Start of the outage; `None` while the breaker is closed.
    open_since: Option<Time>,
    /// Start of the first call.
    first_call: Time,
    /// The server has replied at least once, with any status.
    reached: bool,
    /// The longest time that an answer took; `None` before the first answer.
    slowest: Option<Duration>,
    last_answer: Option<Time>,
    since_answer: Failures,
}

/// Failures since the last answer.
#[derive(Debug, Default, Clone)]
struct Failures {
    /// Consecutive failures without a connection, and consecutive time-outs.
    unreached: u32,
    hung: u32,
    /// Failures of any sort, and how many of them were first calls of their items.
    all: u32,
    firsts: u32,
    began: Option<Time>,
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

/// What the end of a call shows about its provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// The model answered, with any finish reason.
    Answered,
    /// A reply that shows nothing about other items.
    Reached,
    /// A failure that other items may share.
    Failed,
    /// No connection was made.
    Unreached,
    /// The call timed out.
    Hung,
    /// This program ended the call, or never sent it.
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
            _ if error.is_schema_mismatch() => Self::Answered,
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
    /// They can fail over to another step.
    NextStep,
    /// They can only wait for this step.
    Wait,
    /// They share no quota, so they cannot be held back: the call is made.
    None,
}

/// Whether the failure may affect other items too. Only such failures count towards tripping a breaker.
pub(super) fn may_be_shared(error: &Error) -> bool {
    Sign::of_error(error).is_failure()
}

/// Whether the prompt may have caused the failure: the provider replied, and not with a status that concerns every
/// request.
fn may_be_of_item(error: &Error) -> bool {
    error.kind() == ErrorKind::Transient
        && error.status().is_some()
        && !error.is_unreachable()
        && !error.timed_out()
        && !is_overload(error)
}

/// Statuses that concern the provider, whatever the request. Cloudflare uses 520 to 530.
pub(super) fn is_overload(error: &Error) -> bool {
    matches!(error.status(), Some(502..=504 | 520..=530))
}

/// A call that ended, as its breaker sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub step: StepId,
    pub quota: QuotaId,
    pub began: Time,
    /// The item's first call at this step.
    pub first: bool,
    /// The call was shared, and one of its items may have caused the failure of all.
    pub of_one: bool,
    pub detour: Detour,
    /// Other calls to the step that may still be answered.
    pub out: usize,
}

impl Breakers {
    /// Records how a call ended. Returns true if the breaker opened or closed.
    pub(super) fn note<T>(&mut self, call: Ended, result: &Result<T, Error>, now: Time) -> bool {
        let step = call.step;
        let at = self.0.iter().position(|breaker| breaker.step == step);
        let at = at.unwrap_or_else(|| {
            self.0.push(Breaker {
                step,
                state: State::Closed,
                open_since: None,
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
            (Sign::Failed, Err(error))
                if call.detour == Detour::Wait && !call.first && may_be_of_item(error) =>
            {
                return breaker.is_probed_by(call) && breaker.close(false);
            }
            (_, Err(error)) => error,
            (_, Ok(_)) => return false,
        };
        if sign.is_failure() {
            breaker.count(sign, call, now);
        }
        let probing = matches!(breaker.state, State::HalfOpen { probing: true, .. });
        if probing && sign == Sign::Hung && call.detour == Detour::Wait {
            // Items do not wait for a slow provider.
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

    /// Whether the step has answered recently: then a single failure concerns only its item.
    pub(super) fn answers(&self, step: StepId, now: Time) -> bool {
        let known = self.0.iter().find(|breaker| breaker.step == step);
        known.is_some_and(|breaker| {
            let lately = NOTHING_BUT_FAILURES.max(breaker.slowest.unwrap_or_default() * 2);
            let last = breaker.last_answer;
            last.is_some_and(|last| now.since(last) <= lately)
        })
    }

    /// Lets breakers that were open long enough admit one call.
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

    /// Records the start of a call. Returns true if it is the probe of a half-open breaker.
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

    /// If a breaker is half open because of failures that may be those of items, and no call probes its step: the number
    /// of items to look at in search of one that never failed.
    pub(super) fn items_in_question(&self, now: Time) -> Option<usize> {
        let in_question = self.0.iter().filter(|breaker| breaker.is_half_open(now));
        let failed = in_question.filter(|breaker| breaker.may_be_of_items());
        failed
            .map(|breaker| breaker.since_answer.all as usize)
            .max()
    }

    /// Why the step is not called while another step can be.
    pub(super) fn open_reason(&self, step: StepId) -> Option<&Error> {
        match &self.of(step)?.state {
            State::Open { why, .. }
            | State::HalfOpen {
                probing: true, why, ..
            } => Some(why),
            _ => None,
        }
    }

    /// Time until which no call starts at the step, for items without another step: its breaker is open, or a probe
    /// is in flight.
    pub(super) fn closed_until(&self, step: StepId, now: Time) -> Option<Time> {
        match &self.of(step)?.state {
            State::Open { until, .. } => Some(*until),
            State::HalfOpen { probing: true, .. } => Some(now.after(LOOK_AGAIN)),
            _ => None,
        }
    }

    /// Whether the breakers of all called steps are open.
    pub(super) fn all_open(&self) -> bool {
        let is_open = |breaker: &Breaker| !matches!(breaker.state, State::Closed);
        !self.0.is_empty() && self.0.iter().all(is_open)
    }

    /// Whether the probe of a breaker may start.
    pub(super) fn any_half_open(&self, now: Time) -> bool {
        self.0.iter().any(|breaker| breaker.is_half_open(now))
    }

    /// If items without another step stop waiting after this failure: the reason. `out`: other calls to the step that
    /// may still be answered.
    pub(super) fn patience_over(
        &self,
        step: StepId,
        error: &Error,
        out: usize,
        now: Time,
    ) -> Option<Error> {
        let breaker = self.of(step)?;
        // A call in flight may have a connection, which only its reply shows.
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

    fn of(&self, step: StepId) -> Option<&Breaker> {
        self.0.iter().find(|breaker| breaker.step == step)
    }
}

impl Breaker {
    /// Whether a probe may start. Breakers without a recent probe are ignored: no item waits for them.
    fn is_half_open(&self, now: Time) -> bool {
        match self.state {
            State::HalfOpen { since, probing, .. } => !probing && now.since(since) <= UNPROBED,
            _ => false,
        }
    }

    /// Whether this call may be the probe: it began after the breaker was half open.
    fn is_probed_by(&self, call: Ended) -> bool {
        matches!(self.state, State::HalfOpen { since, probing: true, .. } if call.began >= since)
    }

    fn may_be_of_items(&self) -> bool {
        match &self.state {
            State::Closed => false,
            State::Open { why, .. } | State::HalfOpen { why, .. } => may_be_of_item(why),
        }
    }

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
    }

    fn trips(&self, call: Ended, error: &Error, now: Time) -> bool {
        let failures = &self.since_answer;
        let (unreached, items, quiet, hung) = match call.detour {
            Detour::NextStep => (UNREACHED, ITEMS, NOTHING_BUT_FAILURES, HUNG),
            // Waiting makes a slow provider no faster. An item that waits for a truncated reply would pay for it
            // again and again.
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

    /// When items without another step stop waiting.
    fn patience_ends(&self) -> Time {
        match self.open_since {
            _ if !self.reached => self.first_call.after(NEVER_REACHED),
            Some(since) => since.after(LONGEST_OUTAGE),
            None => Time::FAR,
        }
    }

    /// Closes the breaker; returns true if it was open. An answer resets all counts; any reply shows that the server
    /// is reachable.
    fn close(&mut self, answered: bool) -> bool {
        let was_open = !matches!(self.state, State::Closed);
        self.state = State::Closed;
        self.open_since = None;
        let failures = &mut self.since_answer;
        if answered || was_open {
            *failures = Failures::default();
        } else {
            (failures.unreached, failures.hung) = (0, 0);
        }
        was_open
    }

    /// Opens the breaker for twice as long as before.
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
            // The last call before items stop waiting is the last probe.
            let end = self.patience_ends();
            until = if end > now { until.min(end) } else { until };
        }
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
