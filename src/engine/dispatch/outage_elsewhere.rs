//! Applies outages that other machines have found, and publishes those found here.

use crate::base::Time;

use super::super::breaker::{Opened, OutageChange};
use super::super::class::StepId;
use super::super::limiter::LOOK_FOR_END;
use super::super::quota::QuotaId;
use super::super::work::Work;
use super::{Dispatcher, earlier};

impl<W: Work> Dispatcher<W> {
    /// Opens and closes breakers to match those of other machines.
    pub(super) fn apply_outages(&mut self, now: Time) {
        let breakers = &mut self.availability.breakers;
        if !self.limiter.knows_outages() && !breakers.any_shared() {
            return;
        }
        let limiter = &self.limiter;
        match breakers.apply_outages(|quota, waits| limiter.outage(quota, waits, now), now) {
            OutageChange::Nothing => return,
            OutageChange::Opened => log::warn!(
                "another worker reports that the provider is unavailable: it is not called until one call of all \
                 workers is answered"
            ),
            OutageChange::Closed => {
                log::warn!("the provider answers another worker, and is called again")
            }
        }
        self.availability.pauses.forget();
    }

    /// Time of the next check whether other machines have ended an outage; it may be earlier than necessary.
    pub(super) fn look_for_end(&self, wake: Option<Time>, now: Time) -> Option<Time> {
        if self.availability.breakers.any_shared() {
            earlier(wake, Some(now.after(LOOK_FOR_END)))
        } else {
            wake
        }
    }

    /// Publishes a breaker whose state has changed.
    pub(super) fn publish_outage(&self, (step, quota): (StepId, QuotaId), was: Option<Opened>) {
        let is = self.availability.breakers.opened(step);
        if is != was {
            let until = is.and_then(|opened| opened.until);
            let is_ours = is.is_some_and(|opened| opened.is_ours);
            self.limiter.note_outage(quota, until, is_ours);
        }
    }
}
