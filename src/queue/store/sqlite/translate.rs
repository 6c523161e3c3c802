//! Translates the statements of [`sql`](crate::queue::store::sql), which are written in MySQL's SQL, for SQLite.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use crate::queue::store::statements::{Fault, InsertOf, LIST, Query, Row, Sql};

/// MySQL's words, and SQLite's. A transaction locks the whole database, so row locks are dropped.
const WORDS: [(&str, &str); 18] = [
    ("#", ""),
    (LIST, "(SELECT value FROM json_each(?))"),
    (" FOR UPDATE SKIP LOCKED", ""),
    (" FOR UPDATE", ""),
    (" LOCK IN SHARE MODE", ""),
    (" FORCE INDEX (PRIMARY)", " NOT INDEXED"),
    (" FORCE INDEX (to_claim)", " INDEXED BY jobs_to_claim"),
    (" FORCE INDEX (in_batch)", " INDEXED BY jobs_in_batch"),
    (" FORCE INDEX (by_status)", ""),
    (" FORCE INDEX (by_parent)", ""),
    (" FORCE INDEX (by_chore)", ""),
    (" STRAIGHT_JOIN ", " CROSS JOIN "),
    (" DIV 4294967296", " >> 32"),
    (" ON DUPLICATE KEY UPDATE", " ON CONFLICT DO UPDATE SET"),
    (" VALUES(", " (excluded."),
    ("INSERT IGNORE ", "INSERT OR IGNORE "),
    ("GREATEST(", "max("),
    ("LEAST(", "min("),
];

fn translated(sql: &str) -> String {
    let mut text = sql.to_owned();
    for (mysql, sqlite) in WORDS {
        if text.contains(mysql) {
            text = text.replace(mysql, sqlite);
        }
    }
    text
}

/// Number of statements that are kept with their translations.
const MOST_KEPT: usize = 256;

/// The translation of a statement that is used again and again.
pub(super) fn kept(sql: &str) -> Rc<str> {
    thread_local!(static KEPT: RefCell<HashMap<String, Rc<str>>> = RefCell::default());
    KEPT.with_borrow_mut(|kept| {
        if let Some(known) = kept.get(sql) {
            return known.clone();
        }
        if kept.len() >= MOST_KEPT {
            kept.clear();
        }
        let new: Rc<str> = translated(sql).into();
        kept.insert(sql.to_owned(), new.clone());
        new
    })
}

impl Sql for &Connection {
    fn is_server(&self) -> bool {
        false
    }

    fn rows(&mut self, sql: &str, by: Vec<Value>) -> Result<Vec<Row>, Fault> {
        let mut statement = self.prepare_cached(&kept(sql))?;
        let columns = statement.column_count();
        let rows = statement.query_map(params_from_iter(by), |row| {
            let cells = (0..columns).map(|at| row.get(at));
            cells.collect::<Result<_, _>>().map(Row::new)
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn run(&mut self, sql: &str, by: Vec<Value>) -> Result<u64, Fault> {
        let mut statement = self.prepare_cached(&kept(sql))?;
        Ok(statement.execute(params_from_iter(by))? as u64)
    }

    fn rows_of_all(&mut self, queries: Vec<Query<'_>>) -> Result<Vec<Vec<Row>>, Fault> {
        let queries = queries.into_iter();
        queries.map(|(sql, by)| self.rows(sql, by)).collect()
    }

    fn insert_rows(
        &mut self,
        (head, tail): InsertOf,
        rows: &mut dyn Iterator<Item = Vec<Value>>,
    ) -> Result<(), Fault> {
        let mut rows = rows.peekable();
        let Some(first) = rows.peek() else {
            return Ok(());
        };
        let marks = vec!["?"; first.len()].join(", ");
        let mut insert = self.prepare_cached(&kept(&format!("{head} ({marks}) {tail}")))?;
        for row in rows {
            insert.execute(params_from_iter(row))?;
        }
        Ok(())
    }

    fn last_id(&self) -> i64 {
        self.last_insert_rowid()
    }
}
