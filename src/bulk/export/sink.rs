//! The interface that all table formats implement.

use std::fmt;

use super::cell::Cell;
use crate::base::{Error, ErrorKind};

/// A table that is being written.
pub(super) trait Sink {
    /// Writes the next row, with one cell per column.
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Error>;

    /// Writes buffered data, so that the table is complete.
    fn finish(self: Box<Self>) -> Result<(), Error>;

    /// Number of cells that were cut.
    fn cut_cells(&self) -> u64 {
        0
    }
}

/// An error that does not depend on the request: a full disk, or a closed reader.
pub(super) fn unwritable(error: &dyn fmt::Display) -> Error {
    Error::new(
        ErrorKind::Transient,
        format!("cannot write the table: {error}"),
    )
}
