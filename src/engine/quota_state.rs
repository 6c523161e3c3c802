//! The state of one quota: reservations, calls in flight, learned limits, and the effect of each ended call.
//!
//! A rate-limited call has one of three causes:
//!
//! 1. The provider limits calls per time without reporting the limit, if as many calls in flight had been accepted a
//!    moment ago, or if a rate was what limited calls. The [`pace`](super::pace) becomes slower.
//! 2. The provider limits concurrent calls, if other calls are being answered. Nothing waits, but fewer calls are kept in
//!    flight (see [`window`](super::window)).
//! 3. Otherwise, or if the allowance is known to be used up, the whole quota pauses once, however many calls were
//!    rejected.
//!
//! To distinguish these, no call starts after a rejection while others are in flight and none of them was answered.
//! If the next call is rejected too, the quota pauses.

use std::time::Duration;

use crate::base::{RateHints, Time};

use super::bucket::{Bucket, learn_output, token_capacity};
use super::pace::{Begun, Pace};
use super::quota::{CallEnd, Limits, QuotaId, QuotaStatus};
use super::window::{Answer, Window};

mod division;
mod learn;
mod refused;
mod room;
mod shared;

pub(super) use division::Division;
pub(crate) use room::{AHEAD, NEAR, Room};
pub(super) use shared::{Share, WallClock, system_wall};

/// The limiter's answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gate {
    /// The call may start; return the permit with [`Limiter::settle`](super::limiter::Limiter::settle).
    Go(Permit),
    /// No call of this quota may start before this time, unless one of its calls ends earlier.
    NotUntil(Time),
}

/// The reservation of one call; by default, that of a task without a quota.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Permit {
    pub(super) quota: QuotaId,
    pub(super) tokens: f64,
    cut_epoch: u32,
    /// Calls of the quota that had been answered when this one started.
    replies: u64,
    /// Requests and tokens of the quota that had been reserved by then, including this call.
    reserved: (f64, f64),
    /// The epoch of the window.
    epoch: u32,
    /// Calls in flight, including this one.
    in_flight: u32,
    begun: Begun,
}

/// The search for a rate that the first rejection may start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Search {
    #[default]
    Ahead,
    On,
    Over,
}

/// More than 15 fields, because each end of a call can change all of them together; window, rate, buckets, share and
/// division are structs in files of their own.
#[derive(Default)]
pub(super) struct Quota {
    pub(super) given: Limits,
    pub(super) requests: Option<Bucket>,
    pub(super) tokens: Option<Bucket>,
    /// Output tokens that a call reserves.
    output: Option<f64>,
    pub(super) in_flight: u32,
    /// Requests and tokens reserved so far.
    pub(super) reserved: (f64, f64),
    has_replied: bool,
    /// One call is in flight until the first reply.
    pub(super) starts_with_one: bool,
    pub(super) paused_until: Time,
    /// Raised by each cut and each pause. The rejection of a call with a lower epoch is outdated.
    cut_epoch: u32,
    /// Pauses since the last reply.
    streak: u32,
    /// Calls that have been answered.
    replies: u64,
    /// Cuts since the last answer to a call that started after the previous cut.
    unanswered_cuts: u32,
    /// Highest number of calls in flight that was accepted in this epoch.
    accepted_peak: u32,
    /// No reply since the last cut: until one arrives, no call starts while others are in flight.
    waits_for_reply: bool,
    /// End of the waits that the rejections of one wave requested.
    asked_until: Option<Time>,
    pub(super) window: Window,
    /// The rate if the provider limits calls per time without reporting the limit.
    pace: Pace,
    search: Search,
    /// The state shared with other OS processes.
    pub(super) share: Option<Share>,
    /// Set if workers on several machines divide the limits.
    pub(super) division: Option<Division>,
    /// Config version that set `given`.
    pub(super) config_version: u32,
}

/// A reply that reports more tokens than this, and more than [`IMPLAUSIBLE_TIMES`] as many as were reserved, is not
/// believed: no model has such a context. Its call counts as reserved.
const IMPLAUSIBLE_TOKENS: f64 = 4_000_000.0;
const IMPLAUSIBLE_TIMES: f64 = 100.0;
/// Output tokens reserved for a call before anything was learned.
const FIRST_OUTPUT_GUESS: f64 = 256.0;
/// If only calls in flight block the quota, their end opens it. This is the interval of checks in case they belong to
/// another run with the same quota.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The same if the end of each call is noticed anyway.
pub(super) const BUSY_FOR: Duration = Duration::from_millis(500);
/// Interval of checks whether a server has loaded its model.
pub(super) const LOADING_AGAIN: Duration = Duration::from_secs(1);
/// A quota that could have been called and was not for this long had no items.
const IDLE: Duration = Duration::from_secs(1);
/// Minimum wait, so that rounding does not cause a second check at the same instant.
const SHORTEST_WAIT: Duration = Duration::from_micros(50);

impl Quota {
    pub(super) fn new(given: Limits, now: Time) -> Self {
        let requests = given
            .requests_per_minute
            .map(|rpm| Bucket::per_minute(rpm, f64::from(given.burst), now));
        let tokens = given
            .tokens_per_minute
            .map(|tpm| Bucket::per_minute(tpm, token_capacity(tpm), now));
        Self {
            given,
            requests,
            tokens,
            has_replied: given.known,
            window: given.window(),
            ..Self::default()
        }
    }

    /// Replaces the limits. Calls in flight, and what replies have reported, stay.
    pub(super) fn limit(&mut self, given: Limits, now: Time) {
        if given == self.given {
            return;
        }
        let fresh = Self::new(given, now);
        let kept = |old: Option<Bucket>, new: Option<Bucket>| match (old, new) {
            (Some(old), Some(mut new)) => {
                new.level = new.level.min(old.level);
                Some(new)
            }
            (Some(old), None) if old.learned.is_some() => Some(old),
            (_, new) => new,
        };
        self.requests = kept(self.requests, fresh.requests);
        self.tokens = kept(self.tokens, fresh.tokens);
        if given.window != self.given.window {
            self.window = given.window();
            self.pace = Pace::default();
        }
        self.given = given;
    }

    /// Changes the quota between reading and writing the state of other OS processes.
    pub(super) fn with_shared<T>(
        &mut self,
        has_new_limits: bool,
        now: Time,
        act: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.apportion(now);
        // Each worker has its own part of a divided limit.
        if self.division.is_some() {
            return act(self);
        }
        let Some(mut share) = self.share.take() else {
            return act(self);
        };
        let held = share.begin(self, has_new_limits, now);
        let out = act(self);
        if let Some(held) = held {
            share.end(held, self, now);
        }
        self.share = Some(share);
        out
    }

    /// Number of calls that may start in addition to those in flight.
    pub(super) fn free(&self) -> f64 {
        if self.waits_for_reply && self.in_flight > 0 {
            return 0.0;
        }
        self.most_in_flight() - f64::from(self.in_flight)
    }

    fn most_in_flight(&self) -> f64 {
        let cap = match self.has_replied {
            false => self.first_calls().min(self.window.most()),
            // During the search, only rejections limit the number of calls.
            true if self.is_searching() => f64::from(self.window.ceiling),
            true => self.window.most(),
        };
        cap.min(self.given.in_flight.map_or(f64::INFINITY, f64::from))
    }

    /// The current limits.
    pub(super) fn status(&mut self, now: Time) -> QuotaStatus {
        let paused_for = self.paused_until.since(now);
        let rate = |bucket: &mut Option<Bucket>| {
            let mut status = bucket.as_mut()?.status(now);
            if !paused_for.is_zero() {
                status.remaining = 0;
                status.reset_after = status.reset_after.max(paused_for);
            }
            Some(status)
        };
        let most = self.most_in_flight();
        QuotaStatus {
            requests: rate(&mut self.requests),
            tokens: rate(&mut self.tokens),
            in_flight: self.in_flight,
            most_in_flight: most.is_finite().then_some(most as u32),
            paused_for,
        }
    }

    /// Whether to infer a rate from rejections, because none is configured or reported.
    fn guesses_rate(&self) -> bool {
        self.requests.is_none()
    }

    pub(super) fn is_busy(&self) -> bool {
        self.free() <= 0.0
    }

    /// Time until which no call of this quota can start, whatever its rate.
    fn held_until(&self, now: Time) -> Option<Time> {
        if self.paused_until > now {
            return Some(self.paused_until);
        }
        if self.is_busy() {
            return Some(now.after(LOOK_AGAIN));
        }
        self.held_by_division(now)
    }

    /// Time until which no call of this quota can start, whatever its cost.
    pub(super) fn closed_until(&mut self, now: Time) -> Option<Time> {
        if let Some(until) = self.held_until(now) {
            return Some(until);
        }
        let known = self.requests.as_mut().map(|bucket| {
            bucket.refill(now);
            bucket.wait_for(1.0)
        });
        let wait = known.unwrap_or_else(|| self.pace.wait(now));
        if wait.is_zero() {
            return None;
        }
        Some(now.after(wait.max(SHORTEST_WAIT)))
    }

    pub(super) fn try_acquire(
        &mut self,
        quota: QuotaId,
        input: u64,
        output_cap: Option<u64>,
        now: Time,
    ) -> Gate {
        if let Some(until) = self.closed_until(now) {
            return Gate::NotUntil(until);
        }
        let output = self.output.unwrap_or(FIRST_OUTPUT_GUESS);
        // An estimate delays a call by at most a minute's worth of tokens.
        let output = self
            .tokens
            .map_or(output, |bucket| output.min(bucket.minute()));
        let output = output_cap.map_or(output, |cap| output.min(cap as f64));
        let need = input as f64 + output;
        if let Some(bucket) = &mut self.tokens {
            bucket.refill(now);
            let wait = bucket.wait_for(need);
            if wait > Duration::ZERO {
                return Gate::NotUntil(now.after(wait.max(SHORTEST_WAIT)));
            }
            bucket.level -= need;
        }
        if let Some(bucket) = &mut self.requests {
            bucket.level -= 1.0;
        }
        let held_until = self.paused_until.max(self.pace.held_until());
        if self.in_flight == 0 && now.since(held_until) > IDLE {
            // If no rate delayed calls, a measurement starts again, because calls accepted at low use show no rate.
            self.pace.mark = None;
        }
        let begun = self.pace.take(now);
        self.in_flight += 1;
        self.reserved.0 += 1.0;
        self.reserved.1 += need;
        Gate::Go(Permit {
            quota,
            tokens: need,
            cut_epoch: self.cut_epoch,
            replies: self.replies,
            reserved: self.reserved,
            epoch: self.window.began(self.in_flight),
            in_flight: self.in_flight,
            begun,
        })
    }

    pub(super) fn settle(&mut self, permit: Permit, ended: CallEnd, hints: &RateHints, now: Time) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let used = match ended {
            CallEnd::Replied(used) | CallEnd::Troubled(used) => used,
            _ => None,
        };
        let believable = |(input, output): &(u64, u64)| {
            let most = (IMPLAUSIBLE_TIMES * permit.tokens).max(IMPLAUSIBLE_TOKENS);
            input.saturating_add(*output) as f64 <= most
        };
        if let Some((input, output)) = used.filter(believable) {
            learn_output(&mut self.output, output);
            if let Some(bucket) = &mut self.tokens {
                bucket.refill(now);
                let excess = permit.tokens - input.saturating_add(output) as f64;
                bucket.correct(excess);
                self.reserved.1 -= excess;
            }
        }
        // The provider may have counted a failed call: its reservation stays used.
        match ended {
            CallEnd::Replied(_) | CallEnd::Troubled(_) => {
                let accepted = matches!(ended, CallEnd::Replied(_));
                self.has_replied = true;
                self.streak = 0;
                self.replies += 1;
                self.waits_for_reply = false;
                if permit.cut_epoch == self.cut_epoch {
                    self.unanswered_cuts = 0;
                    if accepted {
                        self.accepted_peak = self.accepted_peak.max(permit.in_flight);
                    }
                }
                if accepted {
                    let took = now.since(permit.begun.at);
                    self.pace.answered(permit.begun, took, now);
                    self.search_rate(now);
                    self.drop_unreported(hints, now);
                    self.window.replied(Answer {
                        epoch: permit.epoch,
                        took,
                        tokens: used.map(|(_, output)| output),
                    });
                }
            }
            CallEnd::RateLimited(wait) => self.refused(permit, wait, hints.is_used_up(), now),
            CallEnd::NotReady(wait) => self.unready(permit, wait, now),
            CallEnd::Failed => {}
        }
        if !hints.is_empty() {
            self.has_replied = true;
            self.learn(permit, hints, now);
        }
    }

    /// The server is loading its model. That shows nothing about limits; one call checks when it is ready.
    fn unready(&mut self, permit: Permit, wait: Option<Duration>, now: Time) {
        if permit.cut_epoch == self.cut_epoch {
            self.next_cut_epoch();
            self.has_replied = true;
            self.window.narrow();
            let pause = wait.unwrap_or_default().max(LOADING_AGAIN);
            self.paused_until = self.paused_until.max(now.after(pause));
        }
    }

    /// Starts a new pause: one second, doubled for each further one without a reply between.
    fn next_pause(&mut self) -> Duration {
        self.next_cut_epoch();
        let pause = Duration::from_secs(1 << self.streak.min(6));
        self.streak += 1;
        pause
    }

    fn next_cut_epoch(&mut self) {
        self.cut_epoch += 1;
        self.accepted_peak = 0;
        self.waits_for_reply = false;
    }
}
