//! Parquet files and worksheets of Excel: rows in as JSON, rows out with typed columns.
//!
//! A file goes in through [`read_parquet`] or [`read_sheet`], which give row by row to a [`Rows`]; [`ParquetTable`] and
//! [`Sheet`] write one. Nothing holds a whole table in memory.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod cell;
mod panics;
mod parquet_rows;
mod parquet_table;
mod sheet;
mod sheet_rows;
mod time;

use std::fmt;

use serde::Serialize;
use serde_json::value::RawValue;

pub use cell::{Cell, Column, ColumnType};
pub use parquet_rows::read_parquet;
pub use parquet_table::ParquetTable;
pub use sheet::Sheet;
pub use sheet_rows::read_sheet;

/// Why a table could not be read or written.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The file does not hold what was expected, or cannot hold what is to be written.
    Refused(String),
    /// The table could not be written, for example because the disk is full; or an error of [`Rows`].
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    fn unreadable(why: impl fmt::Display) -> Self {
        Self::Refused(format!("cannot be read: {why}"))
    }

    fn failed(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Failed(why.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => f.write_str(why),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

/// Takes the rows of a table. Its errors should be [`Error::Failed`]; they end the reading.
pub trait Rows {
    /// The names of the columns, before all rows. The file has this number of rows before the first one.
    ///
    /// # Errors
    /// Any, to end the reading.
    fn columns(&mut self, names: &[String], before: u64) -> Result<(), Error>;

    /// The next row, with one value per column; none if all cells are empty.
    ///
    /// # Errors
    /// Any, to end the reading.
    fn row(&mut self, values: &[Value]) -> Result<(), Error>;
}

/// The value of a cell that was read.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// Any value but a decimal.
    Json(serde_json::Value),
    /// A number with all its digits.
    Decimal(Box<RawValue>),
}

impl Value {
    /// Whether the cell is empty: a formula may have returned an empty text.
    fn is_nothing(&self) -> bool {
        match self {
            Self::Json(value) => {
                value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
            }
            Self::Decimal(_) => false,
        }
    }
}

/// Gives a row; one of empty cells has no values.
fn give(rows: &mut dyn Rows, values: &[Value]) -> Result<(), Error> {
    if values.iter().all(Value::is_nothing) {
        rows.row(&[])
    } else {
        rows.row(values)
    }
}

#[cfg(test)]
mod tests;
