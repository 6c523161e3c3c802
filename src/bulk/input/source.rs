//! Positioned reads from one open file, from several threads at once, and detection of changes since it was opened. The
//! handle stays open, so a file that is replaced by a rename is still read in its old version.

use std::fs::{File, Metadata};
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use memchr::memchr_iter;
use parking_lot::Mutex;

use super::Form;
use super::entry::LARGEST_FILE;
use super::records::next_record;
use super::rows::{MAX_RECORD_BYTES, Next};

/// An open regular file.
#[derive(Debug)]
pub(crate) struct Source {
    #[cfg(unix)]
    file: File,
    #[cfg(not(unix))]
    file: Mutex<File>,
    stamp: Stamp,
    /// The part that was read last.
    block: Mutex<Block>,
    /// For a file that is still being written: its end, once it is known.
    growing: Option<AtomicU64>,
}

/// The number of bytes that are read at once for small records: a read of 16 KiB takes about as long as two of a few
/// hundred bytes.
const BLOCK_BYTES: usize = 16 << 10;

#[derive(Debug, Default)]
struct Block {
    start: u64,
    bytes: Arc<Vec<u8>>,
}

impl Block {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Returns `None` if a part of these bytes is not in the block.
    fn part(&self, offset: u64, len: usize) -> Option<SharedBytes> {
        let start = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        let range = start..start.checked_add(len)?;
        self.bytes.get(range.clone())?;
        Some(SharedBytes {
            bytes: self.bytes.clone(),
            range,
        })
    }
}

/// Bytes of a file, which other readers may share.
pub(super) struct SharedBytes {
    bytes: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }
}

/// The properties that show whether a file has changed.
#[derive(Debug, PartialEq)]
pub(crate) struct Stamp {
    len: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            len: metadata.len(),
            modified: metadata.modified().ok(),
        }
    }

    /// How a file with this stamp differs from its current one.
    fn change(&self, now: &Self) -> Option<String> {
        if now.len != self.len {
            return Some(format!("it had {} bytes and now has {}", self.len, now.len));
        }
        (now.modified != self.modified).then(|| "it was written to".to_owned())
    }
}

/// The original of a converted input.
#[derive(Debug)]
pub(crate) enum Origin {
    Open(Source),
    /// A file that is not opened here.
    Closed(PathBuf, Stamp),
}

impl Origin {
    pub(crate) fn closed(path: &Path) -> io::Result<Self> {
        let stamp = Stamp::of(&regular(path)?);
        Ok(Self::Closed(path.to_owned(), stamp))
    }

    /// How the file differs from its earlier state.
    pub(super) fn change(&self) -> Option<String> {
        match self {
            Self::Open(source) => source.change(),
            Self::Closed(path, stamp) => match std::fs::metadata(path) {
                Ok(metadata) => stamp.change(&Stamp::of(&metadata)),
                Err(_) => Some("it is gone".to_owned()),
            },
        }
    }
}

fn regular(path: &Path) -> io::Result<Metadata> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_file() {
        Ok(metadata)
    } else {
        Err(io::Error::other(
            "it is not a regular file; pipe it in and name \"-\" as the input instead",
        ))
    }
}

/// Reads a file from its beginning.
struct SourceReader<'s> {
    source: &'s Source,
    at: u64,
}

impl io::Read for SourceReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Source {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // Checked before opening, because opening a pipe waits for its writer.
        regular(path)?;
        Self::of(File::open(path)?)
    }

    pub(crate) fn of(file: File) -> io::Result<Self> {
        let stamp = Stamp::of(&file.metadata()?);
        Ok(Self {
            #[cfg(unix)]
            file,
            #[cfg(not(unix))]
            file: Mutex::new(file),
            stamp,
            block: Mutex::default(),
            growing: None,
        })
    }

    /// A file that another handle continues to write to.
    pub(crate) fn growing(file: File) -> io::Result<Self> {
        let growing = Some(AtomicU64::new(LARGEST_FILE));
        Self::of(file).map(|source| Self { growing, ..source })
    }

    /// Sets the end of the file when its last byte was written.
    pub(super) fn end(&self, len: u64) {
        if let Some(end) = &self.growing {
            end.store(len, Ordering::Release);
        }
    }

    /// Bytes in the file when it was opened; for a file that is still being written, the largest number.
    pub(crate) fn len(&self) -> u64 {
        let end = self.growing.as_ref();
        end.map_or(self.stamp.len, |end| end.load(Ordering::Acquire))
    }

    /// A reader of the whole file from its beginning.
    pub(crate) fn reader(&self) -> impl io::Read + '_ {
        SourceReader {
            source: self,
            at: 0,
        }
    }

    /// How the file differs from what was opened.
    pub(super) fn change(&self) -> Option<String> {
        if self.growing.is_some() {
            return None;
        }
        #[cfg(unix)]
        let metadata = self.file.metadata().ok()?;
        #[cfg(not(unix))]
        let metadata = self.file.lock().metadata().ok()?;
        self.stamp.change(&Stamp::of(&metadata))
    }

    #[cfg(unix)]
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.file, buffer, offset)
    }

    #[cfg(not(unix))]
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = self.file.lock();
        file.seek(SeekFrom::Start(offset))?;
        file.read(buffer)
    }

    /// Fills the buffer up to the end of the file; returns the number of bytes.
    pub(crate) fn fill(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Exactly the bytes from `offset` to `end`.
    pub(super) fn bytes(&self, offset: u64, end: u64) -> io::Result<SharedBytes> {
        let len = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = len.min(MAX_RECORD_BYTES + 2);
        if len < BLOCK_BYTES {
            let mut block = self.block.lock();
            if offset >= block.end() {
                // Records are usually read in their order, so that the next ones will be read soon.
                *block = Block {
                    start: offset,
                    bytes: Arc::new(self.read(offset, BLOCK_BYTES)?),
                };
            }
            if let Some(bytes) = block.part(offset, len) {
                return Ok(bytes);
            }
        }
        let bytes = self.read(offset, len)?;
        if bytes.len() < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(SharedBytes {
            range: 0..len,
            bytes: Arc::new(bytes),
        })
    }

    /// Up to `len` bytes.
    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; len];
        let filled = self.fill(&mut buffer, offset)?;
        buffer.truncate(filled);
        Ok(buffer)
    }

    /// The first record from `offset` on, whose length is unknown: its bytes, its start, and the start of the next one.
    pub(super) fn record(
        &self,
        form: Form,
        offset: u64,
    ) -> io::Result<Option<(Vec<u8>, u64, u64)>> {
        let mut len = 16 << 10;
        loop {
            let mut buffer = vec![0; len];
            let filled = self.fill(&mut buffer, offset)?;
            buffer.truncate(filled);
            let last = filled < len;
            match next_record(form, &buffer, last) {
                Next::Record { start, end, after } => {
                    buffer.truncate(end);
                    buffer.drain(..start);
                    return Ok(Some((buffer, offset + start as u64, offset + after as u64)));
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
        let mut buffer = vec![0; 1 << 20];
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;
    use std::io::Write;

    #[test]
    fn shared_bytes_are_those_of_the_file() {
        let mut random = Random(1);
        let content: Vec<u8> = (0..100_000).map(|_| random.below(256) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        let source = Source::of(file).unwrap();
        let mut next = 0;
        for _ in 0..5_000 {
            let start = if random.chance(80) {
                next
            } else {
                random.index(content.len())
            };
            let most = [300, 20_000][random.index(2)];
            let len = random.index(most);
            let end = (start + len).min(content.len());
            let bytes = source.bytes(start as u64, end as u64).unwrap();
            assert!(*bytes == content[start..end], "{start}..{end}");
            next = if end == content.len() { 0 } else { end };
        }
        let after_end = source.bytes(99_999, 100_001).err().unwrap();
        assert_eq!(after_end.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn bytes_that_were_written_later_are_read() {
        let mut file = tempfile::tempfile().unwrap();
        let source = Source::growing(file.try_clone().unwrap()).unwrap();
        file.write_all(b"one").unwrap();
        assert_eq!(&*source.bytes(0, 3).unwrap(), b"one");
        assert!(source.bytes(3, 6).is_err());
        file.write_all(b"two").unwrap();
        assert_eq!(&*source.bytes(3, 6).unwrap(), b"two");
        assert_eq!(&*source.bytes(0, 6).unwrap(), b"onetwo");
    }
}
