//! The counters of processes as the databases store them.

use std::collections::BTreeSet;

use const_format::formatcp;
use rusqlite::types::Value;

use crate::base::Timestamp;
use crate::queue::job::ProcessState;
use crate::queue::store::counters::{Change, CounterChanges};
use crate::queue::store::rows::{self, DELETING, PROCESS_COLUMNS};

use super::budgets::MOST;
use super::lineage::stops_starting;
use super::spent;
use super::statements::{Fault, Row, Statements, by};

/// Limit of counted tokens: the sum of two such numbers does not overflow.
const MOST_TOKENS: i64 = i64::MAX / 2;

/// The query whose rows [`CounterChanges::count`] needs.
const CHANGED: &str = formatcp!(
    "SELECT no, chore, root, {PROCESS_COLUMNS}
     FROM #processes WHERE no IN :list ORDER BY no"
);

/// Outcome of changes to counters.
#[derive(Default)]
pub(in crate::queue::store) struct Counted {
    /// Processes whose jobs may start.
    pub startable: BTreeSet<i64>,
    /// The processes that changed, as they are now, without those that are being deleted.
    pub states: Vec<ProcessState>,
}

impl CounterChanges {
    /// Updates the counters in the rows, which are locked.
    pub(in crate::queue::store) fn write(
        &self,
        tx: &mut dyn Statements,
        now: Timestamp,
    ) -> Result<Counted, Fault> {
        if self.processes.is_empty() {
            return Ok(Counted::default());
        }
        for (no, change) in &self.processes {
            add(tx, *no, change, now)?;
        }
        spent::add(tx, &self.spent, now)?;
        let numbers: Vec<i64> = self.processes.keys().copied().collect();
        let rows = tx.rows_in(CHANGED, &numbers)?;
        self.count(tx, rows, now)
    }

    /// Applies the consequences of written counters.
    fn count(
        &self,
        tx: &mut dyn Statements,
        rows: Vec<Row>,
        now: Timestamp,
    ) -> Result<Counted, Fault> {
        let (mut counted, mut roots) = (Counted::default(), Vec::new());
        for mut row in rows {
            let (no, chore): (i64, i64) = (row.at(0)?, row.at(1)?);
            if !stops_starting(chore) {
                counted.startable.insert(no);
            }
            let root: Option<i64> = row.at(2)?;
            let state = rows::process(&mut row.behind(3))?;
            let Some(change) = self.processes.get(&no) else {
                continue;
            };
            let used = change.cost.saturating_add(change.lost);
            if let Some(root) = root.filter(|_| used > 0 || change.has_usage()) {
                // It has a lower number, and was not locked before: a deadlock makes the server repeat one of the two.
                let usage = Change {
                    counts: [0; 7],
                    total: 0,
                    consumed: 0,
                    ..*change
                };
                add(tx, root, &usage, now)?;
                roots.push(root);
            }
            if chore != DELETING {
                counted.states.push(state);
            }
        }
        if !roots.is_empty() {
            // Workers learn from them what the budgets have left.
            counted.states.extend(states(tx, &roots)?);
        }
        Ok(counted)
    }
}

fn states(tx: &mut dyn Statements, numbers: &[i64]) -> Result<Vec<ProcessState>, Fault> {
    let sql = formatcp!(
        "SELECT {PROCESS_COLUMNS} FROM #processes WHERE no IN :list AND chore <> {DELETING} ORDER BY no"
    );
    let rows = tx.rows_in(sql, numbers)?;
    rows.into_iter()
        .map(|mut row| rows::process(&mut row))
        .collect()
}

/// Adds a change to a process.
fn add(tx: &mut dyn Statements, no: i64, change: &Change, now: Timestamp) -> Result<(), Fault> {
    let [pending, _, in_progress, at_provider, ends @ ..] = change.counts;
    let [completed, failed, cancelled] = ends;
    let sql = formatcp!(
        "UPDATE #processes SET total = total + ?, pending = pending + ?,
           in_progress = in_progress + ?, at_provider = at_provider + ?,
           completed = completed + ?, failed = failed + ?,
           cancelled_jobs = cancelled_jobs + ?, consumed = consumed + ?,
           input_tokens = LEAST(input_tokens + ?, {MOST_TOKENS}),
           output_tokens = LEAST(output_tokens + ?, {MOST_TOKENS}),
           cost_picos = LEAST(cost_picos + ?, {MOST_TOKENS}), unpriced = unpriced + ?,
           budget_used = LEAST(budget_used + ?, {MOST}), changed_at = GREATEST(changed_at, ?)
         WHERE no = ?"
    );
    let counts = [
        [change.total, pending, in_progress, at_provider],
        [completed, failed, cancelled, change.consumed],
    ];
    let mut values: Vec<Value> = counts
        .as_flattened()
        .iter()
        .copied()
        .map(Value::from)
        .collect();
    values.extend(by![change.input_tokens, change.output_tokens, change.cost]);
    let used = change.cost.saturating_add(change.lost);
    values.extend(by![change.unpriced, used, now.0, no]);
    tx.defer(sql, values)
}
