//! Files on the disk that can be checked completely and read twice: streams, and converted inputs.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::base::disk::room;
use crate::base::{Context, Error, ErrorKind, private};

use super::input::{Source, fault};

/// Number of bytes that are read at once.
const CHUNK_BYTES: usize = 1 << 16;
/// Number of bytes between two checks of the free space.
const LOOK_BYTES: u64 = 16 << 20;
/// Free space of a disk that is left for others.
const LEFT_FREE: u64 = 256 << 20;

/// Maximum number of bytes of any input after unpacking or conversion, and of a large one per byte.
const UNPACKED_ANYWAY: u64 = 4 << 30;
const UNPACKED_PER_BYTE: u64 = 64;

/// Maximum number of bytes of an input of `input` bytes after unpacking or conversion.
pub(super) fn most_unpacked(input: u64) -> u64 {
    let usual = input.saturating_mul(UNPACKED_PER_BYTE);
    usual.max(UNPACKED_ANYWAY)
}

/// Copies all of a text.
pub(super) fn copy(
    mut text: impl Read,
    spool: &mut SpoolFile,
    name: &str,
    ctx: &Context,
) -> Result<(), Error> {
    let mut piece = vec![0; CHUNK_BYTES];
    loop {
        ctx.check()?;
        match text.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => spool.write(&piece[..n])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(fault::unreadable(name, &error)),
        }
    }
}

/// A new file without a name in a folder, readable only for this user; it is gone when it is closed.
pub(super) struct SpoolFile {
    folder: PathBuf,
    /// The name of the input that is written to it.
    name: String,
    file: BufWriter<File>,
    written: u64,
    /// Maximum number of bytes.
    most: u64,
    looked: u64,
    /// Reads free and total bytes of a disk.
    room: fn(&Path) -> Option<(u64, u64)>,
}

impl SpoolFile {
    /// Creates the file, and the folder if necessary. It accepts at most `most` bytes.
    pub(super) fn new(folder: &Path, name: &str, most: u64) -> Result<Self, Error> {
        let file = private::make_folder(folder).and_then(|()| tempfile::tempfile_in(folder));
        let file = file.map_err(|error| unwritable(folder, &error))?;
        Ok(Self {
            folder: folder.to_owned(),
            name: name.to_owned(),
            file: BufWriter::with_capacity(CHUNK_BYTES, file),
            written: 0,
            most,
            looked: 0,
            room,
        })
    }

    /// The same, or if that folder is not writable, in the system's folder for temporary files.
    pub(super) fn anywhere(folder: &Path, name: &str, most: u64) -> Result<Self, Error> {
        Self::new(folder, name, most).or_else(|_| Self::new(&std::env::temp_dir(), name, most))
    }

    /// Appends bytes while the disk has enough free space, because a few bytes may unpack to more than any disk can
    /// hold.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.written += bytes.len() as u64;
        if self.written > self.most {
            return Err(self.refused(&format!(
                "its unpacked or converted size exceeds {}, the limit for unpacked inputs",
                shown(self.most)
            )));
        }
        if self.written - self.looked >= LOOK_BYTES {
            self.looked = self.written;
            if (self.room)(&self.folder).is_some_and(|(free, _)| free < LEFT_FREE) {
                return Err(self.refused(&format!(
                    "it needs more than {} MiB in {}, and that disk is nearly full",
                    self.written >> 20,
                    self.folder.display()
                )));
            }
        }
        let written = self.file.write_all(bytes);
        written.map_err(|error| unwritable(&self.folder, &error))
    }

    fn refused(&self, why: &str) -> Error {
        let why = format!("{}: {why}; nothing was sent", self.name);
        Error::new(ErrorKind::Invalid, why)
    }

    /// The written bytes for reading.
    pub(super) fn into_source(self) -> Result<Source, Error> {
        let file = self.file.into_inner().map_err(|error| error.into_error());
        let read = file.and_then(Source::of);
        read.map_err(|error| unwritable(&self.folder, &error))
    }
}

/// A size for messages.
fn shown(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{bytes} bytes"),
        mib => format!("{mib} MiB"),
    }
}

fn unwritable(folder: &Path, error: &io::Error) -> Error {
    let why = format!("cannot write to {}: {error}", folder.display());
    Error::new(ErrorKind::Invalid, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_that_would_fill_the_disk_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = SpoolFile::new(folder.path(), "in.csv.gz", u64::MAX).unwrap();
        spool.room = |_| Some((LEFT_FREE - 1, 1 << 40));
        let endless = io::repeat(b'x').take(1 << 30);
        let full = copy(endless, &mut spool, "in.csv.gz", &Context::new());
        let full = full.unwrap_err();
        let said = "in.csv.gz: it needs more than 16 MiB in ";
        assert!(full.message().starts_with(said), "{full}");
        drop(spool);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_input_that_exceeds_the_limit_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        for (most, said) in [(9, "9 bytes"), (3 << 20, "3 MiB")] {
            let mut spool = SpoolFile::new(folder.path(), "in.csv.gz", most).unwrap();
            let text = |len| io::repeat(b'x').take(len);
            let mut write = |len| copy(text(len), &mut spool, "in.csv.gz", &Context::new());
            write(most).unwrap();
            let expected = format!(
                "in.csv.gz: its unpacked or converted size exceeds {said}, the limit for unpacked inputs; \
                 nothing was sent"
            );
            assert_eq!(write(1).unwrap_err().message(), expected);
        }
    }
}
