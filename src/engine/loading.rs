//! Waits for servers that are up but still load their model.

use std::time::Duration;

use crate::base::Time;

use super::limiter::{CallEnd, QuotaId};

/// After this time, rejections of a server that loads its model count as failures.
pub(crate) const MAX_LOADING: Duration = Duration::from_secs(600);

/// The quotas whose server is loading, and since when.
#[derive(Debug, Default)]
pub(super) struct Loading(Vec<(QuotaId, Time)>);

impl Loading {
    /// Records how a call ended. Returns true if its item waits for the server and the call does not count as an
    /// attempt.
    pub(super) fn note(&mut self, quota: QuotaId, ended: &CallEnd, now: Time) -> bool {
        let known = self.0.iter().position(|(loading, _)| *loading == quota);
        match (ended, known) {
            (CallEnd::NotReady(_), Some(at)) => now.since(self.0[at].1) < MAX_LOADING,
            (CallEnd::NotReady(_), None) => {
                self.0.push((quota, now));
                true
            }
            (CallEnd::Replied(_) | CallEnd::Troubled(_) | CallEnd::RateLimited(_), Some(at)) => {
                self.0.swap_remove(at);
                false
            }
            _ => false,
        }
    }

    pub(super) fn since(&self) -> Option<Time> {
        self.0.iter().map(|(_, since)| *since).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: CallEnd = CallEnd::NotReady(None);

    fn at(seconds: u64) -> Time {
        Time::ZERO.after(Duration::from_secs(seconds))
    }

    #[test]
    fn waiting_for_a_model_ends_after_ten_minutes_and_restarts_after_a_reply() {
        let (a, b) = (QuotaId(1), QuotaId(2));
        let mut loading = Loading::default();
        assert!(loading.note(a, &REFUSED, at(5)));
        assert!(loading.note(b, &REFUSED, at(100)));
        assert_eq!(loading.since(), Some(at(5)));
        assert!(loading.note(a, &REFUSED, at(604)));
        assert!(!loading.note(a, &REFUSED, at(605)));
        // A failed or lost connection does not show that the server is ready.
        assert!(!loading.note(a, &CallEnd::Failed, at(606)));
        assert!(!loading.note(a, &REFUSED, at(607)));
        assert!(!loading.note(a, &CallEnd::Replied(None), at(608)));
        assert_eq!(loading.since(), Some(at(100)));
        assert!(loading.note(a, &REFUSED, at(609)));
        loading.note(a, &CallEnd::Replied(None), at(610));
        // A server that limits the rate has loaded its model.
        loading.note(b, &CallEnd::RateLimited(None), at(610));
        assert_eq!(loading.since(), None);
    }
}
