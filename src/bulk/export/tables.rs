//! Parquet files and worksheets as formats of results.

use std::borrow::Cow;

use batchwright_tables::{
    Cell as Written, ColumnType as Kind, Error as TableError, ParquetTable, Sheet,
};

use super::ExportReport;
use super::cell::{Cell, ColumnType};
use super::columns::Column;
use super::sink::{Sink, unwritable};
use crate::base::{Error, ErrorKind};

/// The columns as the tables know them.
pub(super) fn columns(columns: &[Column]) -> Vec<batchwright_tables::Column> {
    let columns = columns.iter().map(|column| batchwright_tables::Column {
        name: column.name.clone(),
        kind: match column.kind {
            ColumnType::Bool => Kind::Bool,
            ColumnType::Int | ColumnType::Long => Kind::Int,
            ColumnType::Float => Kind::Float,
            ColumnType::Empty | ColumnType::Text | ColumnType::Json => Kind::Text,
            ColumnType::Vector => Kind::Vector,
        },
    });
    columns.collect()
}

/// A cell of a column of this type; in a worksheet each cell has its own.
fn written<'c>(cell: &'c Cell<'_>, kind: Option<Kind>) -> Written<'c> {
    match (cell, kind) {
        (Cell::Null, _) => Written::Null,
        (Cell::Bool(yes), None | Some(Kind::Bool)) => Written::Bool(*yes),
        (Cell::Int(n), None | Some(Kind::Int)) => Written::Int(*n),
        (Cell::Int(n), Some(Kind::Float)) => Written::Float(*n as f64),
        (Cell::Float(x, _), None | Some(Kind::Float)) => Written::Float(*x),
        (Cell::Vector(numbers), None | Some(Kind::Vector)) => Written::Vector(numbers),
        (cell, _) => cell
            .to_text()
            .map_or(Written::Null, |text| Written::Text(Cow::clone(&text))),
    }
}

pub(super) fn failed(error: TableError) -> Error {
    match error {
        TableError::Refused(why) => Error::new(ErrorKind::Invalid, why),
        other => unwritable(other),
    }
}

/// A Parquet file, with the types of its columns.
pub(super) struct ParquetSink(pub ParquetTable, pub Vec<Kind>);

impl Sink for ParquetSink {
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Error> {
        let cells = cells.iter().zip(&self.1);
        let cells: Vec<_> = cells
            .map(|(cell, kind)| written(cell, Some(*kind)))
            .collect();
        self.0.row(&cells).map_err(failed)
    }

    fn finish(self: Box<Self>, _: &mut ExportReport) -> Result<(), Error> {
        self.0.finish().map_err(failed)
    }
}

impl Sink for Sheet {
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Error> {
        let cells: Vec<_> = cells.iter().map(|cell| written(cell, None)).collect();
        self.row(&cells).map_err(failed)
    }

    fn finish(self: Box<Self>, report: &mut ExportReport) -> Result<(), Error> {
        report.cut_cells = self.cut_cells();
        Self::finish(*self).map_err(failed)
    }
}
