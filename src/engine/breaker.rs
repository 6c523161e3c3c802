//! Circuit breakers: a provider that fails every call counts as unavailable and is not called for a while.
//!
//! Consecutive failures of a step of a route *trip* its breaker, unless an answer comes in between:
//!
//! - five consecutive failed connections;
//! - three consecutive time-outs, or two if the step has never answered;
//! - five failed first calls of items, of any sort (5xx, truncated replies), and at least as many failures as there are calls
//!   in flight that may still be answered, because errors are fast and answers slow. If the step has answered before, the
//!   failures must also last five seconds, or be twenty, so that a short disturbance diverts nothing.
//!
//! While the breaker is *open*, items fail over to the next step immediately, without using their remaining retries. After
//! five seconds it is *half open*: one call probes the step, and the other items still fail over. An answer closes the
//! breaker. A failure opens it for twice as long as before, up to a minute, because a probe that hangs may be billed.
//!
//! Items without another step wait until the breaker closes; then each probe follows after five seconds. Time-outs and truncated replies do not open it for them. After
//! [`LONGEST_OUTAGE`], or after [`NEVER_REACHED`] if no server was ever reached, the items stop waiting.
//!
//! Rate-limited calls and servers that load their model only cause waits. An invalid request and a refused or blocked
//! answer show nothing about the provider. If several items share a call (embeddings), a failure that one of them may have caused
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
/// How long a step that has answered before must do nothing but fail.
const NOTHING_BUT_FAILURES: Duration = Duration::from_secs(5);
/// Interval of checks while a call probes a step. The end of the probe is noticed immediately.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A step that was not probed for this time has no waiting items.
const UNPROBED: Duration = Duration::from_secs(60);
/// So many failures suffice, however little time they took.
const MANY: u32 = 20;
/// How long a breaker stays open before the first probe, and at most, also if the provider asks for more.
const OPEN: Duration = Duration::from_secs(5);
const LONGEST_OPEN: Duration = Duration::from_secs(60);
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
    /// `None` while the breaker is closed.
    outage: Option<Outage>,
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

/// An open breaker.
#[derive(Debug, Clone)]
struct Outage {
    since: Time,
    why: Error,
    /// How long no call starts, and until when.
    wait: Duration,
    until: Time,
    /// Since when a call may probe the step.
    half_open: Option<Time>,
    probing: bool,
}

impl Outage {
    /// Whether no call starts at the step now.
    fn is_closed_to_calls(&self) -> bool {
        self.half_open.is_none() || self.probing
    }
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
                outage: None,
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
        match breaker.outage.as_ref().map(|outage| outage.probing) {
            // Items do not wait for a slow provider.
            Some(true) if sign == Sign::Hung && call.detour == Detour::Wait => breaker.close(false),
            Some(true) => {
                breaker.open(error, call.detour, now);
                false
            }
            None if breaker.trips(call, error, now) => {
                breaker.open(error, call.detour, now);
                true
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
        let open = self.0.iter_mut().flat_map(|breaker| &mut breaker.outage);
        for outage in open.filter(|outage| outage.until <= now) {
            outage.half_open.get_or_insert(now);
        }
    }

    /// Records the start of a call. Returns true if it is the probe of a half-open breaker.
    pub(super) fn begin_call(&mut self, step: StepId) -> bool {
        let breaker = self.0.iter_mut().find(|breaker| breaker.step == step);
        let outage = breaker.and_then(|breaker| breaker.outage.as_mut());
        let half_open = outage.filter(|outage| outage.half_open.is_some());
        half_open.map(|outage| outage.probing = true).is_some()
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
        self.closed(step).map(|outage| &outage.why)
    }

    /// Time until which no call starts at the step, for items without another step: its breaker is open, or a probe
    /// is in flight.
    pub(super) fn closed_until(&self, step: StepId, now: Time) -> Option<Time> {
        let outage = self.closed(step)?;
        Some(if outage.probing {
            now.after(LOOK_AGAIN)
        } else {
            outage.until
        })
    }

    fn closed(&self, step: StepId) -> Option<&Outage> {
        let outage = self.of(step)?.outage.as_ref();
        outage.filter(|outage| outage.is_closed_to_calls())
    }

    /// Whether the breakers of all called steps are open.
    pub(super) fn all_open(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|breaker| breaker.outage.is_some())
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
        let since = breaker.outage.as_ref().map_or(now, |outage| outage.since);
        if undecided || breaker.patience_ends(since) > now {
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
        let outage = self.outage.as_ref().filter(|outage| !outage.probing);
        let since = outage.and_then(|outage| outage.half_open);
        since.is_some_and(|since| now.since(since) <= UNPROBED)
    }

    /// Whether this call may be the probe: it began after the breaker was half open.
    fn is_probed_by(&self, call: Ended) -> bool {
        let outage = self.outage.as_ref().filter(|outage| outage.probing);
        let since = outage.and_then(|outage| outage.half_open);
        since.is_some_and(|since| call.began >= since)
    }

    fn may_be_of_items(&self) -> bool {
        let outage = self.outage.as_ref();
        outage.is_some_and(|outage| may_be_of_item(&outage.why))
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
        match call.detour {
            Detour::NextStep => {}
            // Waiting makes a slow provider no faster. An item that waits for a truncated reply would pay for it
            // again and again.
            Detour::Wait if error.timed_out() || error.kind() != ErrorKind::Transient => {
                return false;
            }
            Detour::Wait => {}
            Detour::None => return false,
        }
        let failures = &self.since_answer;
        let (quiet, hung) = match self.last_answer {
            None => (Duration::ZERO, HUNG_FROM_THE_START),
            Some(_) => (NOTHING_BUT_FAILURES, HUNG),
        };
        let lasted = failures.began.map_or(Duration::ZERO, |at| now.since(at));
        let fails_all = failures.firsts >= FAILED
            && failures.all as usize >= call.out
            && (lasted >= quiet || failures.all >= MANY);
        failures.unreached >= UNREACHED || failures.hung >= hung || fails_all
    }

    /// When items without another step stop waiting in an outage since this time.
    fn patience_ends(&self, outage: Time) -> Time {
        if self.reached {
            outage.after(LONGEST_OUTAGE)
        } else {
            self.first_call.after(NEVER_REACHED)
        }
    }

    /// Closes the breaker; returns true if it was open. An answer resets all counts; any reply shows that the server
    /// is reachable.
    fn close(&mut self, answered: bool) -> bool {
        let was_open = self.outage.take().is_some();
        let failures = &mut self.since_answer;
        if answered || was_open {
            *failures = Failures::default();
        } else {
            (failures.unreached, failures.hung) = (0, 0);
        }
        was_open
    }

    fn open(&mut self, why: &Error, detour: Detour, now: Time) {
        let since = self.outage.as_ref().map_or(now, |outage| outage.since);
        let end = self.patience_ends(since);
        let before = self.outage.as_ref().map(|outage| outage.wait * 2);
        let longer = before.filter(|_| detour != Detour::Wait).unwrap_or(OPEN);
        let wait = longer.clamp(OPEN, LONGEST_OPEN);
        let mut until = now.after(wait);
        if detour == Detour::Wait {
            let asked = why.retry_after().unwrap_or_default().min(LONGEST_OPEN);
            until = until.max(now.after(asked));
            // The last call before items stop waiting is the last probe.
            until = if end > now { until.min(end) } else { until };
        }
        self.outage = Some(Outage {
            since,
            why: why.clone(),
            wait,
            until,
            half_open: None,
            probing: false,
        });
    }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
