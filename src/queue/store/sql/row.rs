//! The rows that statements find, and reasons why a transaction fails.

use rusqlite::types::Value;
use uuid::Uuid;

use crate::base::{Error, ProcessId};

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

    /// The columns after the first ones.
    pub(crate) fn behind(mut self, first: usize) -> Self {
        self.0.drain(..first);
        self
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
