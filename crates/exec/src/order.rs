//! Ends put back into the order of the input, within bounds: while one command takes long, others may run
//! ahead of it until what they leave waiting is too much; then no more are started.

use std::collections::BTreeMap;
use std::time::Duration;

use batchwright::Context;
use parking_lot::{Condvar, Mutex};

use super::record::JobRecord;

/// Bytes of ends that may wait for one that comes before them.
const MOST_WAITING: usize = 64 * 1024 * 1024;
/// How often a source that waits looks whether the run is over.
const LOOK: Duration = Duration::from_millis(100);

/// Holds the source back while too much waits.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    waiting: usize,
    open: bool,
}

impl Gate {
    /// Waits until there is room, or nothing is run any more.
    pub fn pass(&self, ctx: &Context) {
        let mut state = self.state.lock();
        while state.waiting > MOST_WAITING && !state.open && ctx.check().is_ok() {
            self.changed.wait_for(&mut state, LOOK);
        }
    }

    /// Nothing is run any more.
    pub fn open(&self) {
        self.state.lock().open = true;
        self.changed.notify_all();
    }

    fn set(&self, waiting: usize) {
        self.state.lock().waiting = waiting;
        self.changed.notify_all();
    }
}

/// Gives ends out in the order of their places.
pub(super) struct Reorder<'a> {
    gate: &'a Gate,
    next: u64,
    early: BTreeMap<u64, JobRecord>,
    weight: usize,
}

impl<'a> Reorder<'a> {
    pub fn new(gate: &'a Gate) -> Self {
        Self {
            gate,
            next: 0,
            early: BTreeMap::new(),
            weight: 0,
        }
    }

    /// Takes the end at a place, and gives out what is due.
    pub fn put(&mut self, index: u64, record: JobRecord, mut out: impl FnMut(JobRecord)) {
        self.weight += record.weight();
        self.early.insert(index, record);
        while let Some(record) = self.early.remove(&self.next) {
            self.next += 1;
            self.weight -= record.weight();
            out(record);
        }
        self.gate.set(self.weight);
    }

    /// Gives out what is left, in order: where the run ended early, some that come before may be missing.
    pub fn rest(self, out: impl FnMut(JobRecord)) {
        self.early.into_values().for_each(out);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::job::CommandJob;
    use super::*;

    fn record(i: u64) -> JobRecord {
        JobRecord::pending(Arc::new(CommandJob::new("x").with_id(i.to_string())))
    }

    #[test]
    fn ends_come_in_order_and_a_gap_does_not_lose_what_follows() {
        let gate = Gate::default();
        let mut order = Reorder::new(&gate);
        let mut seen = Vec::new();
        for i in [2, 0, 1, 5, 4] {
            order.put(i, record(i), |record| {
                seen.push(record.job.id().into_owned())
            });
        }
        assert_eq!(seen, ["0", "1", "2"]);
        order.rest(|record| seen.push(record.job.id().into_owned()));
        assert_eq!(seen, ["0", "1", "2", "4", "5"]);
    }

    #[test]
    fn a_source_waits_while_too_much_does_and_no_longer() {
        let (gate, ctx) = (Gate::default(), Context::new());
        gate.set(MOST_WAITING + 1);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| gate.pass(&ctx));
            assert!(!waiting.is_finished());
            gate.set(0);
        });
        gate.set(MOST_WAITING + 1);
        std::thread::scope(|scope| {
            scope.spawn(|| gate.pass(&ctx));
            ctx.cancel();
        });
        gate.open();
        gate.pass(&Context::new());
    }
}
