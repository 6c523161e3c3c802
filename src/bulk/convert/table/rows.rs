//! The rows of a table, written as lines of JSON lists.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::base::{Context, Error};
use crate::bulk::convert::made_from;
use crate::bulk::input::{Bounded, Form, InputError, MAX_RECORD_BYTES, NamedFile, Source};
use crate::bulk::spool::SpoolFile;

/// Rows of JSON that are being written.
pub(super) struct Rows<'r> {
    spool: SpoolFile,
    line: Vec<u8>,
    /// The input's name.
    name: &'r str,
    written: u64,
    /// Rows before the first one, including the header.
    pub(super) before: u64,
    pub(super) ctx: &'r Context,
}

/// Whether a cell is empty: a formula may have returned an empty text.
pub(super) fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
}

impl<'r> Rows<'r> {
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

    /// The input's name.
    pub(super) fn name(&self) -> &str {
        self.name
    }

    /// The complete rows as an input.
    pub(super) fn into_file(self, origin: Source, first_row: u64) -> Result<NamedFile, Error> {
        let file = made_from(origin, self.name.to_owned(), Form::JsonRows, self.spool)?;
        Ok(NamedFile {
            first_row: Some(first_row),
            ..file
        })
    }

    /// Writes the first line.
    pub(super) fn names<N: AsRef<str>>(&mut self, names: &[N]) -> Result<(), Error> {
        if names.is_empty() {
            return Err(self.refused("found no columns; expected a table with some"));
        }
        let names: Vec<Value> = names
            .iter()
            .map(|name| Value::from(name.as_ref()))
            .collect();
        self.line(&names)
    }

    /// Writes a row with one value per column. A row of empty cells becomes a blank line, as in a CSV file.
    pub(super) fn row(&mut self, values: &[Value]) -> Result<(), Error> {
        if values.iter().all(is_nothing) {
            self.blank()
        } else {
            self.line(values)
        }
    }

    pub(super) fn blank(&mut self) -> Result<(), Error> {
        self.line::<Value>(&[])
    }

    pub(super) fn line<V: Serialize>(&mut self, values: &[V]) -> Result<(), Error> {
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

    /// An error of the whole input.
    pub(super) fn refused(&self, why: impl Into<String>) -> Error {
        InputError::of_file(self.name, why).into()
    }

    /// The error for an input whose contents do not have the expected format.
    pub(super) fn unreadable(&self, why: &dyn fmt::Display) -> Error {
        self.refused(format!("cannot be read: {why}"))
    }
}
