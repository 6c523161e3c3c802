//! Lines of JSON, one at a time in memory.

use std::io::{self, BufRead, Read as _};

/// The byte order mark that some programs write at the start of a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// The buffer shrinks to this size after a long line.
const SHORT: usize = 64 << 10;

/// The lines of a text that are not blank, without a byte order mark at its start.
#[derive(Debug)]
pub struct JobLines<R> {
    reader: R,
    most: u64,
    number: u64,
    bytes: u64,
    line: Vec<u8>,
}

impl<R: BufRead> JobLines<R> {
    /// Lines of at most this many bytes.
    pub fn new(reader: R, most: u64) -> Self {
        Self {
            reader,
            most,
            number: 0,
            bytes: 0,
            line: Vec::new(),
        }
    }

    /// The number of the last line, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How many bytes were read.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// When it cannot be read; of the kind `FileTooLarge` when it is too long.
    pub fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        let start = loop {
            self.line.clear();
            self.line.shrink_to(SHORT);
            self.number += 1;
            let mut bounded = (&mut self.reader).take(self.most + 1);
            let read = bounded.read_until(b'\n', &mut self.line)? as u64;
            self.bytes += read;
            if read > self.most {
                let why = format!("longer than {} MiB", self.most >> 20);
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
            }
            if read == 0 {
                return Ok(None);
            }
            let has_mark = self.number == 1 && self.line.starts_with(BYTE_ORDER_MARK);
            let start = if has_mark { BYTE_ORDER_MARK.len() } else { 0 };
            if !self.line[start..].trim_ascii().is_empty() {
                break start;
            }
        };
        Ok(Some(&self.line[start..]))
    }
}
