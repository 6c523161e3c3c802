//! Statements of a transaction, their values, the rows that they find, and reasons why a transaction fails.

use rusqlite::types::Value;
use uuid::Uuid;

use crate::base::{Error, ProcessId};

/// The statements in which databases differ by more than words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    #[cfg(feature = "mysql")]
    Mysql,
}

/// Bound values of a statement.
macro_rules! by {
    ($($value:expr),* $(,)?) => { vec![$(rusqlite::types::Value::from($value)),*] };
}
pub(crate) use by;

/// Numbers as a list for IN in the text of a statement; an empty list finds nothing.
pub(crate) fn list(numbers: &[i64]) -> String {
    let numbers: Vec<String> = numbers.iter().map(i64::to_string).collect();
    match &*numbers.join(",") {
        "" => "(NULL)".to_owned(),
        numbers => format!("({numbers})"),
    }
}

/// Placeholder for [`all`] in a statement, for example `id IN :list`.
pub(crate) const LIST: &str = ":list";

/// Numbers as one bound value, so that the statement stays the same for any number of them.
pub(crate) fn all(numbers: &[i64]) -> Value {
    Value::Text(serde_json::to_string(numbers).unwrap_or_default())
}

/// An insert of rows, and what follows them.
pub(crate) type InsertOf = (&'static str, &'static str);

pub(crate) const RESULTS: InsertOf = (
    "INSERT INTO #results (job, error, body) VALUES",
    "ON DUPLICATE KEY UPDATE error = VALUES(error), body = VALUES(body)",
);

/// An error as it is stored.
pub(crate) fn error_text(error: &Error) -> Result<String, Fault> {
    serde_json::to_string(error).map_err(|_| Fault::Odd("an error that is not JSON"))
}

/// A statement and its values.
pub(crate) type Query<'a> = (&'a str, Vec<Value>);

/// Executes statements, within a transaction or separately.
pub(crate) trait Statements {
    fn dialect(&self) -> Dialect;

    /// All rows of a query, which is prepared once.
    fn rows(&mut self, sql: &str, by: Vec<Value>) -> Result<Vec<Row>, Fault>;

    /// Changes rows. Returns the number of rows found, changed or not. The statement is prepared once.
    fn run(&mut self, sql: &str, by: Vec<Value>) -> Result<u64, Fault>;

    /// Changes rows at the latest before the next statement runs. A server receives both together.
    fn defer(&mut self, sql: &str, by: Vec<Value>) -> Result<(), Fault> {
        self.run(sql, by).map(drop)
    }

    /// Calls back for each row of a query until it returns false. SQLite has one row in memory at a time.
    fn each(
        &mut self,
        sql: &str,
        by: Vec<Value>,
        act: &mut dyn FnMut(Row) -> Result<bool, Fault>,
    ) -> Result<(), Fault>;

    /// The rows of several queries. A server receives them together.
    fn rows_of_all(&mut self, queries: Vec<Query<'_>>) -> Result<Vec<Vec<Row>>, Fault>;

    /// Inserts rows between a head, which ends with VALUES, and a tail.
    fn insert_rows(
        &mut self,
        insert: InsertOf,
        rows: &mut dyn Iterator<Item = Vec<Value>>,
    ) -> Result<(), Fault>;

    /// The number that was assigned to the last inserted row.
    fn last_id(&self) -> i64;
}

/// Queries that return one row or one column.
pub(crate) trait Queries: Statements {
    /// The rows of several queries.
    fn rows_of<const N: usize>(&mut self, queries: [Query<'_>; N]) -> Result<[Vec<Row>; N], Fault> {
        let all = self.rows_of_all(queries.into())?;
        all.try_into()
            .map_err(|_| Fault::Odd("the number of replies differs from the number of queries"))
    }

    fn first(&mut self, sql: &str, by: Vec<Value>) -> Result<Option<Row>, Fault> {
        Ok(self.rows(sql, by)?.into_iter().next())
    }

    /// The first column of the first row.
    fn one<T: FromCell>(&mut self, sql: &str, by: Vec<Value>) -> Result<Option<T>, Fault> {
        self.first(sql, by)?.map(|mut row| row.at(0)).transpose()
    }

    /// The first column of all rows.
    fn column<T: FromCell>(&mut self, sql: &str, by: Vec<Value>) -> Result<Vec<T>, Fault> {
        let rows = self.rows(sql, by)?;
        rows.into_iter().map(|mut row| row.at(0)).collect()
    }

    /// Whether a query finds anything.
    fn exists(&mut self, sql: &str, by: Vec<Value>) -> Result<bool, Fault> {
        Ok(!self.rows(sql, by)?.is_empty())
    }
}

impl<S: Statements + ?Sized> Queries for S {}

/// A process id as it is stored.
pub(crate) fn stored(id: ProcessId) -> Vec<u8> {
    id.0.as_bytes().to_vec()
}

/// A number for LIMIT.
pub(crate) fn limit(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}

// Rows, and why a transaction fails.

/// Why a transaction failed.
#[derive(Debug, derive_more::From)]
pub(crate) enum Fault {
    #[from]
    Sqlite(rusqlite::Error),
    #[cfg(feature = "mysql")]
    #[from]
    Mysql(mysql::Error),
    /// The request is not possible.
    #[from]
    Refused(Error),
    /// The stored data is invalid.
    Odd(&'static str),
    /// Another transaction was faster: this one is repeated.
    Overtaken,
    /// The server is a replica.
    #[cfg(feature = "mysql")]
    ReadOnly,
}

impl Fault {
    /// Whether a row with the same key exists.
    pub(crate) fn is_duplicate(&self) -> bool {
        #[cfg(feature = "mysql")]
        if let Self::Mysql(mysql::Error::MySqlError(error)) = self {
            return error.code == 1062;
        }
        false
    }
}

/// A row that a query has found.
#[derive(Debug)]
pub(crate) struct Row(Vec<Value>);

impl Row {
    pub(crate) fn new(cells: Vec<Value>) -> Self {
        Self(cells)
    }

    /// Removes a cell from the row and returns it.
    pub(crate) fn at<T: FromCell>(&mut self, at: usize) -> Result<T, Fault> {
        let cell = self
            .0
            .get_mut(at)
            .map(|cell| std::mem::replace(cell, Value::Null));
        // The error contains neither the value nor its text.
        cell.and_then(T::from_cell)
            .ok_or(Fault::Odd("a column of another type"))
    }
}

/// The types that a cell can be read as. MySQL sends numbers as text if a statement has no bound values.
pub(crate) trait FromCell: Sized {
    fn from_cell(cell: Value) -> Option<Self>;
}

impl FromCell for String {
    fn from_cell(cell: Value) -> Option<Self> {
        match cell {
            Value::Text(text) => Some(text),
            Value::Blob(bytes) => Self::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}

impl FromCell for Vec<u8> {
    fn from_cell(cell: Value) -> Option<Self> {
        match cell {
            Value::Blob(bytes) => Some(bytes),
            Value::Text(text) => Some(text.into_bytes()),
            _ => None,
        }
    }
}

impl FromCell for i64 {
    fn from_cell(cell: Value) -> Option<Self> {
        match cell {
            Value::Integer(number) => Some(number),
            cell => String::from_cell(cell)?.parse().ok(),
        }
    }
}

impl FromCell for u64 {
    fn from_cell(cell: Value) -> Option<Self> {
        i64::from_cell(cell)?.try_into().ok()
    }
}

impl FromCell for usize {
    fn from_cell(cell: Value) -> Option<Self> {
        i64::from_cell(cell)?.try_into().ok()
    }
}

impl FromCell for bool {
    fn from_cell(cell: Value) -> Option<Self> {
        Some(i64::from_cell(cell)? != 0)
    }
}

impl FromCell for f64 {
    fn from_cell(cell: Value) -> Option<Self> {
        match cell {
            Value::Real(number) => Some(number),
            Value::Integer(number) => Some(number as Self),
            cell => String::from_cell(cell)?.parse().ok(),
        }
    }
}

impl<T: FromCell> FromCell for Option<T> {
    fn from_cell(cell: Value) -> Option<Self> {
        match cell {
            Value::Null => Some(None),
            cell => T::from_cell(cell).map(Some),
        }
    }
}

pub(crate) fn id_of(bytes: &[u8]) -> Result<ProcessId, Fault> {
    let uuid =
        Uuid::from_slice(bytes).map_err(|_| Fault::Odd("a process id of the wrong length"))?;
    Ok(ProcessId(uuid))
}
