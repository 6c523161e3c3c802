//! Tables of text, with a header row: each row becomes a list of texts, at its line.

use std::io::{self, BufReader, Read};

use serde_json::json;

use crate::base::bom::without_bom;
use crate::base::{Context, Error};
use crate::bulk::input::{
    Columns, Fault, Form, InputError, NamedFile, PromptSettings, Row, Rows, delimiter,
};
use crate::bulk::spool::SpoolFile;

use super::rows::Spooled;

/// Number of bytes that show the separator.
const FIRST_LOOK: usize = 16 << 10;

/// Writes the rows of the table in `text`.
///
/// # Errors
/// If it has no header, or if its end cannot be read. A row whose cells cannot be read is written as its fault.
pub(super) fn write(
    text: impl Read,
    form: Form,
    name: &str,
    spool: SpoolFile,
    settings: &PromptSettings,
    ctx: &Context,
) -> Result<NamedFile, Error> {
    let unreadable = |error: io::Error| InputError::unreadable(name, &error);
    let of_file = |fault: Fault| InputError::of_file(name, fault.to_string());
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
        let fault = row
            .as_ref()
            .and_then(|row| Some((row.line, row.last_fault()?)));
        match fault {
            Some((line, fault)) => Err(InputError::at(name, line, fault).into()),
            None => Ok(row),
        }
    };
    let Some(header) = next()? else {
        let fault = Fault::new("no header", "a header row with the names of the columns");
        return Err(of_file(fault).into());
    };
    let names = header.cells();
    let names = names.map_err(|fault| InputError::at(name, header.line, fault))?;
    let names: Vec<String> = names.into_iter().map(Into::into).collect();
    let width = names.len();
    // A setting says that quotation marks enclose fields.
    let is_doubtful = by == b'\t' && settings.quotes.is_none();
    let mut out = Spooled::new(name, spool, ctx);
    out.columns = Some(Columns::new(names, header.line));
    while let Some(row) = next()? {
        out.skip_to(row.line)?;
        let single = match is_doubtful {
            true => row.check_single(width),
            false => Ok(()),
        };
        match row.cells().and_then(|cells| single.map(|()| cells)) {
            Ok(cells) => out.row(&cells)?,
            Err(fault) => {
                let row = String::from_utf8_lossy(&row.bytes);
                out.row(&json!({"found": fault.found, "expected": fault.expected, "row": row}))?;
            }
        }
    }
    out.into_file()
}
