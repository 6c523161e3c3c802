//! The decision about a failed call: retry at a time, fail over to the next provider, or give up.
//!
//! A pure function of the route, the history of the item, and the error. Nothing else in the crate retries calls.

use std::sync::Arc;
use std::time::Duration;

use derive_setters::Setters;
use serde::{Deserialize, Serialize};

use crate::base::verdict::Whom;
use crate::base::{Error, ErrorKind, RateHints, Sent, Time};

use super::availability::may_be_shared;

/// How often failed calls are retried, and after which waits.
#[derive(Debug, Clone, Copy, PartialEq, Setters)]
pub struct RetryPolicy {
    /// Retries at each step of a route; an item never exceeds twice that. Default: 3.
    max_retries: u8,
    /// The first wait; each further one doubles, plus jitter. An answer of the wrong shape is retried without a wait.
    /// Default: 1 s.
    base_delay: Duration,
    /// The longest wait that doubling reaches. A server's `Retry-After` may be longer and is obeyed, up to
    /// [`max_rate_limit_wait`](Self::max_rate_limit_wait) or [`max_retry_after`](Self::max_retry_after). Default: 60
    /// s.
    max_delay: Duration,
    /// Whether a blocked answer fails over to the next provider. Default: no.
    fall_back_when_blocked: bool,
    /// The longest `Retry-After` of a rate limit (429) that is obeyed, and the longest time to the reset of an
    /// allowance that a reply reports as used up. If a provider requests more, or sends a time of day as a number of
    /// seconds, the item fails over or fails. If the provider answers nothing else either, it is not called again in
    /// this run, and items without another provider stay unsent. Default: 1 h.
    max_rate_limit_wait: Duration,
    /// The longest `Retry-After` of any other failure that is obeyed; if a server requests more, the item waits this
    /// long. Default: 10 min. If another provider can be called, the item fails over instead of waiting more than
    /// five seconds, unless another call was answered recently.
    max_retry_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_retries: 3,
            base_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(60),
            fall_back_when_blocked: false,
            max_rate_limit_wait: Duration::from_secs(3600),
            max_retry_after: Duration::from_secs(600),
        }
    }
}

impl RetryPolicy {
    /// The wait that the server requests, limited to what is obeyed.
    pub(crate) fn asked(&self, error: &Error) -> Duration {
        error
            .retry_after()
            .unwrap_or_default()
            .min(self.longest(error))
    }

    /// Whether the server requests a longer wait than is obeyed.
    pub(crate) fn exceeds_longest_wait(&self, error: &Error) -> bool {
        error
            .retry_after()
            .is_some_and(|wait| wait > self.longest(error) && error.exact_wait().is_none())
    }

    /// The limits without reset times that are not obeyed: the next rate-limited call decides.
    pub(crate) fn obeyed(&self, mut hints: RateHints) -> RateHints {
        let windows = [&mut hints.requests, &mut hints.tokens];
        for window in windows.into_iter().flatten() {
            let most = self.max_rate_limit_wait;
            window.reset = window.reset.filter(|reset| *reset <= most);
        }
        hints
    }

    fn longest(&self, error: &Error) -> Duration {
        match error.kind() {
            ErrorKind::RateLimited => self.max_rate_limit_wait,
            _ => self.max_retry_after,
        }
    }

    /// Upper bound of the wait before a retry.
    pub(crate) fn longest_wait(&self) -> Duration {
        let longest = self.max_rate_limit_wait.max(self.max_retry_after);
        longest.max(self.max_delay).mul_f64(1.0 + JITTER)
    }

    /// How often an item with this history is retried at each step.
    pub(super) fn most(&self, tries: &Tries) -> u8 {
        tries.max_retries.unwrap_or(self.max_retries)
    }

    /// The wait before retry number `retry` (from 1), without jitter.
    pub(super) fn backoff(&self, retry: u8) -> Duration {
        let doublings = u32::from(retry.saturating_sub(1)).min(20);
        self.base_delay
            .saturating_mul(1 << doublings)
            .min(self.max_delay)
    }
}

/// History of an item. Small, because a waiting item stores little else.
// More than 15 fields: counters of one byte or two each, stored side by side to keep a waiting item small.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tries {
    /// Its step of the route.
    #[serde(skip)]
    pub step: u8,
    /// Failed calls at this step.
    pub attempt: u8,
    /// Calls in total.
    pub calls: u16,
    /// Malformed replies so far.
    pub malformed: u8,
    /// Time-outs after sending so far.
    pub timeouts: u8,
    /// It has just been divided: its next call has a part of the last one's items.
    pub part: bool,
    /// It has just failed over: its next call is the first at this step.
    pub moved: bool,
    /// It shares no call, because a call that it shared has failed.
    pub alone: bool,
    /// Answers of the wrong shape at this step.
    pub schema_mismatches: u8,
    /// Calls that were rate-limited, or failed because the provider was unavailable; they do not count as attempts.
    pub refused: u16,
    /// Seconds that it waited for these, in addition to what the server requested.
    pub waited: u16,
    /// The last call may have been processed although no usable reply arrived.
    pub in_doubt: bool,
    /// Why it left earlier steps.
    #[serde(skip)]
    pub fallbacks: FallbackHistory,
    /// Unclear ends at this step.
    #[serde(skip)]
    pub unclear: u8,
    /// The call that had the first of them, and the row of such ends in which it counts, from 1.
    #[serde(skip)]
    pub unclear_call: u64,
    #[serde(skip)]
    pub unclear_row: u32,
    /// How its last call ended.
    #[serde(skip)]
    pub last: LastEnd,
    /// Start of its first call; [`Time::ZERO`] before.
    #[serde(skip)]
    pub first: Time,
    /// Retries at each step, if the item has its own number.
    #[serde(skip)]
    pub max_retries: Option<u8>,
}

impl Tries {
    /// The time since the start of the first call.
    pub(crate) fn latency(&self, now: Time) -> Duration {
        match self.first {
            Time::ZERO => Duration::ZERO,
            first => now.since(first),
        }
    }
}

/// How the last call of an item ended. Items may share a call whatever it was.
#[derive(Debug, Clone, Default)]
pub struct LastEnd(Option<Error>);

impl PartialEq for LastEnd {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// The steps that an item has left, with the reasons, in order. In 8 bytes, because most waiting items have never failed
/// over.
#[derive(Debug, Clone, Default)]
pub struct FallbackHistory(Option<Arc<Vec<(u8, Error)>>>);

/// Items that have left the same steps may share a call.
impl PartialEq for FallbackHistory {
    fn eq(&self, other: &Self) -> bool {
        let steps = self.steps().iter().map(|(step, _)| step);
        steps.eq(other.steps().iter().map(|(step, _)| step))
    }
}

impl FallbackHistory {
    /// The same after the item has left this step too, because of this error.
    pub(crate) fn and(self, step: u8, error: &Error) -> Self {
        let mut steps = self.0.unwrap_or_default();
        Arc::make_mut(&mut steps).push((step, error.briefly()));
        Self(Some(steps))
    }

    pub(crate) fn steps(&self) -> &[(u8, Error)] {
        self.0.as_ref().map_or(&[], |steps| steps)
    }
}

/// Effect of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Retry the same step, not before this time.
    RetryAt(Time),
    /// The next step of the route.
    FallBack,
    /// The failure is final.
    GiveUp,
}

/// Minimum wait of a rate-limited item, whatever the pause of its quota.
const REFUSED_AGAIN: Duration = Duration::from_secs(1);
/// Maximum part of a wait that jitter adds.
const JITTER: f64 = 0.25;
/// The same for a wait that the server requests; it is exact, so jitter only spreads callers.
const SERVER_JITTER: f64 = 0.10;

/// Decides what follows `error`. `tries` includes the failed call; `jitter` is in 0..1; no retry starts after
/// `deadline`.
pub fn decide(
    policy: &RetryPolicy,
    more_steps: bool,
    tries: &Tries,
    error: &Error,
    now: Time,
    deadline: Option<Time>,
    jitter: f64,
) -> Next {
    let elsewhere = more_steps && may_fall_back(policy, error);
    if may_retry(policy, tries, error) && !(elsewhere && policy.exceeds_longest_wait(error)) {
        // After a schema mismatch the server is healthy.
        let own = if error.is_schema_mismatch() {
            Duration::ZERO
        } else {
            policy.backoff(tries.attempt)
        };
        let own = own.mul_f64(1.0 + JITTER * jitter.clamp(0.0, 1.0));
        let asked = policy.asked(error);
        let asked = asked.mul_f64(1.0 + SERVER_JITTER * jitter.clamp(0.0, 1.0));
        // Never earlier than the server requests, and never as fast as a server that requests 0 allows.
        let at = now.after(error.exact_wait().unwrap_or(own.max(asked)));
        if deadline.is_none_or(|deadline| at <= deadline) {
            return Next::RetryAt(at);
        }
    }
    if elsewhere {
        Next::FallBack
    } else {
        Next::GiveUp
    }
}

/// If another provider can be called, no item waits for a longer `Retry-After` of a failing provider.
const LONGEST_WAIT_WITH_FALLBACK: Duration = Duration::from_secs(5);

/// Whether the error requests a longer wait than that.
pub(crate) fn requests_long_wait(error: &Error) -> bool {
    may_be_shared(error)
        && error
            .retry_after()
            .is_some_and(|asked| asked > LONGEST_WAIT_WITH_FALLBACK)
}

fn may_retry(policy: &RetryPolicy, tries: &Tries, error: &Error) -> bool {
    if error.is_unusable_reply() {
        return false;
    }
    let others = u16::from(tries.alone) + tries.refused + 1;
    let retries_so_far = u32::from(tries.calls.saturating_sub(others));
    let most = policy.most(tries);
    if tries.attempt > most || retries_so_far >= 2 * u32::from(most) {
        return false;
    }
    match error.kind() {
        ErrorKind::RateLimited => true,
        // The item has already waited for it.
        ErrorKind::Transient if error.is_not_ready() => false,
        // A second time-out after sending would pay for the same slow answer a third time.
        ErrorKind::Transient => {
            !(error.timed_out() && error.sent() == Sent::Maybe) || tries.timeouts <= 1
        }
        ErrorKind::Malformed => tries.malformed <= 2,
        ErrorKind::Invalid => error.is_schema_mismatch() && tries.schema_mismatches <= 1,
        _ => false,
    }
}

/// When a rate-limited call, which does not count as an attempt, is retried. The waits of an item grow, so that an
/// item that is always rate-limited does not slow its quota for the others each time.
pub(crate) fn after_refusal(
    policy: &RetryPolicy,
    tries: &mut Tries,
    error: &Error,
    now: Time,
    jitter: f64,
) -> Time {
    let own = Duration::from_secs(tries.waited.into())
        .max(policy.base_delay)
        .min(policy.max_delay)
        .max(REFUSED_AGAIN);
    tries.uncount();
    let seconds = u16::try_from(own.as_secs()).unwrap_or(u16::MAX);
    tries.waited = tries.waited.saturating_add(seconds);
    let asked = policy.asked(error).mul_f64(1.0 + SERVER_JITTER * jitter);
    let wait = own.mul_f64(1.0 + JITTER * jitter).max(asked);
    now.after(error.exact_wait().unwrap_or(wait))
}

/// Whether one of several items in the call may have caused the failure of all. Some servers reply 500 to a text that
/// is too long.
pub(crate) fn may_divide(error: &Error) -> bool {
    let one_of_them = match error.kind() {
        ErrorKind::Malformed | ErrorKind::Invalid | ErrorKind::Blocked => true,
        ErrorKind::Transient => error.status().is_some(),
        _ => error.verdict().is_unclear(),
    };
    one_of_them && !error.is_unreachable() && !error.is_not_ready() && !error.is_unusable_reply()
}

/// Whether the provider is the cause, or a proxy before it, and no text of a call.
pub(super) fn is_of_provider(error: &Error) -> bool {
    matches!(error.verdict().whom, Whom::Way | Whom::Account)
}

/// When the parts of a divided call are sent. A failing server gets time to recover first.
pub(crate) fn parts_at(policy: &RetryPolicy, error: &Error, now: Time) -> Time {
    let own = match error.kind() {
        ErrorKind::Transient | ErrorKind::Malformed => policy.backoff(1),
        _ => Duration::ZERO,
    };
    now.after(own.max(policy.asked(error)))
}

fn may_fall_back(policy: &RetryPolicy, error: &Error) -> bool {
    use ErrorKind::*;
    // The next provider would be billed for the same again.
    if error.is_unusable_reply() {
        return false;
    }
    match error.kind() {
        RateLimited | Transient | Malformed | Invalid | Auth | Quota | UnknownModel => true,
        Blocked => policy.fall_back_when_blocked,
        _ => false,
    }
}

impl Tries {
    /// Counts a call that ended in `error`.
    pub(crate) fn count(&mut self, error: &Error) {
        self.calls = self.calls.saturating_add(1);
        self.attempt = self.attempt.saturating_add(1);
        self.part = false;
        self.moved = false;
        self.in_doubt = error.sent() == Sent::Maybe;
        if !matches!(
            error.kind(),
            ErrorKind::Cancelled | ErrorKind::DeadlineExceeded
        ) {
            self.last = LastEnd(Some(error.briefly()));
        }
        match error.kind() {
            ErrorKind::Malformed => self.malformed = self.malformed.saturating_add(1),
            ErrorKind::Transient if error.timed_out() && error.sent() == Sent::Maybe => {
                self.timeouts = self.timeouts.saturating_add(1);
            }
            _ => {
                self.schema_mismatches = self
                    .schema_mismatches
                    .saturating_add(error.is_schema_mismatch().into())
            }
        }
    }

    /// The end of an item that is not called again: it keeps that of its last call.
    pub(crate) fn ended(&self, why: Error) -> Error {
        match &self.last.0 {
            Some(last) if last.kind() != why.kind() || last.sent() != why.sent() => {
                why.after(last.clone())
            }
            _ => why,
        }
    }

    /// The last counted call failed because of the provider, so it does not count as an attempt.
    pub(crate) fn uncount(&mut self) {
        self.attempt = self.attempt.saturating_sub(1);
        self.refused = self.refused.saturating_add(1);
    }

    /// Each item of the failed call continues in a call of its own, where the retries start again.
    pub(crate) fn divide(&mut self) {
        self.part = true;
        self.alone = true;
        self.unclear = 0;
        (self.attempt, self.malformed, self.timeouts) = (0, 0, 0);
    }

    /// Fails over to the next step, where the retries start again, for this reason.
    pub(crate) fn next_step(&mut self, why: Option<&Error>) {
        if let Some(error) = why {
            self.fallbacks = std::mem::take(&mut self.fallbacks).and(self.step, error);
        }
        self.step += 1;
        self.moved = true;
        self.attempt = 0;
        self.part = false;
        self.schema_mismatches = 0;
        self.unclear = 0;
    }
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
