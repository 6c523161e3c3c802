//! Splits chunks of a file into records: its lines.

use std::io;
use std::ops::Range;

use memchr::{memchr, memchr2};

use super::fault::Fault;
use crate::base::json_read::without_bom;

/// Adds the complete records of `bytes` to `out`, without line ends, and returns their number of bytes. After a fault, which
/// is at the returned position, the rest is unreadable.
pub(super) fn split(
    is_text: bool,
    bytes: &[u8],
    last: bool,
    out: &mut Vec<Range<usize>>,
) -> Result<usize, (usize, Fault)> {
    let mut at = 0;
    loop {
        match next_record(is_text, &bytes[at..], last) {
            Next::Record { start, end, .. } if end - start > MAX_RECORD_BYTES => {
                return Err((at + start, too_long()));
            }
            Next::Record { start, end, after } => {
                out.push(at + start..at + end);
                at += after;
            }
            Next::Partial(skip) if bytes.len() - at - skip > MAX_RECORD_BYTES => {
                return Err((at + skip, too_long()));
            }
            Next::Partial(skip) => return Ok(at + skip),
        }
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
