//! Counters of a run.

use crate::base::Time;

use super::route::Tries;

/// Counters that the dispatcher keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Calls, without those that were rejected because the model was still loading.
    pub calls: u64,
    pub firsts: u64,
    pub retries: u64,
    pub moved_on: u64,
    pub divided: u64,
    pub rate_limited: u64,
    pub possibly_paid_twice: u64,
    /// Calls that were aborted and whose outcome is unknown.
    pub cut_off: u64,
    pub in_flight: usize,
    pub most_in_flight: usize,
    pub first_start: Option<Time>,
    pub last_end: Option<Time>,
}

impl Counters {
    /// The counter of a call, by its cause.
    pub(super) fn of_kind(&mut self, tries: &Tries) -> &mut u64 {
        match tries {
            Tries { calls: 0, .. } => &mut self.firsts,
            Tries { part: true, .. } => &mut self.divided,
            Tries { moved: true, .. } => &mut self.moved_on,
            _ => &mut self.retries,
        }
    }
}
