//! Translates the statements of [`sql`](crate::queue::store::sql), which are written in MySQL's SQL, for SQLite.

use rusqlite::types::Value;
use rusqlite::{Connection, Statement, params_from_iter};

use crate::queue::store::sql::statements::{Dialect, Fault, LIST, Row, Statements, Table};

/// MySQL's words, and SQLite's. A transaction locks the whole database, so row locks are dropped.
const WORDS: [(&str, &str); 14] = [
    ("#", ""),
    (" FOR UPDATE SKIP LOCKED", ""),
    (" FOR UPDATE", ""),
    (" LOCK IN SHARE MODE", ""),
    (" FORCE INDEX (PRIMARY)", " NOT INDEXED"),
    (" FORCE INDEX (to_claim)", " INDEXED BY jobs_to_claim"),
    (" FORCE INDEX (in_batch)", " INDEXED BY jobs_in_batch"),
    (" FORCE INDEX (by_status)", ""),
    (" FORCE INDEX (by_worker)", " INDEXED BY jobs_by_worker"),
    (" STRAIGHT_JOIN ", " CROSS JOIN "),
    (" DIV 4294967296", " >> 32"),
    ("GREATEST(", "max("),
    ("LEAST(", "min("),
    (" progress", " cursor"),
];

pub(super) fn translated(sql: &str) -> String {
    let mut text = sql.to_owned();
    for (mysql, sqlite) in WORDS {
        if text.contains(mysql) {
            text = text.replace(mysql, sqlite);
        }
    }
    text
}

/// Binds the numbers of a [`LIST`] as one JSON text, so that the statement stays the same.
fn listing(sql: &str, numbers: &[i64]) -> (String, Vec<Value>) {
    let sql = sql.replace(LIST, "(SELECT value FROM json_each(?))");
    let numbers = serde_json::to_string(numbers).unwrap_or_default();
    (sql, vec![Value::Text(numbers)])
}

/// Calls back for each row until it returns false.
fn each_row(
    statement: &mut Statement<'_>,
    by: Vec<Value>,
    act: &mut dyn FnMut(Row) -> Result<bool, Fault>,
) -> Result<(), Fault> {
    let columns = statement.column_count();
    let mut found = statement.query(params_from_iter(by))?;
    while let Some(row) = found.next()? {
        let mut cells = Vec::with_capacity(columns);
        for at in 0..columns {
            cells.push(row.get(at)?);
        }
        if !act(Row::new(cells))? {
            break;
        }
    }
    Ok(())
}

fn all(statement: &mut Statement<'_>, by: Vec<Value>) -> Result<Vec<Row>, Fault> {
    let mut rows = Vec::new();
    each_row(statement, by, &mut |row| {
        rows.push(row);
        Ok(true)
    })?;
    Ok(rows)
}

impl Statements for &Connection {
    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    fn rows(&mut self, sql: &str, by: Vec<Value>) -> Result<Vec<Row>, Fault> {
        all(&mut *self.prepare_cached(&translated(sql))?, by)
    }

    fn run(&mut self, sql: &str, by: Vec<Value>) -> Result<u64, Fault> {
        let mut statement = self.prepare_cached(&translated(sql))?;
        Ok(statement.execute(params_from_iter(by))? as u64)
    }

    fn each(
        &mut self,
        sql: &str,
        by: Vec<Value>,
        act: &mut dyn FnMut(Row) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        each_row(&mut *self.prepare_cached(&translated(sql))?, by, act)
    }

    fn rows_in(&mut self, sql: &str, list: &[i64]) -> Result<Vec<Row>, Fault> {
        let (sql, by) = listing(sql, list);
        self.rows(&sql, by)
    }

    fn run_in(&mut self, sql: &str, list: &[i64]) -> Result<u64, Fault> {
        let (sql, by) = listing(sql, list);
        self.run(&sql, by)
    }

    fn rows_once(&mut self, sql: &str) -> Result<Vec<Row>, Fault> {
        all(&mut self.prepare(&translated(sql))?, Vec::new())
    }

    fn run_once(&mut self, sql: &str) -> Result<u64, Fault> {
        Ok(self.execute(&translated(sql), [])? as u64)
    }

    fn insert_rows(
        &mut self,
        head: &str,
        rows: &mut dyn Iterator<Item = Vec<Value>>,
    ) -> Result<(), Fault> {
        let mut rows = rows.peekable();
        let Some(first) = rows.peek() else {
            return Ok(());
        };
        let marks = vec!["?"; first.len()].join(", ");
        let mut insert = self.prepare_cached(&translated(&format!("{head} ({marks})")))?;
        for row in rows {
            insert.execute(params_from_iter(row))?;
        }
        Ok(())
    }

    fn upsert_rows(
        &mut self,
        table: &Table,
        rows: &mut dyn Iterator<Item = Vec<Value>>,
    ) -> Result<(), Fault> {
        let columns = table.columns.join(", ");
        let head = format!("INSERT OR REPLACE INTO {} ({columns}) VALUES", table.name);
        self.insert_rows(&head, rows)
    }

    fn last_id(&self) -> i64 {
        self.last_insert_rowid()
    }
}
