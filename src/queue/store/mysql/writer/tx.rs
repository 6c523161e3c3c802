//! Statements of a transaction. Statements without bound values are sent together, which saves round trips to the
//! server.

use mysql::Conn;
use mysql::prelude::Queryable;
use rusqlite::types::Value;

use crate::base::json_text::hex;
use crate::queue::store::statements::{Dialect, InsertOf, LIST, Query, Row, Sql};

use super::{Database, Fault};

/// A connection, within a transaction or for single statements.
pub(super) struct Tx<'a> {
    conn: &'a mut Conn,
    database: &'a Database,
    /// Whether it has changed rows.
    pub(super) wrote: bool,
    /// Statements that are sent together with the next one, because each round trip takes about a millisecond.
    pub(super) deferred: Vec<String>,
}

/// Maximum number of bytes that are deferred. A server with a low packet limit gets less.
const MOST_BYTES: usize = 1 << 20;

/// A row of more bytes is bound, not written into the text of a statement.
const LONGEST_LITERAL: usize = 16 << 10;

/// Approximate number of bytes of a row in a statement.
fn size(row: &[Value]) -> usize {
    let cells = row.iter().map(|value| match value {
        Value::Text(text) => text.len() + 9,
        Value::Blob(bytes) => bytes.len() + 9,
        _ => 9,
    });
    cells.sum()
}

/// A value in the driver's type.
fn bound(value: Value) -> mysql::Value {
    match value {
        Value::Null => mysql::Value::NULL,
        Value::Integer(number) => mysql::Value::Int(number),
        Value::Real(number) => mysql::Value::Double(number),
        Value::Text(text) => mysql::Value::Bytes(text.into_bytes()),
        Value::Blob(bytes) => mysql::Value::Bytes(bytes),
    }
}

/// A value within a statement. Texts are written in hexadecimal digits, so that none ends its literal.
fn literal(value: Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => format!("{number:e}"),
        Value::Text(text) => format!("CONVERT(X'{}' USING utf8mb4)", hex(text.as_bytes())),
        Value::Blob(bytes) => format!("X'{}'", hex(&bytes)),
    }
}

/// A statement with its values in its text.
fn with_values(sql: &str, by: Vec<Value>) -> String {
    let mut text = String::with_capacity(sql.len() + size(&by));
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
            value => literal(value),
        };
    }
    text + rest
}

fn cell(value: mysql::Value) -> Result<Value, Fault> {
    Ok(match value {
        mysql::Value::NULL => Value::Null,
        mysql::Value::Int(number) => Value::Integer(number),
        mysql::Value::UInt(number) => match number.try_into() {
            Ok(number) => Value::Integer(number),
            Err(_) => return Err(Fault::Odd("a number that is too large")),
        },
        mysql::Value::Float(number) => Value::Real(number.into()),
        mysql::Value::Double(number) => Value::Real(number),
        mysql::Value::Bytes(bytes) => Value::Blob(bytes),
        _ => return Err(Fault::Odd("a column of another type")),
    })
}

fn row(row: mysql::Row) -> Result<Row, Fault> {
    let cells = row.unwrap().into_iter().map(cell);
    Ok(Row::new(cells.collect::<Result<_, _>>()?))
}

impl<'a> Tx<'a> {
    pub(super) fn new(conn: &'a mut Conn, database: &'a Database) -> Self {
        Self {
            conn,
            database,
            wrote: false,
            deferred: Vec::new(),
        }
    }
}

impl Tx<'_> {
    /// Defers a statement that changes rows until the next statement, or the commit.
    pub(super) fn defer_text(&mut self, sql: &str) -> Result<(), Fault> {
        let bytes: usize = self.deferred.iter().map(String::len).sum();
        if bytes + sql.len() > self.most_deferred() {
            self.flush()?;
        }
        self.deferred.push(self.database.named(sql));
        self.wrote = true;
        Ok(())
    }

    fn most_deferred(&self) -> usize {
        MOST_BYTES.min(self.database.pool.most_bytes() / 4)
    }

    /// Sends the deferred statements.
    pub(super) fn flush(&mut self) -> Result<(), Fault> {
        if !self.deferred.is_empty() {
            self.send(&[])?;
        }
        Ok(())
    }

    /// Sends the deferred statements and these. Returns the rows of these, and the number of rows that the last one
    /// found.
    pub(super) fn send(&mut self, statements: &[&str]) -> Result<(Vec<Vec<Row>>, u64), Fault> {
        let before = self.deferred.len();
        let mut all = std::mem::take(&mut self.deferred);
        all.extend(statements.iter().map(|sql| self.database.named(sql)));
        let text = all.join(";");
        self.database.before_sending(text.len())?;
        let mut result = self.conn.query_iter(text)?;
        let (mut sets, mut found) = (Vec::with_capacity(statements.len()), 0);
        let mut at = 0;
        while let Some(set) = result.iter() {
            found = set.affected_rows();
            let rows: Result<Vec<Row>, Fault> = set.map(|found| row(found?)).collect();
            if at >= before {
                sets.push(rows?);
            } else {
                rows?;
            }
            at += 1;
        }
        Ok((sets, found))
    }

    /// Executes a statement with bound values, which is prepared.
    fn exec(&mut self, sql: &str, by: Vec<Value>) -> Result<Vec<mysql::Row>, Fault> {
        self.flush()?;
        self.database.before_sending(sql.len() + size(&by))?;
        let by: Vec<mysql::Value> = by.into_iter().map(bound).collect();
        Ok(self.conn.exec(self.database.named(sql), by)?)
    }
}

/// Whether a statement is sent as text: without bound values, or with a list.
fn is_text(sql: &str, by: &[Value]) -> bool {
    by.is_empty() || sql.contains(LIST)
}

impl Sql for Tx<'_> {
    fn dialect(&self) -> Dialect {
        Dialect::Mysql
    }

    fn rows(&mut self, sql: &str, by: Vec<Value>) -> Result<Vec<Row>, Fault> {
        if is_text(sql, &by) {
            let rows = self.rows_of_all(vec![(sql, by)])?.pop();
            return Ok(rows.unwrap_or_default());
        }
        self.exec(sql, by)?.into_iter().map(row).collect()
    }

    fn run(&mut self, sql: &str, by: Vec<Value>) -> Result<u64, Fault> {
        let found = if is_text(sql, &by) {
            self.send(&[&with_values(sql, by)])?.1
        } else {
            self.exec(sql, by)?;
            self.conn.affected_rows()
        };
        self.wrote |= found > 0;
        Ok(found)
    }

    fn defer(&mut self, sql: &str, by: Vec<Value>) -> Result<(), Fault> {
        self.defer_text(&with_values(sql, by))
    }

    fn rows_of_all(&mut self, queries: Vec<Query<'_>>) -> Result<Vec<Vec<Row>>, Fault> {
        let texts = queries.into_iter().map(|(sql, by)| with_values(sql, by));
        let texts: Vec<String> = texts.collect();
        let texts: Vec<&str> = texts.iter().map(|text| &**text).collect();
        Ok(self.send(&texts)?.0)
    }

    /// Several rows with each statement, whose text contains their values. A row with a long value, which would be twice as
    /// long in a text, is sent by itself.
    fn insert_rows(
        &mut self,
        (head, tail): InsertOf,
        rows: &mut dyn Iterator<Item = Vec<Value>>,
    ) -> Result<(), Fault> {
        let mut group: Vec<String> = Vec::new();
        let mut bytes = 0;
        for row in rows {
            if size(&row) > LONGEST_LITERAL {
                let cells = vec!["?"; row.len()].join(",");
                self.run(&format!("{head} ({cells}) {tail}"), row)?;
                continue;
            }
            let cells: Vec<String> = row.into_iter().map(literal).collect();
            let cells = format!("({})", cells.join(","));
            if bytes + cells.len() > self.most_deferred() && !group.is_empty() {
                self.defer_text(&format!("{head} {} {tail}", group.join(",")))?;
                (group, bytes) = (Vec::new(), 0);
            }
            bytes += cells.len() + 1;
            group.push(cells);
        }
        if !group.is_empty() {
            self.defer_text(&format!("{head} {} {tail}", group.join(",")))?;
        }
        Ok(())
    }

    fn last_id(&self) -> i64 {
        i64::try_from(self.conn.last_insert_id()).unwrap_or(i64::MAX)
    }
}
