//! A limiter that shares limits with all machines through Redis.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::base::{Clock, Time};
use crate::hub::RedisHub;
use crate::hub::shares::{Share, ShareRequest, ShareUser};

use super::super::quota_state::{Lease, Quota};
use super::{Limiter, QuotaId, QuotaKey};

/// State of a limiter for that.
pub(super) struct Shares {
    hub: RedisHub,
    /// Keeps the hub calling this limiter.
    _user: Arc<User>,
}

impl Shares {
    pub(super) fn lease(&self, key: QuotaKey, now: Time) -> Lease {
        Lease::new(self.hub.clone(), key, now)
    }
}

struct User {
    limiter: Weak<Limiter>,
    clock: Arc<dyn Clock>,
    /// The quotas that the last exchange included.
    asked: Mutex<Vec<usize>>,
}

impl Limiter {
    /// State of a quota's provider: `Some(Some(until))` while no machine calls it, `Some(None)` if it is available,
    /// `None` if the state on other machines is unknown. `waits` keeps the quota in the exchange until the outage ends.
    pub(in crate::engine) fn outage(
        &self,
        quota: QuotaId,
        waits: bool,
        now: Time,
    ) -> Option<Option<Time>> {
        self.state.lock().get(quota)?.outage(waits, now)
    }

    /// Whether an outage of any quota is known.
    pub(in crate::engine) fn knows_outages(&self) -> bool {
        self.outages.load(Ordering::Relaxed)
    }

    /// Records that the provider of a quota is unavailable until `until`, or is available again. With `is_ours`, this
    /// machine may be the cause, so nothing is published.
    pub(in crate::engine) fn note_outage(
        &self,
        quota: QuotaId,
        until: Option<Time>,
        is_ours: bool,
    ) {
        let mut state = self.state.lock();
        if let Some(quota) = state.get(quota) {
            quota.note_outage(until, is_ours);
        }
    }

    /// Shares the limits of quotas that are created from now on with all OS processes that use the same Redis.
    pub(crate) fn share_through(self: &Arc<Self>, hub: &RedisHub, clock: Arc<dyn Clock>) {
        let user = Arc::new(User {
            limiter: Arc::downgrade(self),
            clock,
            asked: Mutex::default(),
        });
        let as_user: Arc<dyn ShareUser> = user.clone();
        hub.share(Arc::downgrade(&as_user));
        self.state.lock().shares = Some(Shares {
            hub: hub.clone(),
            _user: user,
        });
    }
}

impl ShareUser for User {
    fn ask(&self) -> Vec<ShareRequest> {
        let Some(limiter) = self.limiter.upgrade() else {
            return Vec::new();
        };
        let now = self.clock.now();
        let mut state = limiter.state.lock();
        let quotas = state.quotas.iter_mut().enumerate();
        let requests = quotas.filter_map(|(at, quota)| Some((at, quota.ask_share(now)?)));
        let (asked, requests) = requests.unzip();
        *self.asked.lock() = asked;
        requests
    }

    fn receive(&self, shares: &[Share]) {
        let Some(limiter) = self.limiter.upgrade() else {
            return;
        };
        let now = self.clock.now();
        let mut state = limiter.state.lock();
        for (at, share) in self.asked.lock().iter().zip(shares) {
            if let Some(quota) = state.quotas.get_mut(*at) {
                quota.receive_share(share, now);
            }
        }
        let knows = state.quotas.iter().any(Quota::has_outage);
        limiter.outages.store(knows, Ordering::Relaxed);
    }

    fn lose(&self, workers: usize) {
        let Some(limiter) = self.limiter.upgrade() else {
            return;
        };
        let now = self.clock.now();
        for quota in &mut limiter.state.lock().quotas {
            quota.lose_share(workers, now);
        }
    }
}

#[cfg(test)]
#[path = "shared_probe_tests.rs"]
mod probe_tests;
#[cfg(test)]
#[path = "shares_tests.rs"]
mod tests;
