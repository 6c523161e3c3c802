//! What was spent on each model on each day, in the same transactions as the counters of processes. The rows outlive jobs
//! and processes.

use std::collections::BTreeMap;

use const_format::formatcp;

use crate::base::{Day, Timestamp, Usd};
use crate::queue::job::DaySpent;
use crate::queue::store::counters::SpentMore;

use super::statements::{Fault, Row, Statements, by};

/// The limit of a sum, as of the counters of processes.
const MOST: i64 = i64::MAX / 2;

const ADD: &str = formatcp!(
    "INSERT INTO #spent (day, model, calls, tokens, cost_picos) VALUES (?, ?, ?, ?, ?) ON DUPLICATE KEY UPDATE
       calls = LEAST(#spent.calls + VALUES(calls), {MOST}), tokens = LEAST(#spent.tokens + VALUES(tokens), {MOST}),
       cost_picos = LEAST(#spent.cost_picos + VALUES(cost_picos), {MOST})"
);

/// Adds what calls were billed on this day.
pub(super) fn add(
    tx: &mut dyn Statements,
    spent: &BTreeMap<String, SpentMore>,
    now: Timestamp,
) -> Result<(), Fault> {
    let day = i64::from(Day::of(now).number());
    for (model, more) in spent {
        let values = by![day, model.clone(), more.calls, more.tokens, more.cost];
        tx.defer(ADD, values)?;
    }
    Ok(())
}

/// The rows from this day on, in order.
pub(super) fn since(tx: &mut dyn Statements, day: Option<Day>) -> Result<Vec<DaySpent>, Fault> {
    let sql = "SELECT day, model, calls, tokens, cost_picos FROM #spent WHERE day >= ? ORDER BY day, model";
    let first = day.map_or(i64::MIN, |day| i64::from(day.number()));
    tx.rows(sql, by![first])?.into_iter().map(read).collect()
}

fn read(mut row: Row) -> Result<DaySpent, Fault> {
    let day = i32::try_from(row.at::<i64>(0)?);
    Ok(DaySpent {
        day: Day(day.map_err(|_| Fault::Odd("a day that does not exist"))?),
        model: row.at(1)?,
        calls: row.at(2)?,
        tokens: row.at(3)?,
        cost_usd: Usd::from_picos(row.at(4)?),
    })
}
