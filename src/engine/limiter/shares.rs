//! A limiter whose limits all machines share, through Redis.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::base::clock::{Clock, Time};
use crate::hub::RedisHub;
use crate::hub::shares::{Share, ShareRequest, ShareUser};

use super::super::quota_state::Lease;
use super::{Limiter, QuotaKey};

/// What a limiter keeps for that.
pub(super) struct Shares {
    hub: RedisHub,
    /// Called by the hub for as long as it is kept.
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
    /// The quotas that were asked for last.
    asked: Mutex<Vec<usize>>,
}

impl Limiter {
    /// Shares the limits of quotas that are opened from now on with all processes that use the same Redis.
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
#[path = "shares_tests.rs"]
mod tests;
