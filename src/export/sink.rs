//! Where rows go: what all forms of tables have in common.

use std::io;

use super::cell::Cell;
use crate::base::error::{Error, ErrorKind};

/// A table that is being written.
pub(super) trait Sink {
    /// Writes the next row, a cell for each column.
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Error>;

    /// Writes what is left, so that the table is whole.
    fn finish(self: Box<Self>) -> Result<(), Error>;

    /// Cells that had to be cut.
    fn cut_cells(&self) -> u64 {
        0
    }
}

/// An error that has nothing to do with what was asked for: a full disk, a reader that went away.
pub(super) fn unwritable(error: &io::Error) -> Error {
    Error::new(
        ErrorKind::Transient,
        format!("cannot write the table: {error}"),
    )
}

/// The same of a library that writes tables.
pub(super) fn failed(error: &dyn std::error::Error) -> Error {
    Error::new(
        ErrorKind::Transient,
        format!("cannot write the table: {error}"),
    )
}
