//! The body of a reply, read into memory when there is memory for it.
//!
//! A reply is billed when it begins to arrive, and a server that cannot send it may close the connection. Therefore
//! reading does not wait for memory that other calls hold: the rest of the reply goes to a file without a name and is
//! read from there when memory is available. Reading waits only if such a file cannot be created or written, and the
//! time limits of the call do not include that wait.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::base::private;
use crate::base::secret::redacted_url;
use crate::base::{Context, Error, ErrorKind, Sent};

use super::input::CHUNK_BYTES;
use super::memory::{FREE, ReplyShare};

/// The bytes that arrived: first those in memory, then those in the file.
pub(super) struct Body {
    bytes: Vec<u8>,
    aside: SpillFile,
}

/// Reads a body.
pub(super) struct BodyReader<'a> {
    /// The length in the header of the reply. The server may send less.
    pub announced: Option<u64>,
    /// The maximum number of bytes to read.
    pub most: u64,
    pub share: &'a ReplyShare,
    pub ctx: &'a Context,
    /// Creates the file.
    pub file: fn() -> io::Result<File>,
    /// Gets the time in which the body was not read.
    pub paused: &'a dyn Fn(Duration),
}

impl BodyReader<'_> {
    pub fn read(&self, reader: impl Read) -> io::Result<Body> {
        let mut reader = reader.take(self.most);
        let mut aside = SpillFile::default();
        let expected = self.announced.unwrap_or(2048).min(FREE);
        let mut bytes = Vec::with_capacity(expected as usize + 1);
        reader.by_ref().take(FREE).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < FREE {
            return Ok(Body { bytes, aside });
        }
        let needed = self
            .announced
            .map_or(self.most, |announced| announced.min(self.most));
        if !self.share.take_now(needed) {
            if aside.fill(&mut reader, self.file)? {
                return Ok(Body { bytes, aside });
            }
            let began = Instant::now();
            let taken = self.share.take(needed, self.ctx);
            taken.map_err(io::Error::other)?;
            (self.paused)(began.elapsed());
        }
        aside.bring_back(&mut bytes)?;
        aside = SpillFile::default();
        if self.announced.is_some() {
            // Reserved at once, because a buffer that grows exists twice for a moment. If this fails, the body may still
            // be smaller.
            let left = (needed as usize).saturating_sub(bytes.len());
            let _ = bytes.try_reserve_exact(left.saturating_add(1));
        }
        reader.read_to_end(&mut bytes)?;
        self.share.keep(bytes.len() as u64);
        Ok(Body { bytes, aside })
    }
}

impl Body {
    /// The whole body in memory, for which it may wait. The time limit of the call does not end this wait, because the
    /// reply has arrived.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn into_memory(
        mut self,
        url: &str,
        share: &ReplyShare,
        ctx: &Context,
    ) -> Result<Vec<u8>, Error> {
        if self.aside.written == 0 {
            return Ok(self.bytes);
        }
        let length = self.bytes.len() as u64 + self.aside.written;
        // If the call is aborted meanwhile, it still keeps the reply, because it was billed, and exceeds the memory
        // limit for a moment.
        let _ = share.take(length, ctx);
        self.aside.bring_back(&mut self.bytes).map_err(|error| {
            let host = redacted_url(url);
            let why = format!("cannot read back what came from {host}: {error}");
            Error::new(ErrorKind::Invalid, why).with_sent(Sent::Maybe)
        })?;
        Ok(self.bytes)
    }
}

/// A part of a reply that is not in memory.
#[derive(Default)]
struct SpillFile {
    file: Option<File>,
    written: u64,
    /// The bytes that could not be written.
    rest: Vec<u8>,
}

impl SpillFile {
    /// Reads to the end; false if the file cannot be written to the end.
    fn fill(&mut self, reader: &mut impl Read, file: fn() -> io::Result<File>) -> io::Result<bool> {
        let Ok(file) = file() else {
            return Ok(false);
        };
        let file = self.file.insert(file);
        let mut piece = vec![0; CHUNK_BYTES];
        loop {
            let read = match reader.read(&mut piece) {
                Ok(0) => return Ok(true),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if file.write_all(&piece[..read]).is_err() {
                piece.truncate(read);
                self.rest = piece;
                return Ok(false);
            }
            self.written += read as u64;
        }
    }

    /// Appends the bytes in the file, and those that could not be written.
    fn bring_back(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        bytes.reserve_exact(self.written as usize + self.rest.len());
        if let Some(file) = &mut self.file {
            file.rewind()?;
            // A failed write may have written a part of its piece, which is in `rest`.
            let back = file.take(self.written).read_to_end(bytes)?;
            if back as u64 != self.written {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        bytes.append(&mut self.rest);
        Ok(())
    }
}

/// A file without a name, so that no other process finds it and it is removed when this process ends. It is preferably
/// on a disk, because `/tmp` is in memory on many systems.
pub(super) fn nameless() -> io::Result<File> {
    let on_disk = cfg!(unix) && std::env::var_os("TMPDIR").is_none();
    let first = on_disk.then(|| nameless_in("/var/tmp".into()));
    match first {
        Some(Ok(file)) => Ok(file),
        _ => nameless_in(std::env::temp_dir()),
    }
}

fn nameless_in(folder: PathBuf) -> io::Result<File> {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let made = MADE.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!(".batchwright-{}-{made}.reply", std::process::id()));
    let mut options = File::options();
    let file = private::open(options.read(true).write(true).create_new(true), &path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
