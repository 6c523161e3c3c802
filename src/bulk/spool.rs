//! What is kept on the disk so that it can be checked whole and read twice: streams, and inputs that were made
//! into something else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::base::cancel::Context;
use crate::base::disk::room;
use crate::base::error::{Error, ErrorKind};
use crate::base::private;

use super::input::{InputError, Source};

/// What is read at a time.
const CHUNK_BYTES: usize = 1 << 16;
/// How such files are called, now and by earlier versions.
const PREFIXES: [&str; 2] = ["batchwright-input-", "stdin-"];
/// How many bytes are written between two looks at the disk.
const LOOK_BYTES: u64 = 16 << 20;
/// What is left free of a disk: others need some of it.
const LEFT_FREE: u64 = 256 << 20;

/// Copies all of a text, whose pieces `seen` is shown.
pub(super) fn copy(
    mut text: impl Read,
    spool: &mut SpoolFile,
    name: &str,
    ctx: &Context,
    seen: &mut dyn FnMut(&[u8]),
) -> Result<(), Error> {
    let mut piece = vec![0; CHUNK_BYTES];
    loop {
        ctx.check()?;
        match text.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                spool.write(&piece[..n])?;
                seen(&piece[..n]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(InputError::unreadable(name, &error).into()),
        }
    }
}

/// A new file of a folder, for this user's eyes, whose name goes when it is dropped. Whoever sweeps leaves
/// it alone, since it is locked.
pub(super) struct SpoolFile {
    path: PathBuf,
    folder: PathBuf,
    /// The input that is written to it.
    name: String,
    file: BufWriter<File>,
    written: u64,
    looked: u64,
    /// What a disk has free, and has in all.
    room: fn(&Path) -> Option<(u64, u64)>,
}

impl SpoolFile {
    /// Makes the file, and the folder if need be.
    pub(super) fn new(folder: &Path, name: &str) -> Result<Self, Error> {
        let unwritable = |error| unwritable(folder, &error);
        private::make_folder(folder).map_err(unwritable)?;
        sweep(folder);
        let path = folder.join(format!("{}{}", PREFIXES[0], uuid::Uuid::now_v7()));
        let mut options = OpenOptions::new();
        let file = private::open(options.write(true).create_new(true), &path);
        let file = file.map_err(unwritable)?;
        let _ = file.try_lock();
        Ok(Self {
            path,
            folder: folder.to_owned(),
            name: name.to_owned(),
            file: BufWriter::with_capacity(CHUNK_BYTES, file),
            written: 0,
            looked: 0,
            room,
        })
    }

    /// Appends bytes, as long as the disk has room for others as well: a few bytes may unpack to more than
    /// any disk holds.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.written += bytes.len() as u64;
        if self.written - self.looked >= LOOK_BYTES {
            self.looked = self.written;
            if (self.room)(&self.folder).is_some_and(|(free, _)| free < LEFT_FREE) {
                let why = format!(
                    "{}: it needs more than {} MiB of room in {}, whose disk is nearly full; nothing was \
                     sent",
                    self.name,
                    self.written >> 20,
                    self.folder.display()
                );
                return Err(Error::new(ErrorKind::Invalid, why));
            }
        }
        let written = self.file.write_all(bytes);
        written.map_err(|error| unwritable(&self.folder, &error))
    }

    /// What was written, to be read.
    pub(super) fn into_source(mut self) -> Result<Source, Error> {
        let read = self.file.flush().and_then(|()| Source::open(&self.path));
        read.map_err(|error| unwritable(&self.folder, &error))
    }
}

fn unwritable(folder: &Path, error: &io::Error) -> Error {
    let why = format!("cannot write to {}: {error}", folder.display());
    Error::new(ErrorKind::Invalid, why)
}

/// Takes the name away; what is open stays readable.
impl Drop for SpoolFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Deletes what killed programs left behind.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_ours = PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        // To open a pipe would wait for its writer.
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let free = File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
        if free {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_fill_the_disk_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = SpoolFile::new(folder.path(), "in.csv.gz").unwrap();
        spool.room = |_| Some((LEFT_FREE - 1, 1 << 40));
        let endless = io::repeat(b'x').take(1 << 30);
        let full = copy(
            endless,
            &mut spool,
            "in.csv.gz",
            &Context::new(),
            &mut |_| {},
        );
        let full = full.unwrap_err();
        let said = "in.csv.gz: it needs more than 16 MiB of room in ";
        assert!(full.message().starts_with(said), "{full}");
        drop(spool);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
