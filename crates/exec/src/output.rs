//! The output of a command: its beginning in memory, more in a temporary file without a name, up to a limit.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::sync::Arc;
use std::time::Duration;

/// Time to read the output of processes that outlive their command.
pub(crate) const STRAGGLERS: Duration = Duration::from_millis(200);

/// How much of an output is kept, and where.
#[derive(Debug, Clone, Copy)]
pub(super) struct OutputSettings {
    pub in_memory: usize,
    pub most: u64,
}

/// The output of a command to one of its streams.
#[derive(Debug, Clone, Default)]
pub struct Output {
    head: Vec<u8>,
    total: u64,
    stored: u64,
    file: Option<Arc<File>>,
}

impl Output {
    /// The beginning that is kept in memory.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The beginning as text: invalid UTF-8 is replaced by U+FFFD, and a truncated last character is omitted.
    pub fn text(&self) -> String {
        shown(&self.head, self.is_truncated())
    }

    /// Number of bytes that the command printed.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// True if [`head`](Self::head) is not the complete output.
    pub fn is_truncated(&self) -> bool {
        self.total > self.head.len() as u64
    }

    /// Number of bytes that were dropped, because they exceeded the limit.
    pub fn lost(&self) -> u64 {
        self.total - self.stored.max(self.head.len() as u64)
    }

    /// Everything that is kept, from memory or from the file.
    ///
    /// # Errors
    /// Errors of reading the file.
    pub fn kept(&self) -> io::Result<Cow<'_, [u8]>> {
        match self.file {
            Some(_) => {
                let mut bytes = Vec::new();
                self.write_to(&mut bytes)?;
                Ok(bytes.into())
            }
            None => Ok(self.head.as_slice().into()),
        }
    }

    /// Writes everything that is kept, from memory or from the file.
    ///
    /// # Errors
    /// Errors of reading the file and of writing.
    pub fn write_to(&self, to: &mut impl Write) -> io::Result<()> {
        match &self.file {
            Some(file) => {
                let mut file = &**file;
                file.rewind()?;
                io::copy(&mut file.take(self.stored), to).map(drop)
            }
            None => to.write_all(&self.head),
        }
    }
}

/// Bytes as text, without a character whose end was cut off.
pub(super) fn shown(bytes: &[u8], is_cut: bool) -> String {
    match std::str::from_utf8(bytes) {
        Err(why) if is_cut && why.error_len().is_none() => {
            String::from_utf8_lossy(&bytes[..why.valid_up_to()]).into_owned()
        }
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// An output while it is read.
pub(super) struct Capture {
    output: Output,
    settings: OutputSettings,
    failed: Option<io::Error>,
}

impl Capture {
    pub fn new(settings: OutputSettings) -> Self {
        Self {
            output: Output::default(),
            settings,
            failed: None,
        }
    }

    pub fn take(&mut self, bytes: &[u8]) {
        let output = &mut self.output;
        output.total += bytes.len() as u64;
        let most = usize::try_from(self.settings.most).unwrap_or(usize::MAX);
        let room = self.settings.in_memory.min(most) - output.head.len();
        let (head, rest) = bytes.split_at(bytes.len().min(room));
        output.head.extend_from_slice(head);
        if rest.is_empty() || self.failed.is_some() {
            return;
        }
        if let Err(error) = self.store(rest) {
            self.failed = Some(error);
            // A partial output is useless, and its disk space is needed.
            (self.output.file, self.output.stored) = (None, 0);
        }
    }

    fn store(&mut self, rest: &[u8]) -> io::Result<()> {
        let output = &mut self.output;
        let stored = output.stored.max(output.head.len() as u64);
        let room = self.settings.most.saturating_sub(stored);
        let rest = &rest[..rest.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        if rest.is_empty() {
            return Ok(());
        }
        let file = match &output.file {
            Some(file) => file.clone(),
            None => {
                let file = tempfile::tempfile()?;
                (&file).write_all(&output.head)?;
                output.stored = output.head.len() as u64;
                output.file.insert(Arc::new(file)).clone()
            }
        };
        (&*file).write_all(rest)?;
        output.stored += rest.len() as u64;
        Ok(())
    }

    /// The output, and the reason if a part of it is missing.
    pub fn end(self) -> (Output, Option<io::Error>) {
        (self.output, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(most: u64, pieces: &[&[u8]]) -> Output {
        let in_memory = 4;
        let mut capture = Capture::new(OutputSettings { in_memory, most });
        pieces.iter().for_each(|piece| capture.take(piece));
        assert!(capture.failed.is_none());
        capture.end().0
    }

    #[test]
    fn an_output_is_bounded_in_memory_and_on_the_disk() {
        // At most four bytes are in memory.
        for (most, head, kept, lost, in_file) in [
            (100, "abcd", "abcdefgh", 0, true),
            (6, "abcd", "abcdef", 2, true),
            (4, "abcd", "abcd", 4, false),
            (2, "ab", "ab", 6, false),
        ] {
            let output = captured(most, &[b"ab", b"cde", b"fgh"]);
            assert_eq!((output.head(), output.total()), (head.as_bytes(), 8));
            assert_eq!(
                (&*output.kept().unwrap(), output.lost()),
                (kept.as_bytes(), lost)
            );
            assert!(output.is_truncated() && output.file.is_some() == in_file);
        }
        let short = captured(100, &[b"ab"]);
        assert!(!short.is_truncated() && short.file.is_none());
    }

    #[test]
    fn a_truncated_character_is_not_an_error() {
        let cut = captured(4, &["abc\u{e9}".as_bytes()]);
        assert_eq!(cut.text(), "abc");
        let faulty = captured(4, &[b"ab\xc3"]);
        assert_eq!(faulty.text(), "ab\u{fffd}");
    }
}
