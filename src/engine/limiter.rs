//! The limiter: decides whether a call may start now, or when. It never waits itself.
//!
//! A [`Limiter`] has the state of each quota (provider, API key and model). Requests and tokens are reserved together
//! before a call, and corrected afterwards by its real usage. Limits are set by the user, reported by replies, or
//! inferred from rate-limited calls. Without any of these there is no limit.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::base::{RateHints, Time};

use super::quota::QuotaStatus;
pub use super::quota::{CallEnd, Limits, QuotaId, QuotaKey};
pub(super) use super::quota_state::LOADING_AGAIN;
pub(crate) use super::quota_state::{AHEAD, NEAR, Room};
use super::quota_state::{BUSY_FOR, Division, Quota, Share, WallClock, system_wall};
pub use super::quota_state::{Gate, Permit};

#[derive(Default)]
struct State {
    ids: HashMap<QuotaKey, QuotaId>,
    quotas: Vec<Quota>,
    folder: Option<(PathBuf, WallClock)>,
    /// The number of live workers, if workers on several machines divide the limits.
    divided_by: Option<usize>,
}

/// The quotas of a route, shared by all users of the route.
#[derive(Default)]
pub struct Limiter {
    state: Mutex<State>,
}

impl Limiter {
    /// Creates a limiter without quotas.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a limiter that shares its quotas with every OS process that names the same folder.
    pub fn shared(folder: &Path) -> Self {
        Self::shared_with(folder, system_wall)
    }

    pub(super) fn shared_with(folder: &Path, wall: WallClock) -> Self {
        let limiter = Self::new();
        limiter.state.lock().folder = Some((folder.to_owned(), wall));
        limiter
    }

    /// Returns the id of `key`, and creates the quota with `limits` if it is new. Limits of a later config version
    /// replace earlier ones.
    pub fn quota(&self, key: QuotaKey, limits: Limits, config_version: u32, now: Time) -> QuotaId {
        if key == QuotaKey::none() {
            return QuotaId::NONE;
        }
        let mut state = self.state.lock();
        if let Some(id) = state.ids.get(&key).copied() {
            if let Some(quota) = state
                .get(id)
                .filter(|quota| quota.config_version < config_version)
            {
                quota.config_version = config_version;
                quota.limit(limits, now);
            }
            return id;
        }
        let mut quota = Quota::new(limits, now);
        quota.config_version = config_version;
        quota.division = state.divided_by.map(|live| Division::unlisted(live, now));
        if let Some((folder, wall)) = state.folder.clone() {
            match Share::open(&folder, key.0, wall) {
                Ok(share) => quota.share = Some(share),
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

    /// Reserves one request and its tokens: `input` as estimated, output as recent replies suggest, but at most
    /// `output_cap`.
    pub fn try_acquire(
        &self,
        quota: QuotaId,
        input: u64,
        output_cap: Option<u64>,
        now: Time,
    ) -> Gate {
        let gate = self.with(quota, |state| {
            state.with_shared(false, now, |state| {
                state.try_acquire(quota, input, output_cap, now)
            })
        });
        gate.unwrap_or(Gate::Go(Permit::default()))
    }

    fn with<T>(&self, quota: QuotaId, act: impl FnOnce(&mut Quota) -> T) -> Option<T> {
        self.state.lock().get(quota).map(act)
    }

    /// Current limits of a quota; the default for [`QuotaId::NONE`]. Use by other OS processes since the last start
    /// or end of a call here is not included.
    pub(crate) fn status(&self, quota: QuotaId, now: Time) -> QuotaStatus {
        self.with(quota, |quota| quota.status(now))
            .unwrap_or_default()
    }

    /// Calls in flight, of all quotas.
    pub(crate) fn calls_in_flight(&self) -> u64 {
        let state = self.state.lock();
        let quotas = state.quotas.iter();
        quotas.map(|quota| u64::from(quota.in_flight)).sum()
    }

    /// Whether one of the quotas that `is_wanted` has as many calls in flight as it accepts.
    pub(crate) fn is_full(&self, mut is_wanted: impl FnMut(QuotaId) -> bool) -> bool {
        let state = self.state.lock();
        let mut quotas = state.quotas.iter().zip(1..);
        quotas.any(|(quota, id)| quota.is_busy() && is_wanted(QuotaId(id)))
    }

    /// Time until which no call of the quota can start, if it is closed now. Only for a run that does not share its
    /// limiter, and therefore knows when each call ends.
    pub(crate) fn closed_until(&self, quota: QuotaId, now: Time) -> Option<Time> {
        self.with(quota, |quota| {
            let until = quota.closed_until(now)?;
            let busy = quota.is_busy().then(|| now.after(BUSY_FOR));
            Some(until.max(busy.unwrap_or_default()))
        })?
    }

    /// The calls for which a worker may fetch items now.
    pub(crate) fn room(&self, quota: QuotaId, now: Time) -> Room {
        self.with(quota, |quota| quota.room(now))
            .unwrap_or(Room::FREE)
    }

    /// End of the cooldown of a quota; in the past if there is none.
    pub(crate) fn paused_until(&self, quota: QuotaId) -> Time {
        self.with(quota, |quota| quota.paused_until)
            .unwrap_or_default()
    }

    /// Allows one call in flight until the first reply of a quota.
    pub(crate) fn start_with_one(&self, quota: QuotaId) {
        self.with(quota, |quota| quota.starts_with_one = true);
    }

    /// The keys of all quotas. A worker lists them, so that the others know which limits it uses.
    pub(crate) fn keys(&self) -> Vec<u64> {
        let state = self.state.lock();
        let mut keys: Vec<u64> = state.ids.keys().map(|key| key.0).collect();
        keys.sort_unstable();
        keys
    }

    /// Divides each limit per minute equally among the live workers that use it. `own` are the keys that this worker has
    /// listed, `live` those of every live worker. The first call to a limit waits until the others know of this worker.
    pub(crate) fn divide(&self, own: &[u64], live: &[&[u64]], now: Time) {
        let mut state = self.state.lock();
        state.divided_by = Some(live.len());
        let State { ids, quotas, .. } = &mut *state;
        for (key, id) in ids {
            let Some(quota) = quotas.get_mut(id.0 as usize - 1) else {
                continue;
            };
            let workers = live.iter().filter(|listed| listed.contains(&key.0)).count();
            let before = quota
                .division
                .unwrap_or(Division::unlisted(live.len(), now));
            let is_listed = own.contains(&key.0);
            // Until the others list it too, all of them may use it.
            let workers = if is_listed { workers } else { live.len() };
            quota.division = Some(before.counted(workers, is_listed, now));
        }
    }

    /// Ends the division, because the worker ends.
    pub(crate) fn undivide(&self) {
        let mut state = self.state.lock();
        state.divided_by = None;
        for quota in &mut state.quotas {
            quota.division = None;
        }
    }

    /// Ends a reservation with the real usage of the call and the limits that its reply reports. Returns the time
    /// until which no call of the quota can start, if it is closed now.
    pub fn settle(
        &self,
        permit: Permit,
        ended: CallEnd,
        hints: &RateHints,
        now: Time,
    ) -> Option<Time> {
        let mut state = self.state.lock();
        let quota = state.get(permit.quota)?;
        // Others must know at once of a pause and of the first reported rate.
        let unpaced = quota.requests.is_none() && quota.tokens.is_none();
        let has_new_limits =
            matches!(ended, CallEnd::RateLimited(_)) || unpaced && !hints.is_empty();
        quota.with_shared(has_new_limits, now, |quota| {
            quota.settle(permit, ended, hints, now);
            quota.closed_until(now)
        })
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
