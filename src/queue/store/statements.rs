//! Statements of a transaction, their values, the rows that they find, and reasons why a transaction fails.

use rusqlite::types::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{BatchNo, WorkerId};
use crate::base::{Day, Error, ErrorKind, ProcessId, Timestamp, Usd};

/// The time of a server in milliseconds, as an SQL expression.
pub(crate) const CLOCK: &str = "CAST(FLOOR(UNIX_TIMESTAMP(NOW(3)) * 1000) AS SIGNED)";

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
pub(crate) trait Sql {
    /// Whether it is a server, where some statements differ by more than words.
    fn is_server(&self) -> bool;

    /// All rows of a query, which is prepared once.
    fn rows(&mut self, sql: &str, by: Vec<Value>) -> Result<Vec<Row>, Fault>;

    /// Changes rows. Returns the number of rows found, changed or not. The statement is prepared once.
    fn run(&mut self, sql: &str, by: Vec<Value>) -> Result<u64, Fault>;

    /// Changes rows at the latest before the next statement runs. A server receives both together.
    fn defer(&mut self, sql: &str, by: Vec<Value>) -> Result<(), Fault> {
        self.run(sql, by).map(drop)
    }

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

/// Queries whose rows are read as values.
pub(crate) trait Queries: Sql {
    /// The rows of several queries.
    fn rows_of<const N: usize>(&mut self, queries: [Query<'_>; N]) -> Result<[Vec<Row>; N], Fault> {
        let all = self.rows_of_all(queries.into())?;
        all.try_into()
            .map_err(|_| Fault::Odd("the number of replies differs from the number of queries"))
    }

    fn many<T: FromRow>(&mut self, sql: &str, by: Vec<Value>) -> Result<Vec<T>, Fault> {
        read_all(self.rows(sql, by)?)
    }

    /// The first row.
    fn one<T: FromRow>(&mut self, sql: &str, by: Vec<Value>) -> Result<Option<T>, Fault> {
        let first = self.rows(sql, by)?.into_iter().next();
        first.map(|mut row| row.read()).transpose()
    }

    /// Whether a query finds anything.
    fn exists(&mut self, sql: &str, by: Vec<Value>) -> Result<bool, Fault> {
        Ok(!self.rows(sql, by)?.is_empty())
    }
}

impl<S: Sql + ?Sized> Queries for S {}

/// A number that is never negative, as databases store it.
pub(crate) fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A process id as it is stored.
pub(crate) fn stored(id: ProcessId) -> Vec<u8> {
    id.0.as_bytes().to_vec()
}

/// A number for LIMIT.
pub(crate) fn limit(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}

/// The error for a request or a store that stays wrong until somebody changes it.
pub(crate) fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, why).with_storage()
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

/// A row that a query has found; it is read from left to right.
#[derive(Debug)]
pub(crate) struct Row(std::vec::IntoIter<Value>);

impl Row {
    pub(crate) fn new(cells: Vec<Value>) -> Self {
        Self(cells.into_iter())
    }

    /// The value of the next cell, or of the next ones.
    pub(crate) fn read<T: FromRow>(&mut self) -> Result<T, Fault> {
        T::from_row(self)
    }
}

pub(crate) fn read_all<T: FromRow>(rows: Vec<Row>) -> Result<Vec<T>, Fault> {
    rows.into_iter().map(|mut row| row.read()).collect()
}

/// What the next cells of a row can be read as.
pub(crate) trait FromRow: Sized {
    fn from_row(row: &mut Row) -> Result<Self, Fault>;
}

impl<T: FromCell> FromRow for T {
    fn from_row(row: &mut Row) -> Result<Self, Fault> {
        // The error contains neither the value nor its text.
        let value = row.0.next().and_then(T::from_cell);
        value.ok_or(Fault::Odd("a column of another type"))
    }
}

macro_rules! tuples {
    ($($($part:ident)+,)+) => {$(
        impl<$($part: FromRow),+> FromRow for ($($part,)+) {
            fn from_row(row: &mut Row) -> Result<Self, Fault> {
                Ok(($($part::from_row(row)?,)+))
            }
        }
    )+};
}
tuples!(A B, A B C, A B C D, A B C D E,);

/// Structs whose fields are the columns of a row, in the order in which they are named here.
macro_rules! columns {
    ($type:ident: $($field:ident),+) => {
        impl FromRow for $type {
            fn from_row(row: &mut Row) -> Result<Self, Fault> {
                Ok(Self { $($field: row.read()?),+ })
            }
        }
    };
}
pub(crate) use columns;

/// The types that a cell can be read as. A server sends numbers as texts.
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

impl FromCell for Box<RawValue> {
    fn from_cell(cell: Value) -> Option<Self> {
        RawValue::from_string(String::from_cell(cell)?).ok()
    }
}

impl FromCell for ProcessId {
    fn from_cell(cell: Value) -> Option<Self> {
        match cell {
            Value::Blob(bytes) => Uuid::from_slice(&bytes).ok().map(Self),
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

/// A sum of counters is a real number, because it may exceed an integer.
impl FromCell for u64 {
    fn from_cell(cell: Value) -> Option<Self> {
        match cell {
            Value::Integer(number) => Some(count(number)),
            Value::Real(number) => Some(number as Self),
            cell => {
                let text = String::from_cell(cell)?;
                let real = || text.parse().ok().map(|number: f64| number as Self);
                text.parse().ok().map(count).or_else(real)
            }
        }
    }
}

impl FromCell for Usd {
    fn from_cell(cell: Value) -> Option<Self> {
        u64::from_cell(cell).map(Self::from_picos)
    }
}

/// The types that are made of a whole number.
macro_rules! numbers {
    ($($type:ty: $made:expr,)+) => {$(
        impl FromCell for $type {
            fn from_cell(cell: Value) -> Option<Self> {
                i64::from_cell(cell).map($made)
            }
        }
    )+};
}
numbers! {
    bool: |number| number != 0,
    u8: |number| Self::try_from(number).unwrap_or(Self::MAX),
    u32: |number| Self::try_from(number).unwrap_or(Self::MAX),
    usize: |number| Self::try_from(number).unwrap_or(0),
    Day: |number| Self(i32::try_from(number).unwrap_or(i32::MAX)),
    Timestamp: Timestamp,
    BatchNo: BatchNo,
    WorkerId: WorkerId,
}

impl<T: FromCell> FromCell for Option<T> {
    fn from_cell(cell: Value) -> Option<Self> {
        match cell {
            Value::Null => Some(None),
            cell => T::from_cell(cell).map(Some),
        }
    }
}
