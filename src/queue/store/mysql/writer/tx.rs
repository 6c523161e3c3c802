//! Statements of a transaction, as texts with their values: several are sent together, which saves round trips to the server.

use mysql::Conn;
use mysql::prelude::Queryable;
use rusqlite::types::Value;

use crate::base::json_text::hex;
use crate::queue::store::statements::{InsertOf, LIST, Query, Row, Sql};

use super::{Database, Fault};

/// A connection, within a transaction or for single statements.
pub(super) struct Tx<'a> {
    conn: &'a mut Conn,
    database: &'a Database,
    /// Whether it has changed rows.
    pub(super) wrote: bool,
    /// Statements that are sent together with the next one, because each round trip takes about a millisecond.
    deferred: Vec<String>,
}

/// Maximum number of bytes that are deferred. A server with a low packet limit gets less.
const MOST_BYTES: usize = 1 << 20;

/// A value within a statement. Whether a backslash escapes a character in it is what the server said last: another
/// program may have set the mode of a session that a proxy shares.
fn literal(value: Value, no_backslash: bool) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => format!("{number:e}"),
        Value::Text(text) => quoted(&text, no_backslash),
        Value::Blob(bytes) => format!("X'{}'", hex(&bytes)),
    }
}

/// A text within a statement. Only what would end it is changed, because a server reads a text with escaped characters twice,
/// and JSON has many quotation marks.
fn quoted(text: &str, no_backslash: bool) -> String {
    let mut text = text.replace('\'', "''");
    if !no_backslash {
        text = text.replace('\\', r"\\");
    }
    format!("'{text}'")
}

/// The number of bytes of a text within a statement, at most.
pub(super) fn size(text: &str) -> usize {
    text.len() + text.matches(['\'', '\\']).count()
}

/// A statement with its values in its text.
fn with_values(sql: &str, by: Vec<Value>, no_backslash: bool) -> String {
    let mut text = String::with_capacity(sql.len());
    let mut rest = sql;
    for value in by {
        let Some(at) = rest.find(['?', ':']) else {
            break;
        };
        text += &rest[..at];
        let is_list = rest[at..].starts_with(LIST);
        rest = &rest[at + if is_list { LIST.len() } else { 1 }..];
        text += &match value {
            Value::Text(numbers) if is_list && numbers == "[]" => "(NULL)".to_owned(),
            Value::Text(numbers) if is_list => numbers.replace('[', "(").replace(']', ")"),
            value => literal(value, no_backslash),
        };
    }
    text + rest
}

/// A row. The values of a server's reply to a text are texts, and NULL.
fn row(row: mysql::Row) -> Row {
    let cells = row.unwrap().into_iter().map(|value| match value {
        mysql::Value::Bytes(bytes) => Value::Blob(bytes),
        _ => Value::Null,
    });
    Row::new(cells.collect())
}

impl<'a> Tx<'a> {
    pub(super) fn new(conn: &'a mut Conn, database: &'a Database, deferred: Vec<String>) -> Self {
        Self {
            conn,
            database,
            wrote: false,
            deferred,
        }
    }

    /// A statement with its values, and with the names of the tables.
    fn text(&self, sql: &str, by: Vec<Value>) -> String {
        let no_backslash = self.conn.no_backslash_escape();
        with_values(&self.database.named(sql), by, no_backslash)
    }

    /// Defers a text that changes rows until the next statement, or the commit.
    fn defer_text(&mut self, text: String) -> Result<(), Fault> {
        let (most, length) = (self.most_deferred(), text.len());
        let bytes: usize = self.deferred.iter().map(String::len).sum();
        if bytes + length > most {
            self.flush()?;
        }
        self.deferred.push(text);
        self.wrote = true;
        // A long one is sent by itself.
        if length > most { self.flush() } else { Ok(()) }
    }

    fn most_deferred(&self) -> usize {
        MOST_BYTES.min(self.database.pool.most_bytes() / 4)
    }

    /// Sends the deferred statements.
    pub(super) fn flush(&mut self) -> Result<(), Fault> {
        if !self.deferred.is_empty() {
            self.send(Vec::new())?;
        }
        Ok(())
    }

    /// Sends the deferred statements and these. Returns the rows of these, and the number of rows that the last one
    /// found.
    pub(super) fn send(&mut self, statements: Vec<String>) -> Result<(Vec<Vec<Row>>, u64), Fault> {
        let before = self.deferred.len();
        let mut all = std::mem::take(&mut self.deferred);
        all.extend(statements);
        let text = all.join(";");
        self.database
            .before_sending(format_args!("a change of the queue"), text.len())?;
        let mut result = self.conn.query_iter(text)?;
        let (mut sets, mut found) = (Vec::with_capacity(all.len()), 0);
        while let Some(set) = result.iter() {
            found = set.affected_rows();
            let rows: Result<Vec<Row>, mysql::Error> = set.map(|found| found.map(row)).collect();
            sets.push(rows?);
        }
        Ok((sets.split_off(before.min(sets.len())), found))
    }
}

impl Sql for Tx<'_> {
    fn is_server(&self) -> bool {
        true
    }

    fn rows(&mut self, sql: &str, by: Vec<Value>) -> Result<Vec<Row>, Fault> {
        let rows = self.rows_of_all(vec![(sql, by)])?.pop();
        Ok(rows.unwrap_or_default())
    }

    fn run(&mut self, sql: &str, by: Vec<Value>) -> Result<u64, Fault> {
        let (_, found) = self.send(vec![self.text(sql, by)])?;
        self.wrote |= found > 0;
        Ok(found)
    }

    fn defer(&mut self, sql: &str, by: Vec<Value>) -> Result<(), Fault> {
        self.defer_text(self.text(sql, by))
    }

    fn rows_of_all(&mut self, queries: Vec<Query<'_>>) -> Result<Vec<Vec<Row>>, Fault> {
        let texts = queries.into_iter().map(|(sql, by)| self.text(sql, by));
        let texts = texts.collect();
        Ok(self.send(texts)?.0)
    }

    /// Several rows with each statement.
    fn insert_rows(
        &mut self,
        (head, tail): InsertOf,
        rows: &mut dyn Iterator<Item = Vec<Value>>,
    ) -> Result<(), Fault> {
        let (head, tail) = (self.database.named(head), self.database.named(tail));
        let no_backslash = self.conn.no_backslash_escape();
        let mut text = String::new();
        for row in rows {
            let cells = row.into_iter().map(|value| literal(value, no_backslash));
            let cells: Vec<String> = cells.collect();
            let cells = cells.join(",");
            if text.len() + cells.len() > self.most_deferred() && !text.is_empty() {
                self.defer_text(std::mem::take(&mut text) + &tail)?;
            }
            text += if text.is_empty() { &head } else { "," };
            text.extend([" (", &cells, ") "]);
        }
        if !text.is_empty() {
            self.defer_text(text + &tail)?;
        }
        Ok(())
    }

    fn last_id(&self) -> i64 {
        i64::try_from(self.conn.last_insert_id()).unwrap_or(i64::MAX)
    }
}
