//! Tables: each row becomes a line with a JSON list, at the line that it has in the input, if that has lines.

use std::io::{self, BufReader, Read};
use std::path::Path;

use serde::Serialize;
use serde_json::json;

use crate::base::json_read::without_bom;
use crate::base::{Context, Error};
use crate::bulk::input::{
    Bounded, Columns, Fault, Form, MAX_RECORD_BYTES, NamedFile, Place, PromptSettings, Row, Rows,
    delimiter, fault, text_of, too_long,
};
use crate::bulk::spool::SpoolFile;

/// Rows of JSON that are being written.
pub(super) struct Spooled<'r> {
    spool: SpoolFile,
    pub(super) columns: Option<Columns>,
    pub(super) first: Place,
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
            first: Place::line(1),
            name,
            line: Vec::new(),
            written: 0,
            ctx,
        }
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
        written.map_err(|error| {
            if error.is_io() {
                let place = self.first.at(self.written + 1);
                fault::at(self.name, place, too_long())
            } else {
                fault::of_file(self.name, error.to_string())
            }
        })?;
        self.line.push(b'\n');
        self.written += 1;
        self.spool.write(&self.line)
    }

    /// The complete rows as an input.
    pub(super) fn into_file(self) -> Result<NamedFile, Error> {
        let source = self.spool.into_source()?;
        Ok(NamedFile {
            first: self.first,
            columns: self.columns,
            ..NamedFile::new(self.name.to_owned(), Form::Jsonl, source)
        })
    }
}

/// Number of bytes that show the separator.
const FIRST_LOOK: usize = 16 << 10;

/// Writes the rows of a table of text, which has a header row.
///
/// # Errors
/// If it has no header, or if its end cannot be read. A row whose cells cannot be read is written as its fault.
pub(super) fn of_text(
    text: impl Read,
    form: Form,
    name: &str,
    spool: SpoolFile,
    settings: &PromptSettings,
    ctx: &Context,
) -> Result<NamedFile, Error> {
    let unreadable = |error: io::Error| fault::unreadable(name, &error);
    let of_file = |fault: Fault| fault::of_file(name, fault);
    let mut text = BufReader::with_capacity(1 << 16, text);
    let mut start = Vec::new();
    let read = (&mut text).take(FIRST_LOOK as u64).read_to_end(&mut start);
    let last = read.map_err(unreadable)? < FIRST_LOOK;
    let start = without_bom(&start);
    let (by, skipped) = delimiter(start, last, form, settings).map_err(of_file)?;
    let text = start[skipped..].chain(text);
    let quotes = settings.quotes.unwrap_or(true);
    let mut rows = Rows::new(text, by, quotes, 1 + u64::from(skipped > 0));
    let mut next = || -> Result<Option<Row>, Error> {
        let row = rows.next().map_err(unreadable)?;
        match row {
            Some(Row {
                line,
                last_fault: Some(fault),
                ..
            }) => Err(fault::at(name, Place::line(line), fault)),
            row => Ok(row),
        }
    };
    let Some(header) = next()? else {
        let fault = Fault::new("no header", "a header row with the names of the columns");
        return Err(of_file(fault));
    };
    let names = header.cells();
    let names = names.map_err(|fault| fault::at(name, Place::line(header.line), fault))?;
    let mut names: Vec<String> = names.into_iter().map(Into::into).collect();
    let width = names.len();
    if settings.without_header {
        names = (1..=width).map(|i| format!("column {i}")).collect();
    }
    // A setting says that quotation marks enclose fields.
    let is_doubtful = by == b'\t' && settings.quotes.is_none();
    let mut out = Spooled::new(name, spool, ctx);
    out.columns = Some(Columns::new(names, header.line));
    let mut first = settings.without_header.then_some(header);
    while let Some(row) = first.take().map_or_else(&mut next, |row| Ok(Some(row)))? {
        while out.written + 1 < row.line {
            out.blank()?;
        }
        let single = if is_doubtful {
            row.check_single(width)
        } else {
            Ok(())
        };
        match row.cells().and_then(|cells| single.map(|()| cells)) {
            Ok(cells) => out.row(&cells)?,
            Err(fault) => {
                let cells: Vec<_> = row.texts().collect();
                out.row(
                    &json!({"found": fault.found, "expected": fault.expected, "cells": cells}),
                )?;
            }
        }
    }
    out.into_file()
}

/// Writes the one row of a file that is one prompt.
pub(super) fn whole(
    text: impl Read,
    name: &str,
    spool: SpoolFile,
    ctx: &Context,
) -> Result<NamedFile, Error> {
    let mut content = Vec::new();
    let read = text.take(MAX_RECORD_BYTES as u64).read_to_end(&mut content);
    read.map_err(|error| fault::unreadable(name, &error))?;
    let content = text_of(without_bom(&content));
    let content = content.map_err(|fault| fault::of_file(name, fault))?;
    let id = name.trim_start_matches("./");
    let file = Path::new(name).file_name().unwrap_or_default();
    let mut out = Spooled::new(name, spool, ctx);
    out.first = Place::row(1);
    let names = ["id", "path", "name", "content"].map(str::to_owned);
    out.columns = Some(Columns::new(names.to_vec(), 0).prompt("content"));
    out.row(&[id, id, &file.to_string_lossy(), content])?;
    out.into_file()
}
