//! The counters of processes. The changes of one transaction are added up here and written to the rows of the processes
//! before it commits.

use std::collections::BTreeMap;

use crate::base::Charge;
use crate::base::brief::beginning;
use crate::queue::job::Spent;

use super::rows::{HELD, bounded, process_of};

/// The changes of one transaction to the jobs of a process.
#[derive(Default)]
pub(super) struct Change {
    /// By status; held jobs count as pending.
    pub(super) counts: [i64; 7],
    pub(super) total: i64,
    pub(super) consumed: i64,
    pub(super) input_tokens: i64,
    pub(super) output_tokens: i64,
    /// In picodollars.
    pub(super) cost: i64,
    pub(super) unpriced: i64,
    /// What calls of unknown outcome may have cost, in picodollars.
    pub(super) lost: i64,
}

impl Change {
    /// Whether it adds tokens, or calls of unknown cost.
    pub(super) fn has_usage(&self) -> bool {
        (self.input_tokens, self.output_tokens, self.unpriced) != (0, 0, 0)
    }
}

/// What one transaction adds to what was spent on a model.
#[derive(Default)]
pub(super) struct SpentMore {
    pub(super) calls: i64,
    pub(super) tokens: i64,
    /// In picodollars.
    pub(super) cost: i64,
}

/// Longer names of models, in bytes, are cut.
const LONGEST_MODEL: usize = 250;

/// The changes of one transaction to the counters of processes, and what it books.
#[derive(Default)]
pub(super) struct CounterChanges {
    pub(super) processes: BTreeMap<i64, Change>,
    /// By model.
    pub(super) spent: BTreeMap<String, SpentMore>,
}

impl CounterChanges {
    /// New jobs of a process.
    pub(super) fn added(&mut self, process: i64, jobs: i64) {
        let change = self.processes.entry(process).or_default();
        change.total += jobs;
        change.counts[0] += jobs;
    }

    /// A job has changed its status.
    pub(super) fn moved(&mut self, job: i64, from: i64, to: i64) {
        self.moved_many(process_of(job), from, to, 1);
    }

    pub(super) fn moved_many(&mut self, process: i64, from: i64, to: i64, jobs: i64) {
        let change = self.processes.entry(process).or_default();
        change.counts[place(from)] -= jobs;
        change.counts[place(to)] += jobs;
    }

    /// A job's call was billed.
    pub(super) fn spent(&mut self, job: i64, spent: &Spent, charge: Option<&Charge>) {
        self.spent_on_model(spent, charge);
        let change = self.processes.entry(process_of(job)).or_default();
        change.input_tokens = bounded_sum(change.input_tokens, spent.input_tokens);
        change.output_tokens = bounded_sum(change.output_tokens, spent.output_tokens);
        let cost = spent.cost_usd.unwrap_or_default();
        change.cost = bounded_sum(change.cost, cost.picos());
        change.unpriced = bounded_sum(change.unpriced, spent.unpriced);
    }

    fn spent_on_model(&mut self, spent: &Spent, charge: Option<&Charge>) {
        let tokens = spent.input_tokens.saturating_add(spent.output_tokens);
        let cost = spent.cost_usd.unwrap_or_default().picos();
        if charge.is_none() && (tokens, cost, spent.unpriced) == (0, 0, 0) {
            return;
        }
        let model = charge.and_then(|charge| charge.model.as_deref());
        let model = beginning(model.unwrap_or_default(), LONGEST_MODEL);
        let more = self.spent.entry(model.to_owned()).or_default();
        more.calls = bounded_sum(more.calls, charge.map_or(1, |charge| charge.calls));
        more.tokens = bounded_sum(more.tokens, tokens);
        more.cost = bounded_sum(more.cost, cost);
    }

    /// A call for a job may have cost this much, in picodollars.
    pub(super) fn lost(&mut self, job: i64, picos: u64) {
        if picos > 0 {
            let change = self.processes.entry(process_of(job)).or_default();
            change.lost = bounded_sum(change.lost, picos);
        }
    }

    /// The outcome of a job was consumed.
    pub(super) fn consumed(&mut self, job: i64) {
        self.processes.entry(process_of(job)).or_default().consumed += 1;
    }
}

fn place(status: i64) -> usize {
    match status {
        HELD => 0,
        other => usize::try_from(other).unwrap_or(0),
    }
}

fn bounded_sum(sum: i64, more: u64) -> i64 {
    sum.saturating_add(bounded(more)).min(i64::MAX / 2)
}
