//! Statements of a transaction, and their values.

use rusqlite::types::Value;

use crate::base::{Error, ProcessId};
use crate::queue::store::rows::DELETING;

pub(crate) use super::row::{Fault, FromCell, Row, id_of};

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

/// Numbers as a list for IN; an empty list finds nothing.
pub(crate) fn list(numbers: impl IntoIterator<Item = i64>) -> String {
    let numbers: Vec<String> = numbers
        .into_iter()
        .map(|number| number.to_string())
        .collect();
    if numbers.is_empty() {
        "(NULL)".to_owned()
    } else {
        format!("({})", numbers.join(","))
    }
}

/// Placeholder for a list of numbers in a statement, for example `id IN :list`.
pub(crate) const LIST: &str = ":list";

/// A statement with numbers in place of [`LIST`].
#[cfg(feature = "mysql")]
pub(crate) fn with_list(sql: &str, numbers: impl IntoIterator<Item = i64>) -> String {
    sql.replace(LIST, &list(numbers))
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

/// A query of several that are sent together.
pub(crate) enum Query<'a> {
    Of(&'a str),
    /// With these numbers in place of its [`LIST`].
    In(&'a str, &'a [i64]),
}

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

    /// All rows of a query with a [`LIST`]. SQLite prepares it once for any number of values.
    fn rows_in(&mut self, sql: &str, list: &[i64]) -> Result<Vec<Row>, Fault>;

    /// Changes rows with a statement with a [`LIST`], like [`rows_in`](Self::rows_in).
    fn run_in(&mut self, sql: &str, list: &[i64]) -> Result<u64, Fault>;

    /// Changes rows with a [`LIST`], like [`defer`](Self::defer); nothing for an empty list.
    fn defer_in(&mut self, sql: &str, list: &[i64]) -> Result<(), Fault> {
        if list.is_empty() {
            return Ok(());
        }
        self.run_in(sql, list).map(drop)
    }

    /// The rows of several queries. A server receives them together.
    fn rows_of_all(&mut self, queries: &[Query<'_>]) -> Result<Vec<Vec<Row>>, Fault>;

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
        let all = self.rows_of_all(&queries)?;
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
        first_cells(self.rows(sql, by)?)
    }

    /// The first column of all rows of a query with a [`LIST`].
    fn column_in<T: FromCell>(&mut self, sql: &str, list: &[i64]) -> Result<Vec<T>, Fault> {
        first_cells(self.rows_in(sql, list)?)
    }

    /// Whether a query finds anything.
    fn exists(&mut self, sql: &str, by: Vec<Value>) -> Result<bool, Fault> {
        Ok(!self.rows(sql, by)?.is_empty())
    }

    /// The number of a process that is not being deleted.
    fn process_no(&mut self, id: ProcessId) -> Result<Option<i64>, Fault> {
        self.one(
            &format!("SELECT no FROM #processes WHERE id = ? AND chore <> {DELETING}"),
            by![stored(id)],
        )
    }
}

impl<S: Statements + ?Sized> Queries for S {}

fn first_cells<T: FromCell>(rows: Vec<Row>) -> Result<Vec<T>, Fault> {
    rows.into_iter().map(|mut row| row.at(0)).collect()
}

/// A process id as it is stored.
pub(crate) fn stored(id: ProcessId) -> Vec<u8> {
    id.0.as_bytes().to_vec()
}

/// A number for LIMIT.
pub(crate) fn limit(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}
