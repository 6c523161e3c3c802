//! End of the pause of each quota.
//!
//! The limiter decides about pauses. Its last decisions are stored here, so that items of a paused quota are skipped
//! without asking it for each of them.

use crate::base::Time;

use super::quota::QuotaId;

/// By the number of the quota.
#[derive(Debug, Default, Clone)]
pub(crate) struct Pauses(Vec<Time>);

impl Pauses {
    /// Pauses the quota until `until`; a time in the past ends its pause.
    pub(crate) fn set(&mut self, quota: QuotaId, until: Time) {
        let at = quota.0 as usize;
        if self.0.len() <= at {
            self.0.resize(at + 1, Time::ZERO);
        }
        self.0[at] = until;
    }

    pub(crate) fn is_paused(&self, quota: QuotaId, now: Time) -> bool {
        self.0.get(quota.0 as usize).is_some_and(|t| *t > now)
    }

    /// The end of the quota's pause, if it is paused.
    pub(crate) fn until(&self, quota: QuotaId, now: Time) -> Option<Time> {
        let until = self.0.get(quota.0 as usize).copied();
        until.filter(|until| *until > now)
    }

    /// The quotas that are paused.
    pub(super) fn paused(&self, now: Time) -> impl Iterator<Item = QuotaId> + '_ {
        let paused = self
            .0
            .iter()
            .zip(0..)
            .filter(move |(until, _)| **until > now);
        paused.map(|(_, quota)| QuotaId(quota))
    }

    /// The ends of all pauses, including past ones.
    pub(super) fn ends(&self) -> impl Iterator<Item = Time> + '_ {
        self.0.iter().copied()
    }

    /// Ends all pauses. The limiter pauses a quota again when the next item asks for it.
    pub(super) fn forget(&mut self) {
        self.0.fill(Time::ZERO);
    }
}
