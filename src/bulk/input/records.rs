//! Splits chunks of a file into records, in any format.

use memchr::memchr_iter;

use super::Form;
use super::fault::Fault;
use super::rows::{MAX_RECORD_BYTES, Next, Record, next_line, next_row, next_text};

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

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
