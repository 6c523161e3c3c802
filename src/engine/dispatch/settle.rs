//! Makes ends durable: in groups, with retries after a failure, and without the lock if the work has a store.

use std::time::Duration;

use crate::base::{Error, Time};

use super::super::work::{SettleEnd, Settled, Work};
use super::{Dispatcher, Io};

/// Time until a failed settling write is retried.
const SETTLE_AGAIN: Duration = Duration::from_secs(1);
/// If each settling is a transaction, ends within this time of each other share one.
pub(super) const GROUP_DELAY: Duration = Duration::from_micros(300);

impl<W: Work> Dispatcher<W> {
    /// Takes the ends that could not be settled; only for a run that ends anyway.
    pub(crate) fn take_unsettled(&mut self) -> Vec<Settled<W::Task, W::Done>> {
        let lost = std::mem::take(&mut self.pending);
        let held = permits_held(&lost);
        self.counters.in_flight = self.counters.in_flight.saturating_sub(held);
        self.settle_at = None;
        lost
    }

    /// Waits a moment for more ends while calls are in flight.
    pub(super) fn delay_for_more(&mut self, now: Time) {
        if !self.options.durable || self.settle_error.is_some() || self.pending.is_empty() {
            return;
        }
        if self.settling.is_some() || self.pending.len() >= self.counters.in_flight {
            self.settle_at = None;
        } else if self.settle_at.is_none() {
            self.settle_at = Some(now.after(GROUP_DELAY));
        }
    }

    pub(super) fn flush(&mut self, now: Time) {
        self.work.keep(&mut self.pending);
        if self.pending.is_empty() || self.settling.is_some() {
            return;
        }
        let has_store = self.work.has_store();
        // A failed write to a store is retried when it is due, even if more items end before.
        let may_wait = has_store && self.settle_error.is_some()
            || self.pending.iter().all(|s| matches!(s, Settled::Final(..)));
        if self.settle_at.is_some_and(|at| at > now) && may_wait {
            return;
        }
        if has_store && let Some(io) = self.work.settle_io(&self.pending, now) {
            self.settling = Some(std::mem::take(&mut self.pending));
            self.settle_at = None;
            self.io.push(Io::Settle(io));
            return;
        }
        let mut done = std::mem::take(&mut self.pending);
        let before = permits_held(&done);
        let result = self.work.settle(&mut done, now);
        self.note_settled(done, before, result, now);
    }

    pub(super) fn on_settled(&mut self, end: SettleEnd<W>, now: Time) {
        let Some(mut done) = self.settling.take() else {
            return;
        };
        let before = permits_held(&done);
        let result = end(&mut self.work, &mut done, now);
        self.note_settled(done, before, result, now);
    }

    /// Ends that were not written precede later ones.
    fn note_settled(
        &mut self,
        mut left: Vec<Settled<W::Task, W::Done>>,
        before: usize,
        result: Result<(), Error>,
        now: Time,
    ) {
        if !self.work.defers_release() {
            self.counters.in_flight -= before - permits_held(&left);
        }
        left.append(&mut self.pending);
        self.pending = left;
        self.settle_at = None;
        self.settle_error = result.err();
        if self.settle_error.is_some() && !self.pending.is_empty() {
            self.settle_at = Some(now.after(SETTLE_AGAIN));
        }
    }
}

fn permits_held<T, D>(settled: &[Settled<T, D>]) -> usize {
    let holds = |settled: &&Settled<T, D>| !matches!(settled, Settled::Later(..));
    settled.iter().filter(holds).count()
}
