//! The rows of a table, written as lines of JSON lists.

use std::path::Path;

use batchwright_tables::{Error as TableError, Rows, Value};
use serde::Serialize;

use crate::base::{Context, Error};
use crate::bulk::convert::made_from;
use crate::bulk::input::{Bounded, Form, InputError, MAX_RECORD_BYTES, NamedFile, Numbers, Source};
use crate::bulk::spool::SpoolFile;

/// Rows of JSON that are being written.
pub(super) struct Spooled<'r> {
    spool: SpoolFile,
    line: Vec<u8>,
    /// The input's name.
    name: &'r str,
    written: u64,
    /// Rows before the first one, including the header.
    before: u64,
    ctx: &'r Context,
}

impl<'r> Spooled<'r> {
    /// Rows in a file of the folder that has at most this size.
    pub(super) fn new(
        name: &'r str,
        folder: &Path,
        most: u64,
        ctx: &'r Context,
    ) -> Result<Self, Error> {
        Ok(Self {
            spool: SpoolFile::new(folder, name, most)?,
            line: Vec::new(),
            name,
            written: 0,
            before: 0,
            ctx,
        })
    }

    /// The complete rows as an input.
    pub(super) fn into_file(self, origin: Source) -> Result<NamedFile, Error> {
        let file = made_from(origin, self.name.to_owned(), Form::JsonRows, self.spool)?;
        Ok(NamedFile {
            numbers: Numbers::Rows(self.before + 1),
            ..file
        })
    }

    /// An error of the table as one of the input.
    pub(super) fn fault(&self, error: TableError) -> Error {
        match error {
            TableError::Failed(error) => match error.downcast::<Error>() {
                Ok(error) => *error,
                Err(other) => self.refused(other.to_string()),
            },
            refused => self.refused(refused.to_string()),
        }
    }

    fn refused(&self, why: impl Into<String>) -> Error {
        InputError::of_file(self.name, why).into()
    }

    fn line<V: Serialize>(&mut self, values: &[V]) -> Result<(), Error> {
        self.ctx.check()?;
        self.line.clear();
        if !values.is_empty() {
            let written = serde_json::to_writer(Bounded(&mut self.line), values);
            written.map_err(|error| {
                if error.is_io() {
                    self.too_large()
                } else {
                    self.refused(error.to_string())
                }
            })?;
        }
        self.line.push(b'\n');
        self.written += 1;
        self.spool.write(&self.line)
    }

    /// The error for the next row if it is longer than a record can be.
    fn too_large(&self) -> Error {
        let most = MAX_RECORD_BYTES >> 20;
        let row = match self.before + self.written {
            0 => "a header".to_owned(),
            row => format!("row {row}"),
        };
        self.refused(format!(
            "{row} has more than {most} MiB; expected at most {most} MiB"
        ))
    }
}

fn passed(error: Error) -> TableError {
    TableError::Failed(error.into())
}

impl Rows for Spooled<'_> {
    fn columns(&mut self, names: &[String], before: u64) -> Result<(), TableError> {
        if names.is_empty() {
            let why = "found no columns; expected a table with some";
            return Err(TableError::Refused(why.to_owned()));
        }
        self.line(names).map_err(passed)?;
        self.before = before;
        Ok(())
    }

    fn row(&mut self, values: &[Value]) -> Result<(), TableError> {
        self.line(values).map_err(passed)
    }
}
