//! Standard output for a table: makes texts harmless for a terminal, and allows the reader to close the pipe.

use std::io::{self, Write};

use crate::sanitize::harmless;

pub struct TableStdout<W> {
    out: W,
    /// The incomplete line, if lines are made harmless before they are shown.
    line: Option<Vec<u8>>,
    is_gone: bool,
}

impl<W: Write> TableStdout<W> {
    pub fn new(out: W, is_terminal: bool) -> Self {
        Self {
            out,
            line: is_terminal.then(Vec::new),
            is_gone: false,
        }
    }

    /// True after the reader has closed it.
    pub fn reader_is_gone(&self) -> bool {
        self.is_gone
    }

    fn noted<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        let is_gone = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
        self.is_gone |= result.as_ref().err().is_some_and(is_gone);
        result
    }
}

impl<W: Write> Write for TableStdout<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(line) = &mut self.line else {
            let written = self.out.write(bytes);
            return self.noted(written);
        };
        line.extend_from_slice(bytes);
        let Some(end) = line.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(bytes.len());
        };
        let whole: Vec<u8> = line.drain(..=end).collect();
        let shown = harmless(&String::from_utf8_lossy(&whole));
        let written = self.out.write_all(shown.as_bytes());
        self.noted(written).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        self.noted(flushed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_cells_cannot_control_the_terminal() {
        let table = "a,\u{1b}[2Jé\u{202e}\n\"x\r\ny\",z\n".as_bytes();
        let mut plain = Vec::new();
        TableStdout::new(&mut plain, false)
            .write_all(table)
            .unwrap();
        assert_eq!(plain, table);
        let mut shown = Vec::new();
        let mut out = TableStdout::new(&mut shown, true);
        for piece in table.chunks(3) {
            out.write_all(piece).unwrap();
        }
        assert_eq!(
            String::from_utf8(shown).unwrap(),
            "a, [2Jé\u{fffd}\n\"x \ny\",z\n"
        );
    }
}
