//! Positioned reads from one open file, from several threads at once, and detection of changes since it was opened. The
//! handle stays open, so a file that is replaced by a rename is still read in its old version.

use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::SystemTime;

use memchr::memchr_iter;

use crate::base::named_file;

use super::records::{MAX_RECORD_BYTES, Next, next_record};

/// An open regular file, with the properties that show whether it has changed.
#[derive(Debug)]
pub(crate) struct Source {
    file: File,
    len: u64,
    modified: Option<SystemTime>,
}

impl Source {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::of(
            named_file::regular(path, true).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidInput => io::Error::other(
                    "it is not a regular file; pipe it in and name \"-\" as the input instead",
                ),
                _ => error,
            })?,
        )
    }

    pub(crate) fn of(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            len: metadata.len(),
            modified: metadata.modified().ok(),
            file,
        })
    }

    /// Bytes in the file when it was opened.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// A reader of the whole file from its beginning.
    pub(crate) fn reader(&self) -> io::Result<&File> {
        let mut file = &self.file;
        file.rewind()?;
        Ok(file)
    }

    /// How the file differs from what was opened.
    pub(super) fn change(&self) -> Option<String> {
        let now = self.file.metadata().ok()?;
        if now.len() != self.len {
            let (before, now) = (self.len, now.len());
            return Some(format!("it had {before} bytes and now has {now}"));
        }
        (now.modified().ok() != self.modified).then(|| "it was written to".to_owned())
    }

    /// Fills the buffer up to the end of the file; returns the number of bytes.
    pub(crate) fn fill(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self
                .file
                .read_at(&mut buffer[filled..], offset + filled as u64)
            {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Exactly the bytes from `offset` to `end`.
    pub(super) fn bytes(&self, offset: u64, end: u64) -> io::Result<Vec<u8>> {
        let len = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut buffer = vec![0; len.min(MAX_RECORD_BYTES + 2)];
        if self.fill(&mut buffer, offset)? == buffer.len() {
            Ok(buffer)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// The first record from `offset` on, whose length is unknown.
    pub(super) fn record(&self, is_text: bool, offset: u64) -> io::Result<Option<Vec<u8>>> {
        let mut len = 16 << 10;
        loop {
            let mut buffer = vec![0; len];
            let filled = self.fill(&mut buffer, offset)?;
            buffer.truncate(filled);
            let last = filled < len;
            match next_record(is_text, &buffer, last) {
                Next::Record { start, end, .. } => {
                    buffer.truncate(end);
                    buffer.drain(..start);
                    return Ok(Some(buffer));
                }
                _ if last || len > MAX_RECORD_BYTES => return Ok(None),
                _ => len *= 4,
            }
        }
    }

    /// The lines of the given offsets, found in one pass over the file.
    pub(super) fn lines_of(&self, offsets: &[u64]) -> io::Result<Vec<u64>> {
        let mut order: Vec<usize> = (0..offsets.len()).collect();
        order.sort_by_key(|&i| offsets[i]);
        let mut lines = vec![0; offsets.len()];
        let last = offsets.iter().max().map_or(0, |last| *last);
        let mut buffer = vec![0; last.min(1 << 20) as usize];
        let (mut at, mut line) = (0u64, 1u64);
        for i in order {
            while at < offsets[i] {
                let want = usize::try_from(offsets[i] - at).unwrap_or(usize::MAX);
                let want = want.min(buffer.len());
                let n = self.fill(&mut buffer[..want], at)?;
                if n == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                line += memchr_iter(b'\n', &buffer[..n]).count() as u64;
                at += n as u64;
            }
            lines[i] = line;
        }
        Ok(lines)
    }
}
