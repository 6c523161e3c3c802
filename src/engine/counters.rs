//! What a run has done so far, in numbers.

use std::time::Duration;

use crate::base::clock::Time;

use super::route::Tries;

/// Numbers of a run as the dispatcher sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Without those refused since the model was still loading.
    pub calls: u64,
    pub firsts: u64,
    pub retries: u64,
    pub moved_on: u64,
    pub divided: u64,
    pub rate_limited: u64,
    pub possibly_paid_twice: u64,
    /// Calls ended by an abort whose fate is unknown.
    pub cut_off: u64,
    /// The time that calls took, one by one.
    pub call_time: Duration,
    pub in_flight: usize,
    pub most_in_flight: usize,
    pub first_start: Option<Time>,
    pub last_end: Option<Time>,
}

impl Counters {
    /// Where a call counts, by what led to it.
    pub(super) fn of_kind(&mut self, tries: &Tries) -> &mut u64 {
        match tries {
            Tries { calls: 0, .. } => &mut self.firsts,
            Tries { part: true, .. } => &mut self.divided,
            Tries { moved: true, .. } => &mut self.moved_on,
            _ => &mut self.retries,
        }
    }
}
