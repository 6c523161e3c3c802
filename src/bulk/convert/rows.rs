//! The rows of a table, written as lines of JSON lists. Rows are at the lines that they have in the input, if it has lines.

use serde::Serialize;

use crate::base::{Context, Error};
use crate::bulk::input::{Bounded, Columns, Form, InputError, NamedFile, Numbers, too_long};
use crate::bulk::spool::SpoolFile;

/// Rows of JSON that are being written.
pub(super) struct Spooled<'r> {
    spool: SpoolFile,
    pub(super) columns: Option<Columns>,
    pub(super) numbers: Numbers,
    /// The input's name.
    name: &'r str,
    line: Vec<u8>,
    written: u64,
    ctx: &'r Context,
}

impl<'r> Spooled<'r> {
    pub(super) fn new(name: &'r str, spool: SpoolFile, ctx: &'r Context) -> Self {
        Self {
            spool,
            columns: None,
            numbers: Numbers::Lines,
            name,
            line: Vec::new(),
            written: 0,
            ctx,
        }
    }

    /// Writes blank lines, so that the next row is at that line.
    pub(super) fn skip_to(&mut self, line: u64) -> Result<(), Error> {
        while self.written + 1 < line {
            self.blank()?;
        }
        Ok(())
    }

    pub(super) fn blank(&mut self) -> Result<(), Error> {
        self.written += 1;
        self.spool.write(b"\n")
    }

    /// Writes a row.
    pub(super) fn row(&mut self, row: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        self.ctx.check()?;
        self.line.clear();
        let written = serde_json::to_writer(Bounded(&mut self.line), row);
        written.map_err(|error| match error.is_io() {
            true => {
                let place = self.numbers.place(self.written + 1);
                InputError::at(self.name, place, too_long())
            }
            false => InputError::of_file(self.name, error.to_string()),
        })?;
        self.line.push(b'\n');
        self.written += 1;
        self.spool.write(&self.line)
    }

    /// The complete rows as an input.
    pub(super) fn into_file(self) -> Result<NamedFile, Error> {
        let source = self.spool.into_source()?;
        Ok(NamedFile {
            numbers: self.numbers,
            columns: self.columns,
            ..NamedFile::new(self.name.to_owned(), Form::Jsonl, source)
        })
    }
}
