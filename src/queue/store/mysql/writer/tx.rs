//! Statements of a transaction. Statements without bound values are sent together, which saves round trips to the
//! server.

use mysql::prelude::{FromValue, Queryable};
use mysql::{Conn, Row, Value};

use crate::queue::store::rows::Columns;

use super::{Database, Fault};

/// A connection, within a transaction or for single statements.
pub(in crate::queue::store::mysql) struct Tx<'a> {
    conn: &'a mut Conn,
    database: &'a Database,
    /// Whether it has changed rows.
    pub(super) wrote: bool,
    /// Statements that are sent together with the next one: a server is a millisecond away.
    pub(super) deferred: Vec<String>,
}

/// A row, whose cells are taken out one by one.
pub(in crate::queue::store::mysql) struct Cells {
    row: Row,
    /// Columns that are not counted.
    first: usize,
}

impl Cells {
    fn new(row: Row) -> Self {
        Self { row, first: 0 }
    }

    /// The columns after the first ones.
    pub(in crate::queue::store::mysql) fn behind(self, first: usize) -> Self {
        Self { first, ..self }
    }

    /// All columns, as the driver returns them.
    pub(in crate::queue::store::mysql) fn values(self) -> Vec<Value> {
        self.row.unwrap()
    }

    pub(in crate::queue::store::mysql) fn at<T: FromValue>(
        &mut self,
        at: usize,
    ) -> Result<T, Fault> {
        match self.row.take_opt(self.first + at) {
            Some(Ok(value)) => Ok(value),
            // The error contains neither the value nor its text.
            _ => Err(Fault::Odd("a column of another type")),
        }
    }
}

impl Columns for Cells {
    type Fault = Fault;

    fn int(&mut self, at: usize) -> Result<i64, Fault> {
        self.at(at)
    }

    fn real(&mut self, at: usize) -> Result<f64, Fault> {
        self.at(at)
    }

    fn text(&mut self, at: usize) -> Result<Option<String>, Fault> {
        self.at(at)
    }

    fn bytes(&mut self, at: usize) -> Result<Vec<u8>, Fault> {
        self.at(at)
    }
}

/// Bound values of a statement.
macro_rules! by {
    ($($value:expr),* $(,)?) => { vec![$(mysql::Value::from($value)),*] };
}
pub(in crate::queue::store::mysql) use by;

/// Numbers of rows per statement. There are few of them, so few different statements are prepared. They are close to
/// each other, so rows that may be written twice fill up a statement.
const AT_ONCE: [usize; 14] = [128, 96, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1];

/// Bytes of one statement, unless a single row has more.
const MOST_BYTES: usize = 4 << 20;

/// Bytes of rows that are written twice.
const MOST_PADDING: usize = 64 << 10;

/// Bytes that a row takes in a statement, about.
fn size(row: &[Value]) -> usize {
    let cells = row.iter().map(|value| match value {
        Value::Bytes(bytes) => bytes.len() + 9,
        _ => 9,
    });
    cells.sum()
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
    /// All rows of a query. A query with bound values is prepared, and a query without any is sent as text.
    pub(in crate::queue::store::mysql) fn rows(
        &mut self,
        sql: &str,
        by: Vec<Value>,
    ) -> Result<Vec<Cells>, Fault> {
        if by.is_empty() {
            let [rows] = self.rows_of([sql])?;
            return Ok(rows);
        }
        self.flush()?;
        self.database.count_round_trip(sql);
        let rows: Vec<Row> = self.conn.exec(self.database.named(sql), by)?;
        Ok(rows.into_iter().map(Cells::new).collect())
    }

    /// The rows of several queries, which are sent together and carried out one after the other.
    pub(in crate::queue::store::mysql) fn rows_of<const N: usize>(
        &mut self,
        queries: [&str; N],
    ) -> Result<[Vec<Cells>; N], Fault> {
        let (sets, _) = self.send(&queries)?;
        sets.try_into()
            .map_err(|_| Fault::Odd("another number of replies than of queries"))
    }

    /// Changes rows with the next statement, or when the transaction commits.
    pub(in crate::queue::store::mysql) fn defer(&mut self, sql: &str) {
        self.deferred.push(self.database.named(sql));
        self.wrote = true;
    }

    /// Sends what was deferred.
    pub(super) fn flush(&mut self) -> Result<(), Fault> {
        if !self.deferred.is_empty() {
            self.send(&[])?;
        }
        Ok(())
    }

    /// Sends what was deferred and these statements. Returns the rows of these, and how many rows the last one found.
    pub(super) fn send(&mut self, statements: &[&str]) -> Result<(Vec<Vec<Cells>>, u64), Fault> {
        let before = self.deferred.len();
        let mut all = std::mem::take(&mut self.deferred);
        all.extend(statements.iter().map(|sql| self.database.named(sql)));
        let text = all.join(";");
        self.database.count_round_trip(&text);
        let mut result = self.conn.query_iter(text)?;
        let (mut sets, mut found) = (Vec::with_capacity(statements.len()), 0);
        let mut at = 0;
        while let Some(set) = result.iter() {
            found = set.affected_rows();
            let rows: Result<Vec<Cells>, _> = set.map(|row| row.map(Cells::new)).collect();
            if at >= before {
                sets.push(rows?);
            } else {
                rows?;
            }
            at += 1;
        }
        Ok((sets, found))
    }

    pub(in crate::queue::store::mysql) fn first(
        &mut self,
        sql: &str,
        by: Vec<Value>,
    ) -> Result<Option<Cells>, Fault> {
        Ok(self.rows(sql, by)?.into_iter().next())
    }

    /// The first column of the first row.
    pub(in crate::queue::store::mysql) fn one<T: FromValue>(
        &mut self,
        sql: &str,
        by: Vec<Value>,
    ) -> Result<Option<T>, Fault> {
        self.first(sql, by)?.map(|mut row| row.at(0)).transpose()
    }

    /// The first column of all rows.
    pub(in crate::queue::store::mysql) fn column<T: FromValue>(
        &mut self,
        sql: &str,
        by: Vec<Value>,
    ) -> Result<Vec<T>, Fault> {
        let rows = self.rows(sql, by)?;
        rows.into_iter().map(|mut row| row.at(0)).collect()
    }

    /// Whether a query finds anything.
    pub(in crate::queue::store::mysql) fn exists(
        &mut self,
        sql: &str,
        by: Vec<Value>,
    ) -> Result<bool, Fault> {
        Ok(!self.rows(sql, by)?.is_empty())
    }

    /// Changes rows. Returns how many it found, changed or not.
    pub(in crate::queue::store::mysql) fn run(
        &mut self,
        sql: &str,
        by: Vec<Value>,
    ) -> Result<u64, Fault> {
        let found = if by.is_empty() {
            self.send(&[sql])?.1
        } else {
            self.flush()?;
            self.database.count_round_trip(sql);
            self.conn.exec_drop(self.database.named(sql), by)?;
            self.conn.affected_rows()
        };
        self.wrote |= found > 0;
        Ok(found)
    }

    /// Inserts many rows with few statements. `head` ends with VALUES, `tail` follows the rows; with a tail, a row may be
    /// written twice.
    pub(in crate::queue::store::mysql) fn insert(
        &mut self,
        head: &str,
        tail: &str,
        rows: Vec<Vec<Value>>,
    ) -> Result<(), Fault> {
        let mut rows = rows.into_iter().peekable();
        let mut group: Vec<Vec<Value>> = Vec::new();
        while let Some(row) = rows.next() {
            group.push(row);
            let next = rows.peek().map(|row| size(row));
            let bytes: usize = group.iter().map(|row| size(row)).sum();
            if group.len() == AT_ONCE[0] || next.is_none_or(|next| bytes + next > MOST_BYTES) {
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

    pub(in crate::queue::store::mysql) fn last_id(&self) -> i64 {
        i64::try_from(self.conn.last_insert_id()).unwrap_or(i64::MAX)
    }
}
