//! Splits chunks of a file into records, in any format: at a line end; in tables, at one that is not inside quotes.

use memchr::{memchr, memchr_iter, memchr2};

use super::Form;
use super::cells::fields;
use super::fault::Fault;
#[cfg(any(feature = "tables", feature = "templates"))]
use std::io;

/// Finds the first record. `last` means that no more bytes follow.
pub(super) fn next_record(form: Form, bytes: &[u8], last: bool) -> Next {
    match form.delimiter() {
        Some(delimiter) => next_row(bytes, delimiter, form.quotes(), last),
        None if form == Form::Text => next_text(bytes, last),
        None => next_line(bytes, last),
    }
}

/// Splits chunks into records and counts lines.
pub(super) struct Splitter {
    form: Form,
    line: u64,
}

impl Splitter {
    /// Begins at `line`.
    pub(super) fn new(form: Form, line: u64) -> Self {
        Self { form, line }
    }

    /// The line of the first byte that was not split yet.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// Adds the complete records of `bytes` to `out` and returns their number of bytes. After a fault, which is at
    /// [`line`](Self::line), the rest is unreadable.
    pub(super) fn split(
        &mut self,
        bytes: &[u8],
        last: bool,
        out: &mut Vec<Record>,
    ) -> Result<usize, Fault> {
        let mut at = 0;
        loop {
            let (start, end, after) = match next_record(self.form, &bytes[at..], last) {
                Next::Record { start, end, after } => (at + start, at + end, at + after),
                Next::Partial(skip) => {
                    self.pass(&bytes[at..at + skip]);
                    at += skip;
                    return if bytes.len() - at > MAX_RECORD_BYTES {
                        Err(too_long())
                    } else {
                        Ok(at)
                    };
                }
                Next::Unclosed(start) => {
                    self.pass(&bytes[at..at + start]);
                    return Err(Fault::new(
                        "a quoted field that is still open at the end of the file",
                        "a closing quote, or --quotes off if quotation marks are text in this file",
                    ));
                }
            };
            self.pass(&bytes[at..start]);
            if end - start > MAX_RECORD_BYTES {
                return Err(too_long());
            }
            out.push(Record {
                start,
                end,
                line: self.line,
            });
            self.pass(&bytes[start..after]);
            at = after;
        }
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.line += memchr_iter(b'\n', bytes).count() as u64;
    }
}

fn too_long() -> Fault {
    Fault::new(
        "a record of more than 64 MiB",
        "records of at most 64 MiB (is a quote or a line end missing?)",
    )
}

/// Maximum size of a record.
pub(crate) const MAX_RECORD_BYTES: usize = 64 << 20;

/// Accepts at most as many bytes as a record may have.
#[cfg(any(feature = "tables", feature = "templates"))]
pub(crate) struct Bounded<'b>(pub(crate) &'b mut Vec<u8>);

#[cfg(any(feature = "tables", feature = "templates"))]
impl io::Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_RECORD_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A record in a chunk of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    /// Its start in the chunk.
    pub(super) start: usize,
    /// Its end, without the line end.
    pub(super) end: usize,
    /// Its first line, counted from 1.
    pub(super) line: u64,
}

/// The beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A record, and the start of the next one.
    Record {
        start: usize,
        end: usize,
        after: usize,
    },
    /// Only blank lines up to this position, then an incomplete record.
    Partial(usize),
    /// A quote that is not closed at the end of the input.
    Unclosed(usize),
}

pub(super) fn is_blank(line: &[u8]) -> bool {
    line.trim_ascii().is_empty()
}

pub(super) fn next_line(bytes: &[u8], last: bool) -> Next {
    let mut start = 0;
    loop {
        let (end, after) = match memchr(b'\n', &bytes[start..]) {
            Some(i) => (start + i, start + i + 1),
            None if last && start < bytes.len() => (bytes.len(), bytes.len()),
            None => return Next::Partial(start),
        };
        let line = &bytes[start..end];
        if !is_blank(line) {
            let end = end - usize::from(line.ends_with(b"\r"));
            return Next::Record { start, end, after };
        }
        start = after;
    }
}

/// Finds the first line of a text, in which a lone carriage return ends a line, too.
pub(super) fn next_text(bytes: &[u8], last: bool) -> Next {
    let mut at = 0;
    loop {
        match any_row(&bytes[at..], 0, false, last) {
            Next::Record { start, end, after } if is_blank(&bytes[at + start..at + end]) => {
                at += after;
            }
            Next::Record { start, end, after } => {
                return Next::Record {
                    start: at + start,
                    end: at + end,
                    after: at + after,
                };
            }
            Next::Partial(start) | Next::Unclosed(start) => return Next::Partial(at + start),
        }
    }
}

/// Finds the first row. Rows of empty cells count as blank lines, because spreadsheets write them below a table.
pub(super) fn next_row(bytes: &[u8], delimiter: u8, quotes: bool, last: bool) -> Next {
    let mut at = 0;
    loop {
        match any_row(&bytes[at..], delimiter, quotes, last) {
            Next::Record { start, end, after } => {
                let (start, end) = (at + start, at + end);
                if !is_empty_row(&bytes[start..end], delimiter) {
                    let after = at + after;
                    return Next::Record { start, end, after };
                }
                at += after;
            }
            Next::Partial(start) => return Next::Partial(at + start),
            Next::Unclosed(start) => return Next::Unclosed(at + start),
        }
    }
}

fn is_empty_row(row: &[u8], delimiter: u8) -> bool {
    let nothing = |b: &u8| *b == delimiter || matches!(b, b' ' | b'\t' | b'"');
    let text = std::str::from_utf8(row).unwrap_or_default();
    row.contains(&delimiter)
        && row.iter().all(nothing)
        && fields(text, delimiter)
            .iter()
            .all(|cell| cell.trim().is_empty())
}

fn any_row(bytes: &[u8], delimiter: u8, quotes: bool, last: bool) -> Next {
    let is_end = |b: &u8| matches!(b, b'\n' | b'\r');
    let Some(start) = bytes.iter().position(|b| !is_end(b)) else {
        return Next::Partial(bytes.len());
    };
    let row = &bytes[start..];
    let end = match memchr2(b'\n', b'\r', row) {
        Some(end) if !quotes || memchr(b'"', &row[..end]).is_none() => Some(end),
        None if !quotes => last.then_some(row.len()),
        _ => match quoted_row_end(row, delimiter) {
            (Some(end), _) => Some(end),
            (None, open) if last && open => return Next::Unclosed(start),
            (None, _) => last.then_some(row.len()),
        },
    };
    match end {
        Some(end) => Next::Record {
            start,
            end: start + end,
            after: (start + end + 1).min(bytes.len()),
        },
        None => Next::Partial(start),
    }
}

/// The end of a row that contains quotes, or whether its last quote is not closed.
fn quoted_row_end(row: &[u8], delimiter: u8) -> (Option<usize>, bool) {
    let mut field_start = true;
    let mut at = 0;
    while let Some(&byte) = row.get(at) {
        if byte == b'"' && field_start {
            loop {
                match memchr(b'"', &row[at + 1..]) {
                    None => return (None, true),
                    Some(i) => at += i + 2,
                }
                if row.get(at) != Some(&b'"') {
                    break;
                }
            }
            field_start = false;
            continue;
        }
        if matches!(byte, b'\n' | b'\r') {
            return (Some(at), false);
        }
        field_start = byte == delimiter;
        at += 1;
    }
    (None, false)
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
