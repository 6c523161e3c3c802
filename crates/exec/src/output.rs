//! The output of a command: its beginning in memory, more in a temporary file without a name, up to a limit.

use std::io::{self, PipeReader, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use tempfile::SpooledTempFile;

/// Number of bytes in memory, and of those that are shown as text.
const HEAD: usize = 64 * 1024;

/// The output of a command to one of its streams.
#[derive(Debug, Clone, Default)]
pub struct Output {
    total: u64,
    stored: u64,
    /// What is kept, in memory or in a file.
    kept: Option<Arc<Mutex<SpooledTempFile>>>,
}

impl Output {
    /// The beginning as text, at most 64 KiB: invalid UTF-8 is replaced by U+FFFD, and a truncated last character is
    /// omitted.
    pub fn text(&self) -> String {
        let mut head = Vec::new();
        // What cannot be read is missing.
        let _ = self.read(HEAD as u64, &mut head);
        shown(&head, self.total > head.len() as u64)
    }

    /// Number of bytes that the command printed.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Number of bytes that were dropped, because they exceeded the limit.
    pub fn lost(&self) -> u64 {
        self.total - self.stored
    }

    /// Everything that is kept, from memory or from the file.
    ///
    /// # Errors
    /// Errors of reading the file.
    pub fn kept(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.write_to(&mut bytes).map(|()| bytes)
    }

    /// Writes everything that is kept, from memory or from the file.
    ///
    /// # Errors
    /// Errors of reading the file and of writing.
    pub fn write_to(&self, to: &mut impl Write) -> io::Result<()> {
        self.read(u64::MAX, to)
    }

    fn read(&self, most: u64, to: &mut impl Write) -> io::Result<()> {
        let Some(kept) = &self.kept else {
            return Ok(());
        };
        let mut kept = kept.lock();
        kept.rewind()?;
        io::copy(&mut Read::take(&mut *kept, most), to).map(drop)
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
#[derive(Default)]
pub(super) struct Capture {
    /// `None` after it was closed.
    pub pipe: Option<PipeReader>,
    pub output: Output,
    /// Why a part of it is missing.
    pub failed: Option<io::Error>,
}

impl Capture {
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Reads what is available, after an event has reported data, and keeps up to `most` bytes in all.
    pub fn read(&mut self, buffer: &mut [u8], most: u64) {
        let Some(pipe) = &mut self.pipe else { return };
        match pipe.read(buffer) {
            Ok(0) => self.pipe = None,
            Ok(n) => self.take(&buffer[..n], most),
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.pipe = None,
        }
    }

    /// Keeps these bytes, up to `most` in all.
    fn take(&mut self, bytes: &[u8], most: u64) {
        let output = &mut self.output;
        output.total += bytes.len() as u64;
        let room = usize::try_from(most - output.stored).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(room)];
        if bytes.is_empty() || self.failed.is_some() {
            return;
        }
        let empty = || Arc::new(Mutex::new(SpooledTempFile::new(HEAD)));
        let kept = output.kept.get_or_insert_with(empty);
        let written = kept.lock().write_all(bytes);
        match written {
            Ok(()) => output.stored += bytes.len() as u64,
            Err(why) => {
                self.failed = Some(why);
                // A partial output is useless, and its disk space is needed.
                (output.kept, output.stored) = (None, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(most: u64, pieces: &[&[u8]]) -> Output {
        let mut capture = Capture::default();
        pieces.iter().for_each(|piece| capture.take(piece, most));
        assert!(capture.failed.is_none());
        capture.output
    }

    #[test]
    fn an_output_is_bounded_in_memory_and_on_the_disk() {
        let letters: Vec<u8> = (b'a'..=b'z').cycle().take(80_000).collect();
        let pieces: Vec<&[u8]> = letters.chunks(30_000).collect();
        for (most, kept, in_file) in [
            (100_000, 80_000, true),
            (70_000, 70_000, true),
            (65_536, 65_536, false),
            (2, 2, false),
        ] {
            let output = captured(most, &pieces);
            assert_eq!(output.kept().unwrap(), letters[..kept]);
            assert_eq!(output.text().as_bytes(), &letters[..kept.min(65_536)]);
            let lost = 80_000 - kept as u64;
            assert_eq!((output.total(), output.lost()), (80_000, lost));
            let file = output.kept.unwrap();
            assert_eq!(file.lock().is_rolled(), in_file);
        }
    }

    #[test]
    fn a_truncated_character_is_not_an_error() {
        let cut = captured(4, &["abc\u{e9}".as_bytes()]);
        assert_eq!(cut.text(), "abc");
        let faulty = captured(4, &[b"ab\xc3"]);
        assert_eq!(faulty.text(), "ab\u{fffd}");
    }
}
