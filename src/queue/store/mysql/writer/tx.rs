//! Statements of a transaction. Statements without bound values are sent together, which saves round trips to the
//! server.

use mysql::Conn;
use mysql::prelude::Queryable;
use rusqlite::types::Value;

use crate::llm::hash::hex;
use crate::queue::store::sql::statements::{
    Dialect, Queries as _, Query, Row, Statements, Table, with_list,
};

use super::{Database, Fault};

/// A connection, within a transaction or for single statements.
pub(in crate::queue::store) struct Tx<'a> {
    conn: &'a mut Conn,
    database: &'a Database,
    /// Whether it has changed rows.
    pub(super) wrote: bool,
    /// Statements that are sent together with the next one, because each round trip takes about a millisecond.
    pub(super) deferred: Vec<String>,
}

/// Numbers of rows per statement. There are few of them, so few different statements are prepared. They are close to
/// each other, so rows that may be written twice fill up a statement.
const AT_ONCE: [usize; 14] = [128, 96, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1];

/// Rows of a table of short rows that one statement updates.
const MOST_UPDATED: usize = 1_000;

/// Maximum number of bytes of rows in one statement, unless a single row has more. A server with a low packet limit gets
/// less.
const MOST_BYTES: usize = 4 << 20;

/// Maximum number of bytes of rows that are written twice.
const MOST_PADDING: usize = 64 << 10;

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
    pub(in crate::queue::store::mysql) fn defer_text(&mut self, sql: &str) {
        self.deferred.push(self.database.named(sql));
        self.wrote = true;
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
        self.database.check_size(text.len())?;
        self.database.count_round_trip(&text);
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

    /// Inserts many rows with few statements. `head` ends with VALUES, `tail` follows the rows; with a tail, a row may be
    /// written twice.
    pub(in crate::queue::store::mysql) fn insert(
        &mut self,
        head: &str,
        tail: &str,
        rows: impl IntoIterator<Item = Vec<Value>>,
    ) -> Result<(), Fault> {
        let most = MOST_BYTES.min(self.database.pool.most_bytes() / 2);
        let mut rows = rows.into_iter().peekable();
        let mut group: Vec<Vec<Value>> = Vec::new();
        while let Some(row) = rows.next() {
            group.push(row);
            let next = rows.peek().map(|row| size(row));
            let bytes: usize = group.iter().map(|row| size(row)).sum();
            if group.len() == AT_ONCE[0] || next.is_none_or(|next| bytes + next > most) {
                self.insert_group(head, tail, std::mem::take(&mut group))?;
            }
        }
        Ok(())
    }

    fn insert_group(
        &mut self,
        head: &str,
        tail: &str,
        mut rows: Vec<Vec<Value>>,
    ) -> Result<(), Fault> {
        // A row that overwrites itself changes nothing, and saves a round trip to the server.
        let full = AT_ONCE.into_iter().rev().find(|full| *full >= rows.len());
        if !tail.is_empty()
            && let (Some(full), Some(row)) = (full, rows.iter().min_by_key(|row| size(row)))
            && (full - rows.len()) * size(row) <= MOST_PADDING
        {
            let row = row.clone();
            rows.resize(full, row);
        }
        for at_once in AT_ONCE {
            while rows.len() >= at_once {
                let rest = rows.split_off(at_once);
                let cells = rows[0].len();
                let row = format!("({})", vec!["?"; cells].join(","));
                let sql = format!("{head} {} {tail}", vec![row; at_once].join(","));
                let values: Vec<Value> = rows.into_iter().flatten().collect();
                self.run(&sql, values)?;
                rows = rest;
            }
        }
        Ok(())
    }
}

impl Statements for Tx<'_> {
    fn dialect(&self) -> Dialect {
        Dialect::Mysql
    }

    /// A query with bound values is prepared, and a query without any is sent as text.
    fn rows(&mut self, sql: &str, by: Vec<Value>) -> Result<Vec<Row>, Fault> {
        if by.is_empty() {
            return self.rows_once(sql);
        }
        self.flush()?;
        self.database.check_size(sql.len() + size(&by))?;
        self.database.count_round_trip(sql);
        let by: Vec<mysql::Value> = by.into_iter().map(bound).collect();
        let rows: Vec<mysql::Row> = self.conn.exec(self.database.named(sql), by)?;
        rows.into_iter().map(row).collect()
    }

    fn run(&mut self, sql: &str, by: Vec<Value>) -> Result<u64, Fault> {
        if by.is_empty() {
            return self.run_once(sql);
        }
        self.flush()?;
        self.database.check_size(sql.len() + size(&by))?;
        self.database.count_round_trip(sql);
        let by: Vec<mysql::Value> = by.into_iter().map(bound).collect();
        self.conn.exec_drop(self.database.named(sql), by)?;
        let found = self.conn.affected_rows();
        self.wrote |= found > 0;
        Ok(found)
    }

    /// The values become a part of the text.
    fn defer(&mut self, sql: &str, by: Vec<Value>) -> Result<(), Fault> {
        let mut pieces = sql.split('?');
        let mut text = pieces.next().unwrap_or_default().to_owned();
        for (piece, value) in pieces.zip(by) {
            text += &literal(value);
            text += piece;
        }
        self.defer_text(&text);
        Ok(())
    }

    fn each(
        &mut self,
        sql: &str,
        by: Vec<Value>,
        act: &mut dyn FnMut(Row) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        for row in self.rows(sql, by)? {
            if !act(row)? {
                break;
            }
        }
        Ok(())
    }

    fn rows_in(&mut self, sql: &str, list: &[i64]) -> Result<Vec<Row>, Fault> {
        self.rows_once(&with_list(sql, list.iter().copied()))
    }

    fn run_in(&mut self, sql: &str, list: &[i64]) -> Result<u64, Fault> {
        self.run_once(&with_list(sql, list.iter().copied()))
    }

    fn defer_in(&mut self, sql: &str, list: &[i64]) -> Result<(), Fault> {
        if !list.is_empty() {
            self.defer_text(&with_list(sql, list.iter().copied()));
        }
        Ok(())
    }

    fn rows_of_all(&mut self, queries: &[Query<'_>]) -> Result<Vec<Vec<Row>>, Fault> {
        let texts = queries.iter().map(|query| match query {
            Query::Of(sql) => (*sql).to_owned(),
            Query::In(sql, list) => with_list(sql, list.iter().copied()),
        });
        let texts: Vec<String> = texts.collect();
        let texts: Vec<&str> = texts.iter().map(|text| &**text).collect();
        Ok(self.send(&texts)?.0)
    }

    fn rows_once(&mut self, sql: &str) -> Result<Vec<Row>, Fault> {
        let [rows] = self.rows_of([Query::Of(sql)])?;
        Ok(rows)
    }

    fn run_once(&mut self, sql: &str) -> Result<u64, Fault> {
        let found = self.send(&[sql])?.1;
        self.wrote |= found > 0;
        Ok(found)
    }

    fn insert_rows(
        &mut self,
        head: &str,
        rows: &mut dyn Iterator<Item = Vec<Value>>,
    ) -> Result<(), Fault> {
        self.insert(head, "", rows)
    }

    fn upsert_rows(
        &mut self,
        table: &Table,
        rows: &mut dyn Iterator<Item = Vec<Value>>,
    ) -> Result<(), Fault> {
        let head = format!(
            "INSERT INTO {} ({}) VALUES",
            table.name,
            table.columns.join(", ")
        );
        let set = table.columns[1..]
            .iter()
            .map(|name| format!("{name} = VALUES({name})"));
        let set = set.collect::<Vec<_>>().join(", ");
        self.insert(&head, &format!("ON DUPLICATE KEY UPDATE {set}"), rows)
    }

    /// The values become a part of the text, so that the rows are sent together with the next statement.
    fn update_rows(
        &mut self,
        table: &Table,
        rows: &mut dyn Iterator<Item = Vec<Value>>,
    ) -> Result<(), Fault> {
        let set = table.columns[1..].iter();
        let set: Vec<String> = set.map(|name| format!("{name} = VALUES({name})")).collect();
        let (name, columns) = (table.name, table.columns.join(", "));
        let rows = rows.map(|row| {
            let cells: Vec<String> = row.into_iter().map(literal).collect();
            format!("({})", cells.join(","))
        });
        let rows: Vec<String> = rows.collect();
        for some in rows.chunks(MOST_UPDATED) {
            self.defer_text(&format!(
                "INSERT INTO {name} ({columns}) VALUES {} ON DUPLICATE KEY UPDATE {}",
                some.join(","),
                set.join(", ")
            ));
        }
        Ok(())
    }

    fn last_id(&self) -> i64 {
        i64::try_from(self.conn.last_insert_id()).unwrap_or(i64::MAX)
    }
}
