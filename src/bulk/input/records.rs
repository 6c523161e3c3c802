//! Splits chunks of a file into records: its lines.

use std::io;

use memchr::{memchr, memchr_iter, memchr2};

use super::fault::Fault;
use crate::base::json_read::without_bom;

/// Splits chunks into records and counts lines.
pub(super) struct Splitter {
    is_text: bool,
    line: u64,
}

impl Splitter {
    /// Begins at the first line of a file.
    pub(super) fn new(is_text: bool) -> Self {
        Self { is_text, line: 1 }
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
            let (start, end, after) = match next_record(self.is_text, &bytes[at..], last) {
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

pub(crate) fn too_long() -> Fault {
    Fault::new(
        "a record of more than 64 MiB",
        "records of at most 64 MiB (is a quote or a line end missing?)",
    )
}

/// Maximum size of a record.
pub(crate) const MAX_RECORD_BYTES: usize = 64 << 20;

/// Accepts at most as many bytes as a record may have.
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
}

pub(super) fn is_blank(line: &[u8]) -> bool {
    without_bom(line).trim_ascii().is_empty()
}

/// Finds the first line that is not blank. In a text a lone carriage return ends a line, too. `last` means that no more
/// bytes follow.
pub(super) fn next_record(is_text: bool, bytes: &[u8], last: bool) -> Next {
    let line_end = |rest: &[u8]| {
        if is_text {
            memchr2(b'\n', b'\r', rest)
        } else {
            memchr(b'\n', rest)
        }
    };
    let mut start = 0;
    loop {
        let (end, after) = match line_end(&bytes[start..]) {
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

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
