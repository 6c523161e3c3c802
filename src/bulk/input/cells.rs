//! The rows of a table of text, and the values of records. Rows are read by own code, because other readers accept faulty
//! quotation marks in silence, and these merge rows; tests compare it with the csv crate.

use std::borrow::Cow;
use std::io::{self, BufRead};

use memchr::{memchr, memchr_iter, memchr3};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::fault::{Fault, text_of};
use super::records::{MAX_RECORD_BYTES, too_long};

/// The byte order mark that a file keeps if it is appended to another one.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// A row of a table of text, according to RFC 4180.
#[derive(Debug, Default)]
pub(crate) struct Row {
    /// Its first line, counted from 1.
    pub(crate) line: u64,
    /// Its bytes, without the line end.
    pub(crate) bytes: Vec<u8>,
    /// The text of its cells, one after the other.
    text: Vec<u8>,
    /// Where cells end in the text; the last one ends with it.
    ends: Vec<usize>,
    /// The number of the first cell with text after its closing quote.
    misquoted: Option<usize>,
    /// Whether a line end ends it, not the end of the text.
    pub(super) is_ended: bool,
    /// A fault after which nothing more can be read.
    pub(crate) last_fault: Option<Fault>,
}

/// The position within a cell.
#[derive(Clone, Copy, PartialEq)]
enum Within {
    Start,
    Plain,
    Quotes,
    /// After a quote within quotes: it closes them, or another one follows.
    Closed,
}

impl Row {
    /// Number of cells.
    pub(super) fn len(&self) -> usize {
        self.ends.len() + 1
    }

    /// Whether it counts as a blank line.
    fn is_blank(&self) -> bool {
        self.bytes.is_empty() || self.len() > 1 && self.text.trim_ascii().is_empty()
    }

    /// Its cells, whatever they contain.
    pub(crate) fn texts(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        let ends = self.ends.iter().copied().chain([self.text.len()]);
        let cells = starts.zip(ends).map(|(start, end)| &self.text[start..end]);
        cells.map(String::from_utf8_lossy)
    }

    /// Its cells.
    ///
    /// # Errors
    /// If it is not text, or if text follows a closing quote: its author may have meant another field, or several rows.
    pub(crate) fn cells(&self) -> Result<Vec<Cow<'_, str>>, Fault> {
        text_of(&self.bytes)?;
        match self.misquoted {
            None => Ok(self.texts().collect()),
            Some(field) => Err(Fault::new(
                format!("text after the closing quotation mark of field {field}"),
                "a delimiter or the end of the row there: inside quotes, \" is written \"\"; if quotation marks are text in \
                 this file, say --quotes off",
            )),
        }
    }

    /// Rejects a row of several lines if each of them could be a row of that many cells: most programs write tabs between
    /// fields without any quoting, and then a text that begins with a quotation mark would swallow the rows below it.
    pub(crate) fn check_single(&self, cells: usize) -> Result<(), Fault> {
        let tabs = |line: &[u8]| line.iter().filter(|byte| **byte == b'\t').count();
        let mut lines = self.bytes.split(|byte| *byte == b'\n');
        if cells < 2 || !self.bytes.contains(&b'\n') || !lines.all(|line| tabs(line) + 1 == cells) {
            return Ok(());
        }
        Err(Fault::new(
            "a quoted field of several lines that could each be a row",
            "--quotes off if quotation marks are text in this file, or --quotes on if they enclose fields",
        ))
    }
}

/// Reads rows one after the other; blank ones are skipped.
pub(crate) struct Rows<R> {
    text: R,
    delimiter: u8,
    /// Whether fields may be quoted.
    quotes: bool,
    line: u64,
}

impl<R: BufRead> Rows<R> {
    /// Reads a text, which begins at that line.
    pub(crate) fn new(text: R, delimiter: u8, quotes: bool, line: u64) -> Self {
        Self {
            text,
            delimiter,
            quotes,
            line,
        }
    }

    pub(crate) fn next(&mut self) -> io::Result<Option<Row>> {
        loop {
            let row = self.any()?;
            if !row.is_blank() || row.last_fault.is_some() {
                return Ok(Some(row));
            }
            if !row.is_ended {
                return Ok(None);
            }
        }
    }

    fn any(&mut self) -> io::Result<Row> {
        let begin = |line| Row {
            line,
            ..Row::default()
        };
        let mut row = begin(self.line);
        let mut within = Within::Start;
        while row.bytes.len() <= MAX_RECORD_BYTES {
            let block = match self.text.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                block => block?,
            };
            let Some(byte) = block.first().copied() else {
                row.last_fault = (within == Within::Quotes).then(unclosed);
                return Ok(row);
            };
            // The row may begin with a mark.
            let may_be_mark = row.bytes.len() < MARK.len();
            let plain = match within {
                Within::Quotes if !may_be_mark => memchr(b'"', block),
                Within::Plain if !may_be_mark => memchr3(self.delimiter, b'\n', b'\r', block),
                _ => Some(0),
            };
            let plain = plain.unwrap_or(block.len());
            if plain > 0 {
                let plain = &block[..plain];
                row.bytes.extend_from_slice(plain);
                row.text.extend_from_slice(plain);
                self.line += memchr_iter(b'\n', plain).count() as u64;
                let read = plain.len();
                self.text.consume(read);
                continue;
            }
            self.text.consume(1);
            self.line += u64::from(byte == b'\n');
            within = match (within, byte) {
                (Within::Quotes, b'"') => Within::Closed,
                (Within::Closed, b'"') | (Within::Quotes, _) => {
                    row.text.push(byte);
                    Within::Quotes
                }
                (Within::Start, b'"') if self.quotes => Within::Quotes,
                (_, b'\n' | b'\r') => {
                    row.is_ended = true;
                    return Ok(row);
                }
                (_, byte) if byte == self.delimiter => {
                    row.ends.push(row.text.len());
                    Within::Start
                }
                (before, _) => {
                    if before == Within::Closed {
                        row.misquoted = row.misquoted.or(Some(row.len()));
                    }
                    row.text.push(byte);
                    Within::Plain
                }
            };
            row.bytes.push(byte);
            if row.bytes == MARK {
                row = begin(row.line);
                within = Within::Start;
            }
        }
        row.last_fault = Some(too_long());
        Ok(row)
    }
}

fn unclosed() -> Fault {
    Fault::new(
        "a quoted field that is still open at the end of the file",
        "a closing quote, or --quotes off if quotation marks are text in this file",
    )
}

/// The cells of a row that cannot be read, beside its fault. Bytes that are not UTF-8 are replaced.
#[derive(Deserialize)]
struct FaultyRow<'r> {
    #[serde(borrow)]
    cells: Vec<&'r RawValue>,
}

/// The values of a row, also of one that cannot be read.
pub(super) fn any_values(row: &str) -> Result<Vec<&RawValue>, Fault> {
    match serde_json::from_str::<FaultyRow<'_>>(row) {
        Ok(faulty) => Ok(faulty.cells),
        Err(_) => values(row),
    }
}

/// The values of a row that is a JSON list, or the fault that stands in its place.
pub(super) fn values(row: &str) -> Result<Vec<&RawValue>, Fault> {
    if row.starts_with('{') {
        let fault = serde_json::from_str(row);
        return Err(fault.unwrap_or_else(|error| Fault::new(error.to_string(), "a list of values")));
    }
    serde_json::from_str(row)
        .map_err(|error| Fault::new(format!("invalid JSON ({error})"), "a list of values"))
}

/// A field of a record for templates and ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field<'r> {
    /// JSON null, or an empty cell of a typed table. Tables of text have none.
    Null,
    Text(Cow<'r, str>),
    /// A number, boolean, list or object in JSON.
    Json(Cow<'r, str>),
}

impl<'r> Field<'r> {
    pub(super) fn of(value: &'r RawValue) -> Self {
        match value.get() {
            "null" => Self::Null,
            // JSON allows halves of surrogate pairs, which are not valid text.
            json if json.starts_with('"') => {
                Self::Text(serde_json::from_str(json).map_or(Cow::Borrowed(json), Cow::Owned))
            }
            json => Self::Json(Cow::Borrowed(json)),
        }
    }

    /// Its text in a prompt: a string without its quotes, an empty text for null, otherwise its JSON.
    pub(super) fn into_text(self) -> Cow<'r, str> {
        match self {
            Self::Null => Cow::Borrowed(""),
            Self::Text(text) | Self::Json(text) => text,
        }
    }

    pub(super) fn as_text(&self) -> &str {
        match self {
            Self::Null => "",
            Self::Text(text) | Self::Json(text) => text,
        }
    }
}
