//! The body of a reply, read into memory when there is memory for it.
//!
//! A reply is paid for when it begins to arrive, and a server that cannot get rid of it may hang up.
//! So nobody stops reading because others hold the memory for large replies: what comes meanwhile is
//! set aside in a file without a name, and read from there when there is room. Only where no such file
//! can be made or filled does reading wait, and that wait is not counted as the server's.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind, Sent};
use crate::base::private;
use crate::base::secret::redacted_url;

use super::encoding::Encoding;
use super::memory::{FREE, ReplyShare};

const CHUNK_BYTES: usize = 64 * 1024;

/// What came, in the order in which it came: what is in memory, then what is set aside.
pub(super) struct Body {
    bytes: Vec<u8>,
    aside: SpillFile,
}

/// How a body is read.
pub(super) struct BodyReader<'a> {
    /// The length that the server has told. It may announce more than it sends.
    pub announced: Option<u64>,
    /// No more bytes than these are read.
    pub most: u64,
    /// It is decoded afterwards: what the account of memory is asked for is what comes of it, and what is
    /// too large for memory without the account is set aside.
    pub encoded: bool,
    pub share: &'a ReplyShare,
    pub ctx: &'a Context,
    /// A file to set it aside in.
    pub file: fn() -> io::Result<File>,
    /// Told for how long it was not read.
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
        if self.encoded {
            if !aside.fill(&mut reader, self.file)? {
                aside.bring_back(&mut bytes)?;
                aside = SpillFile::default();
                reader.read_to_end(&mut bytes)?;
            }
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
            aside.bring_back(&mut bytes)?;
            aside = SpillFile::default();
        }
        if self.announced.is_some() {
            // A buffer that grows is there twice for a moment. If it cannot have so much, it may need less.
            let left = (needed as usize).saturating_sub(bytes.len());
            let _ = bytes.try_reserve_exact(left.saturating_add(1));
        }
        reader.read_to_end(&mut bytes)?;
        self.share.keep(bytes.len() as u64);
        Ok(Body { bytes, aside })
    }
}

impl Body {
    /// What an encoded body stands for.
    ///
    /// # Errors
    /// When it is damaged, with all that came.
    pub fn decoded(
        mut self,
        encoding: &Encoding,
        reading: &BodyReader<'_>,
    ) -> Result<Self, (io::Error, Vec<u8>)> {
        let Self { bytes, aside } = &mut self;
        let decoded = aside.reader().and_then(|rest| {
            let reader = encoding.decoder(bytes.as_slice().chain(rest));
            reading.read(reader)
        });
        decoded.map_err(|error| {
            let mut bytes = std::mem::take(bytes);
            match aside.bring_back(&mut bytes) {
                Ok(()) => (error, bytes),
                Err(error) => (error, bytes),
            }
        })
    }

    /// All of it in memory, which it may wait for. A time limit of the call does not end that wait: the
    /// reply has come.
    ///
    /// # Errors
    /// When what was set aside cannot be read.
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
        // Who is told to end now ends with what it has: the reply was paid for, so it is over the limit
        // for a moment rather than lost.
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
    /// What the file did not take.
    rest: Vec<u8>,
}

impl SpillFile {
    /// Reads to the end; false if the disk did not let it come so far.
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

    /// Reads what the file took.
    fn reader(&mut self) -> io::Result<io::Take<Box<dyn Read + '_>>> {
        let file: Box<dyn Read> = match &mut self.file {
            Some(file) => {
                file.rewind()?;
                Box::new(file)
            }
            None => Box::new(io::empty()),
        };
        Ok(file.take(self.written))
    }

    /// Appends what was set aside.
    fn bring_back(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        bytes.reserve_exact(self.written as usize + self.rest.len());
        if let Some(file) = &mut self.file {
            file.rewind()?;
            // Of a piece that was refused, a part may be there.
            let back = file.take(self.written).read_to_end(bytes)?;
            if back as u64 != self.written {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        bytes.append(&mut self.rest);
        Ok(())
    }
}

/// A file that nobody else finds, and that is gone with this process at the latest: on a disk, if there
/// is one, since `/tmp` is memory itself on many systems.
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
