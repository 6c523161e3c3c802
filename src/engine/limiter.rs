//! The limiter: says *go* or *not until then*, and never waits itself.
//!
//! One [`Limiter`] holds the state of every quota (provider, key and model) it has seen. Requests
//! and tokens are reserved together before a call and put right by its real usage. Limits are
//! given, or learned from what replies say; where neither names one, none is assumed.
//!
//! A refusal is one of two things. Where other calls of the quota are being answered, the provider
//! limits how many it answers at once: nobody waits, but fewer calls are kept in flight (see
//! [`window`](super::window)). Where none is, or the allowance is known to be used up, it limits
//! calls per time: the whole quota pauses, once, however many calls in flight were refused. To tell
//! the two apart no call starts after a refusal while others are in flight and none of them was
//! answered; if the first that starts then is refused as well, the quota pauses.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::base::clock::Time;
use crate::base::hints::RateHints;

use super::bucket::{Bucket, OutputSizes, is_minute, learn_window, token_capacity};
pub use super::quota::{CallEnd, Limits, QuotaId, QuotaKey};
use super::rate_guess::RateGuess;
use super::shared_quota::{self, Share, Shared, WallClock, system_wall};
use super::window::{Answer, Epoch, Window};

/// The limiter's answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gate {
    /// Start the call; hand the permit back with [`Limiter::settle`].
    Go(Permit),
    /// Nothing of this quota may start before then, unless one of its calls ends earlier.
    NotUntil(Time),
}

/// What was reserved for one call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Permit {
    quota: QuotaId,
    tokens: f64,
    generation: u32,
    /// Calls of the quota that had been answered when this one began.
    replies: u64,
    /// Requests and tokens of the quota that had been reserved when this was.
    reserved: (f64, f64),
    began: (Time, Epoch),
}

impl Permit {
    /// The permit of work that has no quota.
    pub(crate) const FREE: Permit = Permit {
        quota: QuotaId::NONE,
        tokens: 0.0,
        generation: 0,
        replies: 0,
        reserved: (0.0, 0.0),
        began: (Time::ZERO, Epoch::NONE),
    };
}

struct Quota {
    given: Limits,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    outputs: OutputSizes,
    in_flight: u32,
    /// Requests and tokens reserved so far.
    reserved: (f64, f64),
    has_replied: bool,
    paused_until: Time,
    /// Raised by each cut and each pause; a refusal of a call started before it is old news.
    generation: u32,
    /// Pauses since the last reply.
    streak: u32,
    /// Calls that have been answered.
    replies: u64,
    /// A call that started in this generation has been answered.
    answered_since_cut: bool,
    /// No reply has come since the last cut: until one does, no call starts beside those in flight.
    waits_for_reply: bool,
    /// Until when the refusals of one wave asked to wait.
    asked_until: Option<Time>,
    window: Window,
    /// Of a provider that refuses calls for their number a minute and tells none.
    guess: RateGuess,
    /// The part that other processes see too.
    share: Option<Share>,
    /// Of whose making the given limits are.
    edition: u32,
}

/// Output tokens reserved for a call before anything was learned.
const FIRST_OUTPUT_GUESS: f64 = 256.0;
/// When only calls in flight stand in the way, their end is what helps; this is how soon to look
/// again in case they belong to another run of the same quota.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A server that comes back is noticed within this time.
const LONGEST_UNREACHED: Duration = Duration::from_secs(8);
/// The same where the end of a call is heard of anyway.
const BUSY_FOR: Duration = Duration::from_millis(500);
/// How soon to ask again whether a server has loaded its model.
pub(super) const LOADING_AGAIN: Duration = Duration::from_secs(1);
/// Rounding must not make somebody look again in the same instant.
const SHORTEST_WAIT: Duration = Duration::from_micros(50);

impl Quota {
    fn new(given: Limits, now: Time) -> Self {
        let requests = given
            .requests_per_minute
            .or(given.assumed_rpm)
            .map(|rpm| Bucket::per_minute(rpm, f64::from(given.burst), now));
        let tokens = given
            .tokens_per_minute
            .map(|tpm| Bucket::per_minute(tpm, token_capacity(tpm), now));
        Self {
            given,
            requests,
            tokens,
            outputs: OutputSizes::default(),
            in_flight: 0,
            reserved: (0.0, 0.0),
            has_replied: given.known,
            paused_until: Time::ZERO,
            generation: 0,
            streak: 0,
            replies: 0,
            answered_since_cut: true,
            waits_for_reply: false,
            asked_until: None,
            window: given.window(),
            guess: RateGuess::default(),
            share: None,
            edition: 0,
        }
    }

    /// Takes new limits; what is in flight, and what replies have told, stays.
    fn limit(&mut self, given: Limits, now: Time) {
        if given == self.given {
            return;
        }
        let fresh = Self::new(given, now);
        for (bucket, fresh, is_given) in [
            (
                &mut self.requests,
                fresh.requests,
                given.requests_per_minute,
            ),
            (&mut self.tokens, fresh.tokens, given.tokens_per_minute),
        ] {
            *bucket = match (*bucket, fresh) {
                (Some(old), _) if old.learned && is_given.is_none() => Some(old),
                (Some(old), Some(new)) => Some(new.at_most(old.level)),
                (_, new) => new,
            };
        }
        if given.window != self.given.window {
            self.window = given.window();
        }
        self.given = given;
    }

    fn common(&mut self) -> Shared<'_> {
        Shared {
            requests: &mut self.requests,
            tokens: &mut self.tokens,
            paused_until: &mut self.paused_until,
            found: self.window.found(),
        }
    }

    /// Does something to the quota, with the other processes' doings taken in before and its own
    /// passed on after.
    fn with_shared<T>(
        &mut self,
        has_new_limits: bool,
        now: Time,
        act: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let Some(mut share) = self.share.take() else {
            return act(self);
        };
        let waits_for_reply = share.begin(self.common(), has_new_limits, now);
        let out = act(self);
        if waits_for_reply {
            share.end(self.common(), now);
        }
        self.share = Some(share);
        out
    }

    /// Calls that may still be in flight beside those that are.
    fn free(&self) -> f64 {
        if self.waits_for_reply && self.in_flight > 0 {
            return 0.0;
        }
        let cap = match self.has_replied {
            false => f64::from(self.given.burst).min(self.window.most()),
            true => self.window.most(),
        };
        let cap = cap.min(self.given.in_flight.map_or(f64::INFINITY, f64::from));
        cap - f64::from(self.in_flight)
    }

    /// Whether the call that has ended beside so many others was the last that the window takes.
    fn is_full(&self, others: u32) -> bool {
        f64::from(others + 1) >= self.window.most()
    }

    fn is_busy(&self) -> bool {
        self.free() <= 0.0
    }

    /// Until when nothing of this quota can start, whatever it costs.
    fn closed_until(&mut self, now: Time) -> Option<Time> {
        if self.paused_until > now {
            return Some(self.paused_until);
        }
        if self.is_busy() {
            return Some(now.after(LOOK_AGAIN));
        }
        let known = self.requests.as_mut().map(|bucket| {
            bucket.refill(now);
            bucket.wait_for(1.0)
        });
        let wait = known.unwrap_or_else(|| self.guess.wait(now));
        (wait > Duration::ZERO).then(|| now.after(wait.max(SHORTEST_WAIT)))
    }

    fn try_acquire(
        &mut self,
        quota: QuotaId,
        input: u64,
        output_cap: Option<u64>,
        now: Time,
    ) -> Gate {
        if let Some(until) = self.closed_until(now) {
            return Gate::NotUntil(until);
        }
        let output = self.outputs.reserve.unwrap_or(FIRST_OUTPUT_GUESS);
        // A guess holds back no more than a minute's worth.
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
        self.guess.take();
        self.in_flight += 1;
        self.reserved.0 += 1.0;
        self.reserved.1 += need;
        Gate::Go(Permit {
            quota,
            tokens: need,
            generation: self.generation,
            replies: self.replies,
            reserved: self.reserved,
            began: (now, self.window.began(self.in_flight)),
        })
    }

    fn settle(&mut self, permit: Permit, ended: CallEnd, hints: &RateHints, now: Time) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let used = match ended {
            CallEnd::Replied(used) => used,
            _ => None,
        };
        if let Some((input, output)) = used {
            self.outputs.learn(output);
            if let Some(bucket) = &mut self.tokens {
                bucket.refill(now);
                bucket.put_right(permit.tokens - input.saturating_add(output) as f64);
            }
        }
        // A failed call may have been counted by the provider: its reservation stays spent.
        match ended {
            CallEnd::Replied(_) => {
                self.has_replied = true;
                self.streak = 0;
                self.replies += 1;
                self.waits_for_reply = false;
                self.answered_since_cut |= permit.generation == self.generation;
                self.guess.answered(now);
                self.window.replied(Answer {
                    began: permit.began.1,
                    took: now.since(permit.began.0),
                    tokens: used.map(|(_, output)| output),
                });
            }
            CallEnd::RateLimited(wait) => self.refused(permit, wait, used_up(hints), now),
            CallEnd::NotReady(wait) => self.unready(permit, wait, now),
            CallEnd::Unreachable if permit.generation == self.generation => {
                let pause = self.next_pause().min(LONGEST_UNREACHED);
                self.paused_until = self.paused_until.max(now.after(pause));
            }
            CallEnd::Unreachable | CallEnd::Failed => {}
        }
        if !hints.is_empty() {
            self.has_replied = true;
            self.learn(permit, hints, now);
        }
    }

    fn refused(&mut self, permit: Permit, wait: Option<Duration>, used_up: bool, now: Time) {
        // The provider spoke, so the first-reply brake has done its work.
        self.has_replied = true;
        let others = self.in_flight;
        let asked = wait.map(|wait| now.after(wait));
        if permit.generation == self.generation {
            self.asked_until = asked;
            let nobody = others == 0 && self.replies == permit.replies;
            // Where the number is to be found, others are still answered, and nobody asked for a pause, fewer
            // calls will do.
            let adapts = self.given.window.is_some() && wait.is_none() && others > 0;
            if nobody || used_up || !(self.answered_since_cut || adapts) {
                // With a known rate the bucket sets the pace of the way back.
                match self.streak {
                    _ if self.requests.is_some() => {}
                    0 => self.window.pause(others),
                    // Refused again without an answer in between: one call finds out.
                    _ => self.window.narrow(),
                }
                self.pause(now);
            } else {
                let guessed = !self.is_full(others) && self.guess.refused(now);
                if !guessed && self.window.cut(others) && self.requests.is_none() {
                    self.guess.begin(now);
                }
                self.next_generation();
                self.waits_for_reply = true;
            }
            return;
        }
        self.asked_until = self.asked_until.max(asked);
        self.window.refused_before_the_cut();
        if !self.waits_for_reply {
            // News of the pause that this wave has brought about, if it did.
            let pause = asked.filter(|_| self.paused_until > now);
            self.paused_until = self.paused_until.max(pause.unwrap_or_default());
        } else if others == 0 {
            self.window.pause_after_cut();
            self.pause(now);
        }
    }

    /// The whole quota waits for as long as it was asked to, else longer each time.
    fn pause(&mut self, now: Time) {
        let own = self.next_pause();
        if let Some(bucket) = &mut self.requests {
            bucket.refill(now);
            bucket.level = bucket.level.min(0.0);
        }
        self.guess.restart(now);
        let until = self.asked_until.unwrap_or(now.after(own));
        self.paused_until = self.paused_until.max(until);
    }

    /// Nothing is known of limits, so nothing is learned; one call finds out when it is ready.
    fn unready(&mut self, permit: Permit, wait: Option<Duration>, now: Time) {
        if permit.generation == self.generation {
            self.next_generation();
            self.has_replied = true;
            self.window.narrow();
            let pause = wait.unwrap_or_default().max(LOADING_AGAIN);
            self.paused_until = self.paused_until.max(now.after(pause));
        }
    }

    /// Begins a new pause: a second, doubled for each one that follows without a reply between.
    fn next_pause(&mut self) -> Duration {
        self.next_generation();
        let pause = Duration::from_secs(1 << self.streak.min(6));
        self.streak += 1;
        pause
    }

    fn next_generation(&mut self) {
        self.generation += 1;
        self.answered_since_cut = false;
        self.waits_for_reply = false;
    }

    fn learn(&mut self, permit: Permit, hints: &RateHints, now: Time) {
        // What the server had left when it let this call in does not count the calls that were
        // started after it. A first reply may have overtaken earlier calls too.
        let later = (
            self.reserved.0 - permit.reserved.0,
            self.reserved.1 - permit.reserved.1,
        );
        let in_flight = f64::from(self.in_flight);
        let burst = f64::from(self.given.burst);
        if hints.requests.is_some_and(|window| is_minute(&window)) {
            self.guess.forget();
        }
        if let (None, Some(window)) = (self.given.requests_per_minute, hints.requests) {
            let unseen = if self.requests.is_some() {
                later.0
            } else {
                in_flight
            };
            learn_window(&mut self.requests, window, unseen, now, |limit| {
                burst.min(limit.max(1.0))
            });
        }
        if let (None, Some(window)) = (self.given.tokens_per_minute, hints.tokens) {
            let unseen = if self.tokens.is_some() {
                later.1
            } else {
                in_flight * self.outputs.reserve.unwrap_or(FIRST_OUTPUT_GUESS)
            };
            learn_window(&mut self.tokens, window, unseen, now, token_capacity);
        }
        // Whatever pace was set, an allowance the server calls empty is waited for.
        for window in [hints.requests, hints.tokens].into_iter().flatten() {
            if let (Some(0), Some(reset)) = (window.remaining, window.reset)
                && !is_minute(&window)
            {
                self.paused_until = self.paused_until.max(now.after(reset));
            }
        }
    }
}

/// Whether the reply says that nothing of an allowance is left.
fn used_up(hints: &RateHints) -> bool {
    let windows = [hints.requests, hints.tokens];
    windows
        .into_iter()
        .flatten()
        .any(|window| window.remaining == Some(0))
}

struct State {
    ids: HashMap<QuotaKey, QuotaId>,
    quotas: Vec<Quota>,
    folder: Option<(PathBuf, WallClock)>,
}

/// Limits of every quota of a route, shared by all that use the route.
pub struct Limiter {
    state: Mutex<State>,
}

impl Default for Limiter {
    fn default() -> Self {
        Self::new()
    }
}

impl Limiter {
    /// A limiter that has seen nothing yet.
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State {
                ids: HashMap::new(),
                quotas: Vec::new(),
                folder: None,
            }),
        }
    }

    /// A limiter whose quotas are shared with every process that names the same folder.
    pub fn shared(folder: &Path) -> Self {
        shared_quota::remove_unused(folder, SystemTime::now());
        Self::shared_with(folder, system_wall)
    }

    pub(super) fn shared_with(folder: &Path, wall: WallClock) -> Self {
        let limiter = Self::new();
        limiter.state.lock().folder = Some((folder.to_owned(), wall));
        limiter
    }

    /// The place of `key`, opened with `limits` when it is new. Limits of a later edition replace
    /// those of earlier ones.
    pub fn quota(&self, key: QuotaKey, limits: Limits, edition: u32, now: Time) -> QuotaId {
        if key == QuotaKey::none() {
            return QuotaId::NONE;
        }
        let mut state = self.state.lock();
        if let Some(id) = state.ids.get(&key).copied() {
            if let Some(quota) = state.get(id).filter(|quota| quota.edition < edition) {
                quota.edition = edition;
                quota.limit(limits, now);
            }
            return id;
        }
        let mut quota = Quota::new(limits, now);
        quota.edition = edition;
        if let Some((folder, wall)) = &state.folder {
            match Share::open(folder, key.0, *wall) {
                Ok(share) => {
                    if let Some(remembered) = share.remembered(now) {
                        quota.window = quota.given.window_after(remembered);
                    }
                    quota.share = Some(share);
                }
                Err(error) => log::warn!(
                    "limits are not shared with other processes: {}: {error}",
                    folder.display()
                ),
            }
        }
        state.quotas.push(quota);
        let id = QuotaId(u32::try_from(state.quotas.len()).unwrap_or(u32::MAX));
        state.ids.insert(key, id);
        id
    }

    /// Reserves one request and its tokens: `input` as estimated, output as recent replies
    /// teach it but never more than `output_cap`.
    pub fn try_acquire(
        &self,
        quota: QuotaId,
        input: u64,
        output_cap: Option<u64>,
        now: Time,
    ) -> Gate {
        match self.state.lock().get(quota) {
            Some(state) => state.with_shared(false, now, |state| {
                state.try_acquire(quota, input, output_cap, now)
            }),
            None => Gate::Go(Permit::FREE),
        }
    }

    /// What [`try_acquire`](Self::try_acquire) would say, reserving nothing.
    #[cfg(test)]
    pub(crate) fn peek(&self, quota: QuotaId, input: u64, cap: Option<u64>, now: Time) -> Gate {
        let gate = self.try_acquire(quota, input, cap, now);
        if let Gate::Go(permit) = gate {
            self.give_back(permit);
        }
        gate
    }

    /// Whether calls wait for others to end, of which a quota takes no more at once.
    pub(crate) fn is_window_full(&self) -> bool {
        let state = self.state.lock();
        let mut quotas = state.quotas.iter();
        quotas.any(|quota| quota.given.window.is_some() && quota.is_busy())
    }

    #[cfg(test)]
    pub(crate) fn in_flight(&self, quota: QuotaId) -> u32 {
        self.state
            .lock()
            .get(quota)
            .map_or(0, |quota| quota.in_flight)
    }

    /// Until when nothing of the quota can start, if it is closed now; for a run that shares its limiter
    /// with no other, and so hears of each call that ends.
    pub(crate) fn closed_until(&self, quota: QuotaId, now: Time) -> Option<Time> {
        let mut state = self.state.lock();
        let quota = state.get(quota)?;
        let until = quota.closed_until(now)?;
        Some(match quota.is_busy() {
            true => until.max(now.after(BUSY_FOR)),
            false => until,
        })
    }

    /// True while a quota pauses for a refusal or a failure, rather than for its allowance.
    pub(crate) fn cools_down(&self, quota: QuotaId, now: Time) -> bool {
        let mut state = self.state.lock();
        state
            .get(quota)
            .is_some_and(|quota| quota.paused_until > now)
    }

    /// Calls that could start now, as far as that does not depend on their tokens.
    #[cfg(feature = "queue")]
    pub(crate) fn room(&self, quota: QuotaId, now: Time) -> usize {
        let mut state = self.state.lock();
        let Some(quota) = state.get(quota) else {
            return usize::MAX;
        };
        if quota.closed_until(now).is_some() {
            return 0;
        }
        let requests = quota.requests.map_or(f64::INFINITY, |bucket| bucket.level);
        // What is open has room for one, however it was rounded.
        quota.free().min(requests).max(1.0) as usize
    }

    /// Ends a reservation by what the call really used and what its reply told. Returns until
    /// when nothing more of the quota can start, if it is closed now.
    pub fn settle(
        &self,
        permit: Permit,
        ended: CallEnd,
        hints: &RateHints,
        now: Time,
    ) -> Option<Time> {
        let mut state = self.state.lock();
        let quota = state.get(permit.quota)?;
        // What the others must hear of at once: a pause, and the first news of a rate.
        let unpaced = quota.requests.is_none() && quota.tokens.is_none();
        let has_new_limits =
            matches!(ended, CallEnd::RateLimited(_)) || unpaced && !hints.is_empty();
        quota.with_shared(has_new_limits, now, |quota| {
            quota.settle(permit, ended, hints, now);
            quota.closed_until(now)
        })
    }

    #[cfg(test)]
    /// Gives back a reservation whose call was never made.
    pub fn give_back(&self, permit: Permit) {
        if let Some(state) = self.state.lock().get(permit.quota) {
            state.in_flight = state.in_flight.saturating_sub(1);
            state.reserved.0 -= 1.0;
            state.reserved.1 -= permit.tokens;
            if let Some(bucket) = &mut state.requests {
                bucket.level = (bucket.level + 1.0).min(bucket.capacity);
            }
            if let Some(bucket) = &mut state.tokens {
                bucket.level = (bucket.level + permit.tokens).min(bucket.capacity);
            }
        }
    }
}

impl State {
    fn get(&mut self, id: QuotaId) -> Option<&mut Quota> {
        self.quotas.get_mut((id.0 as usize).checked_sub(1)?)
    }
}

#[cfg(test)]
#[path = "limiter_tests.rs"]
mod tests;
