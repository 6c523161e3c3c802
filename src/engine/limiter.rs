//! The limiter: says *go* or *not until then*, and never waits itself.
//!
//! One [`Limiter`] holds the state of every quota (provider, key and model) it has seen. Requests
//! and tokens are reserved together before a call and put right by its real usage. Limits are
//! given, or learned from what replies say and from refusals; where nothing shows one, none is assumed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
#[cfg(feature = "redis")]
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::base::clock::Time;
use crate::base::hints::RateHints;

pub use super::quota::{CallEnd, Limits, QuotaId, QuotaKey};
pub(super) use super::quota_state::LOADING_AGAIN;
#[cfg(feature = "redis")]
pub(super) use super::quota_state::LOOK_FOR_END;
use super::quota_state::{BUSY_FOR, Quota};
pub use super::quota_state::{Gate, Permit};
use super::quota_status::{LearnedLimit, QuotaStatus};
use super::shared_quota::{self, Share, WallClock, system_wall};
#[cfg(feature = "redis")]
use shares::Shares;

#[cfg(feature = "redis")]
mod shares;

struct State {
    ids: HashMap<QuotaKey, QuotaId>,
    quotas: Vec<Quota>,
    folder: Option<(PathBuf, WallClock)>,
    /// Through what limits are shared with all machines.
    #[cfg(feature = "redis")]
    shares: Option<Shares>,
}

/// Limits of every quota of a route, shared by all that use the route.
pub struct Limiter {
    state: Mutex<State>,
    /// Other machines report that a provider is unavailable.
    #[cfg(feature = "redis")]
    outages: AtomicBool,
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
                #[cfg(feature = "redis")]
                shares: None,
            }),
            #[cfg(feature = "redis")]
            outages: AtomicBool::new(false),
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
        #[cfg(feature = "redis")]
        if let Some(shares) = &state.shares {
            quota.lease(shares.lease(key, now));
        }
        if let Some((folder, wall)) = state.folder.clone() {
            match Share::open(&folder, key.0, wall) {
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

    /// What a quota allows now, as far as it is known; nothing is of no quota. What other processes have used
    /// since a call of this one last began or ended is not looked up.
    pub(crate) fn status(&self, quota: QuotaId, now: Time) -> QuotaStatus {
        let mut state = self.state.lock();
        let quota = state.get(quota);
        quota.map_or_else(QuotaStatus::default, |quota| quota.status(now))
    }

    /// The limit that was learned and holds back the next call of a quota, if one does.
    pub(crate) fn learned_limit(&self, quota: QuotaId, now: Time) -> Option<LearnedLimit> {
        self.state.lock().get(quota)?.learned_limit(now)
    }

    /// Calls under way, of all quotas.
    #[cfg(feature = "queue")]
    pub(crate) fn calls_in_flight(&self) -> u64 {
        let state = self.state.lock();
        let quotas = state.quotas.iter();
        quotas.map(|quota| u64::from(quota.in_flight)).sum()
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
        Some(if quota.is_busy() {
            until.max(now.after(BUSY_FOR))
        } else {
            until
        })
    }

    /// True while a quota pauses for a refusal or a failure, rather than for its allowance.
    pub(crate) fn cools_down(&self, quota: QuotaId, now: Time) -> bool {
        self.paused_until(quota) > now
    }

    /// Until when a quota pauses for a refusal or a failure; a time in the past if it does not.
    pub(crate) fn paused_until(&self, quota: QuotaId) -> Time {
        let mut state = self.state.lock();
        let quota = state.get(quota);
        quota.map_or(Time::ZERO, |quota| quota.paused_until)
    }

    /// How long of this time a quota has paused for refusals and failures.
    pub(crate) fn paused_between(&self, quota: QuotaId, from: Time, to: Time) -> Duration {
        let mut state = self.state.lock();
        let quota = state.get(quota);
        quota.map_or(Duration::ZERO, |quota| quota.cool_downs.between(from, to))
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
            #[cfg(feature = "redis")]
            quota.tell_shares(ended, hints, now);
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
