//! The budget of one process as a worker knows it, and the parts of its jobs in calls.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::store::JobBudget;

/// The budget of a process.
pub(super) struct Account {
    pub numbers: Mutex<JobBudget>,
    pub own: Mutex<Own>,
    pub changed: Condvar,
}

/// What the store does not count yet, in picodollars.
#[derive(Default)]
pub(super) struct Own {
    /// The worst cases of calls in flight.
    pub in_flight: u64,
    /// What calls have cost whose ends are not recorded yet.
    pub unrecorded: u64,
}

impl Account {
    /// Takes over what the store has counted. Of two readings, the one with more is the later one.
    pub fn note(&self, read: JobBudget) {
        let mut known = self.numbers.lock();
        if read.used >= known.used {
            let most = known.most.max(read.most);
            *known = JobBudget { most, ..read };
        }
    }

    /// What is left for calls, if this worker had none.
    pub fn left(&self) -> u64 {
        let known = *self.numbers.lock();
        (known.limit)
            .saturating_sub(known.used)
            .saturating_sub(known.held)
    }
}

/// The part of a job in a call: while the call runs, its worst case; then what it has cost, until its end is recorded.
pub(crate) struct Part {
    pub(super) account: Arc<Account>,
    /// While it is in flight.
    pub(super) most: u64,
    pub(super) ended: Option<Cost>,
}

/// What a call has cost in picodollars, or may have cost.
#[derive(Clone, Copy)]
pub(super) struct Cost {
    pub picos: u64,
    pub is_known: bool,
}

impl Part {
    pub(super) fn end(&mut self, cost: Cost) {
        let mut own = self.account.own.lock();
        own.in_flight = own.in_flight.saturating_sub(self.most);
        own.unrecorded = own.unrecorded.saturating_add(cost.picos);
        self.ended = Some(cost);
        self.account.changed.notify_all();
    }

    /// What the call may have cost, if that is unknown.
    pub(crate) fn lost(&self) -> u64 {
        match self.ended {
            None => self.most,
            Some(cost) if cost.is_known => 0,
            Some(cost) => cost.picos,
        }
    }
}

/// The end of the job was recorded, or another worker has it.
impl Drop for Part {
    fn drop(&mut self) {
        let mut own = self.account.own.lock();
        match self.ended {
            None => own.in_flight = own.in_flight.saturating_sub(self.most),
            Some(cost) => own.unrecorded = own.unrecorded.saturating_sub(cost.picos),
        }
        self.account.changed.notify_all();
    }
}
