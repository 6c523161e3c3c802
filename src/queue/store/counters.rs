//! The counters of processes, and what was spent on each model on each day. The changes of one transaction are added up here
//! and written before it commits. What was spent outlives jobs and processes.

use std::collections::BTreeMap;

use const_format::formatcp;
use rusqlite::types::Value;

use crate::base::brief::beginning;
use crate::base::{Charge, Day, Error, Timestamp};
use crate::queue::job::{DaySpent, ProcessState, Spent};

use super::Store;
use super::rows::{
    CANCELLED, CANCELLING, DELETING, HELD, MOST, PROCESS_COLUMNS, bounded, process_of,
};
use super::statements::{Fault, FromRow, Queries as _, Row, Sql, all, by, columns};

/// What one transaction adds to the counters of a process, in the order of [`ADD`]. It begins with the jobs of each status;
/// held jobs count as pending. Amounts are in picodollars.
type Change = [i64; 12];
const CONSUMED: usize = 6;
const INPUT_TOKENS: usize = 7;
const OUTPUT_TOKENS: usize = 8;
const COST: usize = 9;
const UNPRICED: usize = 10;
/// What it takes of a budget: its cost, and what calls of unknown outcome may have cost.
const USED: usize = 11;

const ADD: &str = formatcp!(
    "UPDATE #processes SET pending = pending + ?, in_progress = in_progress + ?,
       at_provider = at_provider + ?, completed = completed + ?, failed = failed + ?,
       cancelled_jobs = cancelled_jobs + ?, consumed = consumed + ?,
       input_tokens = LEAST(input_tokens + ?, {MOST_COUNTED}),
       output_tokens = LEAST(output_tokens + ?, {MOST_COUNTED}),
       cost_picos = LEAST(cost_picos + ?, {MOST_COUNTED}), unpriced = unpriced + ?,
       budget_used = LEAST(budget_used + ?, {MOST}), changed_at = GREATEST(changed_at, ?)
     WHERE no = ?"
);

/// Its part that also counts for the oldest ancestor of the process.
fn usage(change: &Change) -> Option<Change> {
    let mut usage = *change;
    usage[..INPUT_TOKENS].fill(0);
    (usage != Change::default()).then_some(usage)
}

/// Adds it to the counters of a process.
fn add(tx: &mut dyn Sql, no: i64, change: &Change, now: Timestamp) -> Result<(), Fault> {
    let values = change.iter().copied().chain([now.0, no]);
    tx.defer(ADD, values.map(Value::from).collect())
}

/// What one transaction adds to what was spent on a model.
#[derive(Default)]
struct SpentMore {
    calls: i64,
    tokens: i64,
    /// In picodollars.
    cost: i64,
}

/// The limit of a stored sum: two such numbers can be added.
const MOST_COUNTED: i64 = i64::MAX / 2;

/// Longer names of models, in bytes, are cut.
const LONGEST_MODEL: usize = 250;

/// The changes of one transaction to the counters of processes, and what it books.
#[derive(Default)]
pub(super) struct CounterChanges {
    pub(super) processes: BTreeMap<i64, Change>,
    /// By model.
    spent: BTreeMap<String, SpentMore>,
}

impl CounterChanges {
    /// A job has changed its status.
    pub(super) fn moved(&mut self, job: i64, from: i64, to: i64) {
        self.moved_many(process_of(job), from, to, 1);
    }

    pub(super) fn moved_many(&mut self, process: i64, from: i64, to: i64, jobs: i64) {
        if jobs > 0 {
            // A damaged file may have any number.
            let place = |status: i64| (status.clamp(HELD, CANCELLED) - HELD) as usize;
            let change = self.processes.entry(process).or_default();
            change[place(from)] -= jobs;
            change[place(to)] += jobs;
        }
    }

    /// A job's call was billed.
    pub(super) fn spent(&mut self, job: i64, spent: &Spent, charge: Option<&Charge>) {
        self.spent_on_model(spent, charge);
        let cost = spent.cost_usd.unwrap_or_default().picos();
        let change = self.processes.entry(process_of(job)).or_default();
        for (at, more) in [
            (INPUT_TOKENS, spent.input_tokens),
            (OUTPUT_TOKENS, spent.output_tokens),
            (COST, cost),
            (UNPRICED, spent.unpriced),
            (USED, cost),
        ] {
            change[at] = bounded_sum(change[at], more);
        }
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
            change[USED] = bounded_sum(change[USED], picos);
        }
    }

    /// The outcome of a job was consumed.
    pub(super) fn consumed(&mut self, job: i64) {
        self.processes.entry(process_of(job)).or_default()[CONSUMED] += 1;
    }

    /// Writes the changes to the rows of the processes, and locks them. Returns the changed processes as they are now,
    /// without those that are being deleted, and whether one of them starts nothing, because it is cancelled or deleted.
    pub(super) fn write(
        &self,
        tx: &mut dyn Sql,
        now: Timestamp,
    ) -> Result<(Vec<ProcessState>, bool), Fault> {
        const CHANGED: &str = formatcp!(
            "SELECT no, chore, root, {PROCESS_COLUMNS} FROM #processes WHERE no IN :list ORDER BY no"
        );
        type Changed = (i64, i64, Option<i64>, ProcessState);
        let (mut states, mut is_stopped) = (Vec::new(), false);
        if self.processes.is_empty() {
            return Ok((states, is_stopped));
        }
        for (no, change) in &self.processes {
            add(tx, *no, change, now)?;
        }
        let day = i64::from(Day::of(now).number());
        for (model, more) in &self.spent {
            let values = by![day, model.clone(), more.calls, more.tokens, more.cost];
            tx.defer(SPEND, values)?;
        }
        let numbers: Vec<i64> = self.processes.keys().copied().collect();
        let mut roots = Vec::new();
        let changed: Vec<Changed> = tx.many(CHANGED, by![all(&numbers)])?;
        for (no, chore, root, state) in changed {
            is_stopped |= chore >= CANCELLING;
            let change = self.processes.get(&no);
            if let (Some(root), Some(usage)) = (root, change.and_then(usage)) {
                // It has a lower number, and was not locked before: a deadlock makes the server repeat one of the two.
                add(tx, root, &usage, now)?;
                roots.push(root);
            }
            states.extend((chore != DELETING).then_some(state));
        }
        if !roots.is_empty() {
            // Workers learn from them what the budgets have left.
            let roots: Vec<Changed> = tx.many(CHANGED, by![all(&roots)])?;
            let roots = roots.into_iter().filter(|root| root.1 != DELETING);
            states.extend(roots.map(|root| root.3));
        }
        Ok((states, is_stopped))
    }
}

fn bounded_sum(sum: i64, more: u64) -> i64 {
    sum.saturating_add(bounded(more)).min(MOST_COUNTED)
}

const SPEND: &str = formatcp!(
    "INSERT INTO #spent (day, model, calls, tokens, cost_picos) VALUES (?, ?, ?, ?, ?) ON DUPLICATE KEY UPDATE
       calls = LEAST(#spent.calls + VALUES(calls), {MOST_COUNTED}),
       tokens = LEAST(#spent.tokens + VALUES(tokens), {MOST_COUNTED}),
       cost_picos = LEAST(#spent.cost_picos + VALUES(cost_picos), {MOST_COUNTED})"
);

impl Store {
    /// What was spent from this day on, by day and model, in order; `None`: ever. The store adds the cost of a call in the
    /// transaction that records its end.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn spent_since(&self, day: Option<Day>) -> Result<Vec<DaySpent>, Error> {
        let find = "SELECT day, model, calls, tokens, cost_picos FROM #spent WHERE day >= ? ORDER BY day, model";
        let first = day.map_or(i64::MIN, |day| i64::from(day.number()));
        self.read(|tx| tx.many(find, by![first]))
    }
}

columns!(DaySpent: day, model, calls, tokens, cost_usd);
