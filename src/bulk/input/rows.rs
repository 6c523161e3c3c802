//! Where a record ends: at a line end, or for tables at the line end that is not inside quotes.

use std::io;

use memchr::{memchr, memchr2};

use super::cells::fields;

/// The longest record.
pub(crate) const MAX_RECORD_BYTES: usize = 64 << 20;

/// Takes at most as many bytes as a record may have.
pub(crate) struct Bounded<'b>(pub(crate) &'b mut Vec<u8>);

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
    /// Where it begins in the chunk.
    pub(super) start: usize,
    /// Where it ends, its line ending left out.
    pub(super) end: usize,
    /// Its first line, counted from 1.
    pub(super) line: u64,
}

/// What stands at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A record, and where what follows it begins.
    Record {
        start: usize,
        end: usize,
        after: usize,
    },
    /// Nothing but blank lines up to there, then no whole record.
    Partial(usize),
    /// A quote that is still open at the end of the input.
    Unclosed(usize),
}

/// The bytes without a byte order mark in front.
pub(super) fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
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

/// Rows of empty cells, as spreadsheets write them below a table, are blank lines.
pub(super) fn next_row(bytes: &[u8], delimiter: u8, last: bool) -> Next {
    let mut at = 0;
    loop {
        match any_row(&bytes[at..], delimiter, last) {
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

fn any_row(bytes: &[u8], delimiter: u8, last: bool) -> Next {
    let is_end = |b: &u8| matches!(b, b'\n' | b'\r');
    let Some(start) = bytes.iter().position(|b| !is_end(b)) else {
        return Next::Partial(bytes.len());
    };
    let row = &bytes[start..];
    let end = match memchr2(b'\n', b'\r', row) {
        Some(end) if memchr(b'"', &row[..end]).is_none() => Some(end),
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

/// The end of a row that holds quotes, or whether its last quote is still open.
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
