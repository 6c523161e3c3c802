//! What was paid, in the same transactions as the counters of processes. The rows outlive jobs and processes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use const_format::formatcp;
use rusqlite::types::Value;
use sha2::{Digest as _, Sha256};

use crate::base::{Charge, ChargeSum, Day, Error, Timestamp, Usd};
use crate::money::ledger::{LedgerColumn, LedgerQuery};
use crate::queue::store::new_charges::NewCharges;
use crate::queue::store::rows::bounded;

use super::statements::{Dialect, Fault, Queries as _, Row, Statements, by, id_of};
use super::{Again, SqlStore};

/// Number of rows that are merged at once.
const MERGED: usize = 500;

/// How often a program looks for rows to merge.
const MERGED_EVERY: Duration = Duration::from_secs(10);

/// Finds rows to merge. With an order, SQLite would read the whole table instead of the index of these rows.
pub(crate) const PASSED: &str = formatcp!(
    "SELECT hash FROM #charges WHERE passing = 1 AND process NOT IN (SELECT id FROM #processes) LIMIT {MERGED}"
);

const COLUMNS: &str = "day, provider, model, tier, api_key, process, owner, calls, unpriced, input_tokens, \
     cached_input_tokens, output_tokens, cost_picos";

/// A row for each payee, day, process and owner.
const INSERT: &str = formatcp!(
    "INSERT INTO #charges (hash, passing, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
);

/// The process of a charge.
struct Process {
    id: String,
    owner: Option<String>,
    /// Whether nobody looks for its charges after its end.
    is_passing: bool,
}

/// The processes with these numbers that exist.
fn processes(tx: &mut dyn Statements, numbers: &[i64]) -> Result<BTreeMap<i64, Process>, Fault> {
    let mut found = BTreeMap::new();
    if numbers.is_empty() {
        return Ok(found);
    }
    let sql = "SELECT no, id, owner, total = 1 OR IFNULL(info, '') LIKE '%\"direct\":true%'
         FROM #processes WHERE no IN :list";
    for mut row in tx.rows_in(sql, numbers)? {
        let process = Process {
            id: id_of(&row.at::<Vec<u8>>(1)?)?.to_string(),
            owner: row.at(2)?,
            is_passing: row.at::<i64>(3)? != 0,
        };
        found.insert(row.at(0)?, process);
    }
    Ok(found)
}

/// The sums of a row, and their limit, as of the counters of processes.
const SUMS: [&str; 6] = [
    "calls",
    "unpriced",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "cost_picos",
];
const MOST: i64 = i64::MAX / 2;

/// The statements that book what calls were billed, with their values.
pub(crate) fn statements(
    tx: &mut dyn Statements,
    charges: &NewCharges,
    now: Timestamp,
) -> Result<Vec<(String, Vec<Value>)>, Fault> {
    let numbers: BTreeSet<i64> = charges.iter().map(|(_, process)| process).collect();
    let processes = processes(tx, &Vec::from_iter(numbers))?;
    let mut rows: BTreeMap<Vec<u8>, (Charge, bool)> = BTreeMap::new();
    for (charge, no) in charges.iter() {
        let mut charge = charge.clone();
        // The process may be deleted. The charge names it then, unless it comes from a worker that knows nothing of it.
        let process = processes.get(&no);
        if charge.run.is_none() {
            charge.run = process.map(|process| process.id.clone());
            charge.day = Day::of(now);
        }
        if charge.owner.is_none() {
            charge.owner = process.and_then(|process| process.owner.clone());
        }
        let is_passing = match process {
            Some(process) => process.is_passing,
            None => charge.run.is_some(),
        };
        let sum = charge.sum;
        let row = rows.entry(hash(&charge));
        row.and_modify(|(known, _)| known.sum += sum)
            .or_insert((charge, is_passing));
    }
    let sql = upsert(tx.dialect());
    let rows = rows.into_iter();
    rows.map(|(hash, (charge, is_passing))| Ok((sql.clone(), values(hash, &charge, is_passing)?)))
        .collect()
}

/// The key of a row: charges with the same key are summed.
fn hash(charge: &Charge) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(charge.day.number().to_be_bytes());
    for text in [
        Some(&*charge.provider),
        charge.model.as_deref(),
        Some(&*charge.tier),
        charge.key.as_deref(),
        charge.run.as_deref(),
        charge.owner.as_deref(),
    ] {
        let text = text.unwrap_or_default();
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    hash.finalize().to_vec()
}

fn upsert(dialect: Dialect) -> String {
    let (start, new) = match dialect {
        Dialect::Sqlite => ("ON CONFLICT (hash) DO UPDATE SET", "excluded.#"),
        #[cfg(feature = "mysql")]
        Dialect::Mysql => ("ON DUPLICATE KEY UPDATE", "VALUES(#)"),
    };
    let sets = SUMS.map(|name| {
        let new = new.replace('#', name);
        format!("{name} = LEAST(#charges.{name} + {new}, {MOST})")
    });
    format!("{INSERT} {start} {}", sets.join(", "))
}

fn values(hash: Vec<u8>, charge: &Charge, is_passing: bool) -> Result<Vec<Value>, Fault> {
    let run = charge.run.as_deref().map(str::parse::<uuid::Uuid>);
    let run = run
        .transpose()
        .map_err(|_| Fault::Odd("a charge of no process"))?;
    let run = run.map(|id| id.as_bytes().to_vec());
    let ChargeSum {
        calls,
        unpriced,
        input_tokens,
        cached_input_tokens,
        output_tokens,
        cost_usd,
    } = charge.sum;
    Ok(by![
        hash,
        i64::from(is_passing),
        i64::from(charge.day.number()),
        charge.provider.clone(),
        charge.model.clone(),
        charge.tier.clone(),
        charge.key.clone(),
        run,
        charge.owner.clone(),
        bounded(calls),
        bounded(unpriced),
        bounded(input_tokens),
        bounded(cached_input_tokens),
        bounded(output_tokens),
        bounded(cost_usd.picos()),
    ])
}

fn read(mut row: Row) -> Result<Charge, Fault> {
    let sum = ChargeSum {
        calls: row.at(7)?,
        unpriced: row.at(8)?,
        input_tokens: row.at(9)?,
        cached_input_tokens: row.at(10)?,
        output_tokens: row.at(11)?,
        cost_usd: Usd::from_picos(row.at(12)?),
    };
    payment(row, sum)
}

/// A charge of this sum, from the columns of its payment.
fn payment(mut row: Row, sum: ChargeSum) -> Result<Charge, Fault> {
    let day: i64 = row.at(0)?;
    let run: Option<Vec<u8>> = row.at(5)?;
    let day = Day(i32::try_from(day).map_err(|_| Fault::Odd("a day that does not exist"))?);
    let run = run.map(|id| id_of(&id)).transpose()?;
    let charge = Charge::new(day, sum).provider(row.at::<String>(1)?);
    Ok(charge
        .model(row.at(2)?)
        .tier(&row.at::<String>(3)?)
        .key(row.at(4)?)
        .run(run.map(|id| id.to_string()))
        .owner(row.at(6)?))
}

/// Calls back for each row of these days, both included.
pub(crate) fn each(
    tx: &mut dyn Statements,
    days: [Option<Day>; 2],
    act: &mut dyn FnMut(Charge),
) -> Result<(), Fault> {
    let [since, until] = days.map(|day| day.map(|day| i64::from(day.number())));
    let sql = formatcp!("SELECT {COLUMNS} FROM #charges WHERE day BETWEEN ? AND ?");
    let by = by![since.unwrap_or(i64::MIN), until.unwrap_or(i64::MAX)];
    tx.each(sql, by, &mut |row| {
        act(read(row)?);
        Ok(true)
    })
}

/// The columns of a payment, as in [`COLUMNS`], with what replaces each one that does not form a group.
const GROUPED: [(&[LedgerColumn], &str, &str); 7] = [
    (&[LedgerColumn::Day, LedgerColumn::Month], "day", "0"),
    (
        &[LedgerColumn::Provider, LedgerColumn::Model],
        "provider",
        "''",
    ),
    (&[LedgerColumn::Model], "model", "NULL"),
    (&[LedgerColumn::Tier], "tier", "''"),
    (&[LedgerColumn::Key], "api_key", "NULL"),
    (&[LedgerColumn::Run], "process", "NULL"),
    (&[LedgerColumn::Owner], "owner", "NULL"),
];

/// A sum in two parts, because it may exceed an integer.
fn in_parts(name: &str) -> String {
    format!("CAST(SUM({name} DIV 4294967296) AS SIGNED), CAST(SUM({name} & 4294967295) AS SIGNED)")
}

/// The sums of the groups that a query selects. Months are grouped by their days; a column that forms no group has no
/// meaning in the result.
pub(crate) fn sums(tx: &mut dyn Statements, query: &LedgerQuery) -> Result<Vec<Charge>, Fault> {
    let is_grouped = |of: &[LedgerColumn]| of.iter().any(|column| query.by.contains(column));
    let (mut shown, mut groups) = (Vec::new(), Vec::new());
    for (of, name, otherwise) in GROUPED {
        if is_grouped(of) {
            groups.push(name);
            shown.push(name);
        } else {
            shown.push(otherwise);
        }
    }
    let parts = SUMS.map(in_parts).join(", ");
    let days = [query.since, query.until].map(|day| day.map(|day| i64::from(day.number())));
    let mut by = by![days[0].unwrap_or(i64::MIN), days[1].unwrap_or(i64::MAX)];
    let of_owner = match &query.owner {
        Some(owner) => {
            by.push(owner.clone().into());
            "AND owner = ?"
        }
        None => "",
    };
    let grouping = if groups.is_empty() {
        String::new()
    } else {
        format!("GROUP BY {}", groups.join(", "))
    };
    let sql = format!(
        "SELECT {}, {parts}, COUNT(*) FROM #charges WHERE day BETWEEN ? AND ? {of_owner} {grouping}",
        shown.join(", ")
    );
    let mut found = Vec::new();
    for mut row in tx.rows(&sql, by)? {
        // Without a group there is a row, even if no charge is selected.
        if row.at::<i64>(19)? > 0 {
            let sum = summed(&mut row)?;
            found.push(payment(row, sum)?);
        }
    }
    Ok(found)
}

/// The sums whose parts follow the columns of a payment.
fn summed(row: &mut Row) -> Result<ChargeSum, Fault> {
    let mut sum = |at: usize| -> Result<u64, Fault> {
        let (high, low): (i64, i64) = (row.at(7 + 2 * at)?, row.at(8 + 2 * at)?);
        let sum = i128::from(high) * (1 << 32) + i128::from(low);
        Ok(u64::try_from(sum).unwrap_or(u64::MAX))
    };
    Ok(ChargeSum {
        calls: sum(0)?,
        unpriced: sum(1)?,
        input_tokens: sum(2)?,
        cached_input_tokens: sum(3)?,
        output_tokens: sum(4)?,
        cost_usd: Usd::from_picos(sum(5)?),
    })
}

/// Gives the rows of a process to another one.
pub(super) fn give(tx: &mut dyn Statements, from: i64, to: i64) -> Result<(), Fault> {
    let Some(to) = processes(tx, &[to])?.remove(&to) else {
        return Ok(());
    };
    let sql = formatcp!(
        "SELECT {COLUMNS}, hash FROM #charges
         WHERE process = (SELECT id FROM #processes WHERE no = ?) ORDER BY hash FOR UPDATE"
    );
    for row in tx.rows(sql, by![from])? {
        rebook(tx, row, Some(&to))?;
    }
    Ok(())
}

/// Books a row for another process, or for none.
fn rebook(tx: &mut dyn Statements, row: Row, to: Option<&Process>) -> Result<(), Fault> {
    let mut cells = row;
    let old: Vec<u8> = cells.at(13)?;
    let mut charge = read(cells)?;
    charge.run = to.map(|to| to.id.clone());
    if let Some(to) = to {
        charge.owner.clone_from(&to.owner);
    }
    tx.run("DELETE FROM #charges WHERE hash = ?", by![old])?;
    let sql = upsert(tx.dialect());
    let is_passing = to.is_some_and(|to| to.is_passing);
    tx.run(&sql, values(hash(&charge), &charge, is_passing)?)?;
    Ok(())
}

/// Merges rows of processes that no longer exist and that nobody looks for: of single jobs and direct calls. Returns
/// whether more are left.
pub(crate) fn merge_passing(store: &impl SqlStore, now: Timestamp) -> Result<bool, Error> {
    let merged_at = &store.shared().charges_merged_at;
    let last = Timestamp(merged_at.load(Ordering::Relaxed));
    if last <= now && now.since(last) < MERGED_EVERY {
        return Ok(false);
    }
    let mut found: Vec<Vec<u8>> = store.read(|tx| tx.column(PASSED, Vec::new()))?;
    let is_more = found.len() == MERGED;
    if !is_more {
        merged_at.store(now.0, Ordering::Relaxed);
    }
    if found.is_empty() {
        return Ok(false);
    }
    // All programs lock the rows in one order.
    found.sort_unstable();
    store.write_lazily(Again::Harmless, |tx| {
        for hash in &found {
            let sql = formatcp!(
                "SELECT {COLUMNS}, hash FROM #charges WHERE hash = ? AND passing = 1 FOR UPDATE"
            );
            if let Some(row) = tx.first(sql, by![hash.clone()])? {
                rebook(tx, row, None)?;
            }
        }
        Ok(())
    })?;
    Ok(is_more)
}

/// Processes whose charges differ from their counters, and whether calls lack in the charges. Charges of the days before
/// a process are of an earlier one with its id; a day more, because clocks differ.
pub(super) const UNBALANCED: &str = "SELECT id, input_tokens > booked_input OR output_tokens > booked_output
       OR cost_picos > booked_cost
     FROM (
       SELECT p.id, p.input_tokens, p.output_tokens, p.cost_picos,
         IFNULL(CAST(SUM(b.input_tokens) AS SIGNED), 0) AS booked_input,
         IFNULL(CAST(SUM(b.output_tokens) AS SIGNED), 0) AS booked_output,
         IFNULL(CAST(SUM(b.cost_picos) AS SIGNED), 0) AS booked_cost
       FROM #processes p LEFT JOIN #charges b ON b.process = p.id AND b.day * 86400000 + 172800000 > p.created_at
       GROUP BY p.no, p.id, p.input_tokens, p.output_tokens, p.cost_picos) AS compared
     WHERE input_tokens <> booked_input OR output_tokens <> booked_output OR cost_picos <> booked_cost";
