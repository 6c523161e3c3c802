//! The columns and cells of a table that is written.

use std::borrow::Cow;

/// A column of a table that is written.
#[derive(Debug, Clone)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type in a Parquet file.
    pub kind: ColumnType,
}

/// The type of a column in a Parquet file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ColumnType {
    /// Booleans.
    Bool,
    /// 64-bit integers.
    Int,
    /// Doubles.
    Float,
    /// Strings in UTF-8.
    Text,
    /// Lists of 32-bit floats.
    Vector,
}

/// A cell that is written. In a Parquet file, one that does not fit the type of its column is empty.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Cell<'a> {
    /// An empty cell.
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A floating point number.
    Float(f64),
    /// A text.
    Text(Cow<'a, str>),
    /// A list of numbers; in a worksheet its JSON.
    Vector(&'a [f32]),
}
