//! Puts ended commands back into the order of the input. While one command is slow, later ones may run, until the
//! output that waits for it reaches a limit; then no more are started.

use std::collections::BTreeMap;
use std::time::Duration;

use batchwright::Context;
use parking_lot::{Condvar, Mutex};

use super::record::JobRecord;

/// Maximum number of bytes of ended commands that may wait for an earlier one.
const MOST_WAITING: usize = 64 * 1024 * 1024;
/// Interval at which a waiting source checks whether the run has ended.
const LOOK: Duration = Duration::from_millis(100);

/// Blocks the source while too much output waits.
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
    /// Waits until there is capacity, or until no more commands are started.
    pub fn pass(&self, ctx: &Context) {
        let mut state = self.state.lock();
        while state.waiting > MOST_WAITING && !state.open && ctx.check().is_ok() {
            self.changed.wait_for(&mut state, LOOK);
        }
    }

    /// No more commands are started.
    pub fn open(&self) {
        self.state.lock().open = true;
        self.changed.notify_all();
    }

    fn set(&self, waiting: usize) {
        self.state.lock().waiting = waiting;
        self.changed.notify_all();
    }
}

/// Passes on ended commands in the order of their positions.
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

    /// Adds the command at a position, and passes on all that are next in order.
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

    /// Passes on the rest in order. If the run ended early, some earlier commands may be missing.
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
    fn ended_commands_are_ordered_and_a_gap_loses_none() {
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
    fn a_source_waits_only_while_too_much_output_waits() {
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
