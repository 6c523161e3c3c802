//! The files of the Batch endpoint, on the disk or in the database that servers share: written piece by piece, bounded all
//! together.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use batchwright::unstable::{make_private_folder, open_private};
use batchwright::{Error, ErrorKind};
use parking_lot::Mutex;

use super::pieces::{PIECE, Pieces};
use crate::problem::Problem;
use crate::records::Records;
use crate::records::owner::try_lock;

/// Where files lie, and how much they take up.
pub(crate) struct Storage {
    place: Place,
    most: u64,
    used: Mutex<u64>,
}

enum Place {
    Folder(PathBuf),
    /// The database that other servers share.
    Shared(Arc<Records>),
}

/// What a file is called until all of it is there.
const PARTIAL: &str = ".part";
/// The lock in the data folder of the server that writes results.
pub(super) const ROLE: &str = "files/.lock";
/// The same within the folder of the files.
const LOCK: &str = ".lock";

impl Storage {
    /// The files in this folder, which is made if it is not there. What uploads left that were cut off goes.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn open(folder: &Path, most: u64) -> Result<Self, Error> {
        let open = || -> io::Result<u64> {
            make_private_folder(folder)?;
            // Those of another server are still being written.
            let alone = try_lock(&folder.join(LOCK))?.is_some();
            let mut used = 0;
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                let is_partial = entry.file_name().to_string_lossy().ends_with(PARTIAL);
                if alone && is_partial {
                    fs::remove_file(entry.path())?
                } else {
                    used += entry.metadata()?.len()
                }
            }
            Ok(used)
        };
        let used = open().map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("{}: {error}", folder.display()))
        })?;
        Ok(Self {
            place: Place::Folder(folder.to_owned()),
            most,
            used: Mutex::new(used),
        })
    }

    /// The files in the database of these records, which servers on other machines share.
    pub fn shared(records: &Arc<Records>, most: u64) -> Self {
        Self {
            place: Place::Shared(Arc::clone(records)),
            most,
            // It is looked up before an upload.
            used: Mutex::new(0),
        }
    }

    /// Removes what was left of uploads that were cut off with their server.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub fn forget_cut_off(&self) -> Result<(), Error> {
        match &self.place {
            // Done when it was opened.
            Place::Folder(_) => Ok(()),
            Place::Shared(records) => Pieces::forget_cut_off(records),
        }
    }

    /// Takes up room.
    ///
    /// # Errors
    /// When there is not so much.
    pub fn take(&self, bytes: u64) -> Result<(), Problem> {
        let mut used = self.used.lock();
        match used.checked_add(bytes).filter(|sum| *sum <= self.most) {
            Some(sum) => {
                *used = sum;
                Ok(())
            }
            None => Err(self.full(*used)),
        }
    }

    /// Refuses what would not find room, before any of it has come.
    ///
    /// # Errors
    /// When there is not so much.
    pub fn check(&self, bytes: u64) -> Result<(), Problem> {
        if let Place::Shared(records) = &self.place {
            // Others have taken some, and given some back.
            *self.used.lock() = Pieces::all_bytes(records)?;
        }
        let used = *self.used.lock();
        if used.saturating_add(bytes) > self.most {
            Err(self.full(used))
        } else {
            Ok(())
        }
    }

    fn full(&self, used: u64) -> Problem {
        let why = format!(
            "files may take up {} bytes together, the limit of --max-uploads, and {used} are taken: delete files that are no \
             longer needed (DELETE /v1/files/ID), or raise the limit",
            self.most
        );
        // OpenAI's clients would send the whole file twice more.
        Problem::new(507, "insufficient_storage", why).header("x-should-retry", "false")
    }

    /// Gives room back.
    pub fn give_back(&self, bytes: u64) {
        let mut used = self.used.lock();
        *used = used.saturating_sub(bytes);
    }

    /// A new file of this id. Ids are made here, never by clients.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(&self, id: String) -> io::Result<NewFile<'_>> {
        let content = match &self.place {
            Place::Folder(folder) => {
                let partial = folder.join(format!("{id}{PARTIAL}"));
                let file = open_private(File::options().create_new(true).write(true), &partial)?;
                let path = folder.join(&id);
                NewContent::File {
                    file,
                    partial,
                    path,
                }
            }
            Place::Shared(records) => NewContent::Pieces {
                pieces: Pieces::new(records, &id),
                seq: 0,
                waiting: Vec::new(),
            },
        };
        Ok(NewFile {
            storage: self,
            id,
            content,
            bytes: 0,
            kept: false,
        })
    }

    /// A file that replaces the one of this id once it is [kept](NewFile::keep). Only one server at a time makes it.
    ///
    /// # Errors
    /// When it cannot be made.
    fn replace(&self, id: &str) -> io::Result<NewFile<'_>> {
        let partial = format!("{id}{PARTIAL}");
        // A server may have died while it did the same.
        self.remove(&partial)?;
        let mut new = match self.place {
            Place::Folder(_) => self.create(id.to_owned())?,
            Place::Shared(_) => self.create(partial)?,
        };
        id.clone_into(&mut new.id);
        Ok(new)
    }

    /// Opens a file that is there. Returns how long it is, too.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn read(&self, id: &str) -> io::Result<(Box<dyn Read + Send>, u64)> {
        match &self.place {
            Place::Folder(folder) => {
                let file = File::open(folder.join(id))?;
                let length = file.metadata()?.len();
                Ok((Box::new(file), length))
            }
            Place::Shared(records) => {
                let pieces = Pieces::new(records, id);
                Ok((Box::new(pieces.reader()?), pieces.bytes()?))
            }
        }
    }

    /// Opens a file to add to, which is made if it is not there.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn append(&self, id: &str) -> io::Result<GrowingFile<'_>> {
        let (content, bytes) = match &self.place {
            Place::Folder(folder) => {
                let mut options = File::options();
                let options = options.create(true).read(true).append(true);
                let file = open_private(options, &folder.join(id))?;
                let bytes = file.metadata()?.len();
                (GrowingContent::File(file), bytes)
            }
            Place::Shared(records) => {
                let pieces = Pieces::new(records, id);
                let (seq, bytes) = (pieces.next()?, pieces.bytes()?);
                (GrowingContent::Pieces { pieces, seq }, bytes)
            }
        };
        Ok(GrowingFile {
            storage: self,
            id: id.to_owned(),
            content,
            bytes,
        })
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// When it stays.
    pub fn remove(&self, id: &str) -> io::Result<()> {
        let bytes = match &self.place {
            Place::Folder(folder) => {
                let path = folder.join(id);
                let bytes = match fs::metadata(&path) {
                    Ok(file) => file.len(),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                    Err(error) => return Err(error),
                };
                fs::remove_file(&path)?;
                bytes
            }
            Place::Shared(records) => {
                let pieces = Pieces::new(records, id);
                let bytes = pieces.bytes()?;
                pieces.remove()?;
                bytes
            }
        };
        self.give_back(bytes);
        Ok(())
    }

    /// Has names that were given survive a power cut.
    ///
    /// # Errors
    /// When the system cannot.
    pub fn sync(&self) -> io::Result<()> {
        match &self.place {
            Place::Folder(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
            _ => Ok(()),
        }
    }
}

/// A file that is being written. Dropped before it is [kept](Self::keep) it leaves nothing behind.
pub(crate) struct NewFile<'s> {
    storage: &'s Storage,
    id: String,
    content: NewContent,
    bytes: u64,
    kept: bool,
}

enum NewContent {
    File {
        file: File,
        partial: PathBuf,
        path: PathBuf,
    },
    Pieces {
        pieces: Pieces,
        seq: i64,
        /// Less than a piece.
        waiting: Vec<u8>,
    },
}

impl NewFile<'_> {
    /// Makes it a file of its id, and returns that and how long it is.
    ///
    /// # Errors
    /// When it could not be written out.
    pub fn keep(mut self) -> io::Result<(String, u64)> {
        match &mut self.content {
            NewContent::File {
                file,
                partial,
                path,
            } => {
                file.sync_all()?;
                fs::rename(partial, path)?;
            }
            NewContent::Pieces {
                pieces,
                seq,
                waiting,
            } => {
                pieces.add(seq, waiting, true)?;
                if pieces.id == self.id {
                    pieces.keep()?;
                } else {
                    pieces.replace(&self.id, *seq, ROLE)?;
                }
            }
        }
        self.kept = true;
        self.storage.sync()?;
        Ok((self.id.clone(), self.bytes))
    }
}

impl NewContent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::File { file, .. } => file.write_all(bytes),
            Self::Pieces {
                pieces,
                seq,
                waiting,
            } => {
                waiting.extend_from_slice(bytes);
                if waiting.len() >= PIECE {
                    pieces.add(seq, waiting, true)?;
                    waiting.clear();
                }
                Ok(())
            }
        }
    }
}

impl Write for NewFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.storage.take(bytes.len() as u64)?;
        match self.content.write(bytes) {
            Ok(()) => {
                self.bytes += bytes.len() as u64;
                Ok(bytes.len())
            }
            Err(error) => {
                self.storage.give_back(bytes.len() as u64);
                Err(error)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let removed = match &self.content {
            NewContent::File { partial, .. } => fs::remove_file(partial),
            NewContent::Pieces { pieces, .. } => pieces.remove(),
        };
        if let Err(error) = removed {
            log::debug!("{} stays for now: {error}", self.id);
        }
        self.storage.give_back(self.bytes);
    }
}

/// A file that is added to.
pub(crate) struct GrowingFile<'s> {
    storage: &'s Storage,
    pub id: String,
    content: GrowingContent,
    pub bytes: u64,
}

enum GrowingContent {
    File(File),
    Pieces { pieces: Pieces, seq: i64 },
}

impl GrowingFile<'_> {
    /// Reads it from the beginning.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn reader(&mut self) -> io::Result<Box<dyn Read + '_>> {
        match &mut self.content {
            GrowingContent::File(file) => {
                file.seek(SeekFrom::Start(0))?;
                Ok(Box::new(file))
            }
            GrowingContent::Pieces { pieces, .. } => Ok(Box::new(pieces.reader()?)),
        }
    }

    /// Cuts off what is behind these bytes.
    ///
    /// # Errors
    /// When it stays.
    pub fn cut(&mut self, bytes: u64) -> io::Result<()> {
        match &mut self.content {
            GrowingContent::File(file) => file.set_len(bytes)?,
            // All of what is added is there, or nothing.
            GrowingContent::Pieces { .. } => {
                return Err(io::Error::other("a file of results is damaged"));
            }
        }
        self.storage.give_back(self.bytes - bytes);
        self.bytes = bytes;
        Ok(())
    }

    /// Removes all lines except of those that `stays` is true of. After a crash either all of these are gone or none.
    ///
    /// # Errors
    /// When there is no room for what is left, or it cannot be written.
    pub fn retain(&mut self, mut stays: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
        let storage = self.storage;
        let mut new = storage.replace(&self.id)?;
        let mut reader = BufReader::with_capacity(256 << 10, self.reader()?);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            if stays(&line) {
                new.write_all(&line)?;
            }
            line.clear();
        }
        drop(reader);
        new.keep()?;
        storage.give_back(self.bytes);
        *self = storage.append(&self.id)?;
        Ok(())
    }

    /// Has what is there survive a power cut.
    ///
    /// # Errors
    /// When the system cannot.
    pub fn sync(&self) -> io::Result<()> {
        match &self.content {
            GrowingContent::File(file) => file.sync_data(),
            GrowingContent::Pieces { .. } => Ok(()),
        }
    }

    /// Adds bytes, and has them survive a power cut.
    ///
    /// # Errors
    /// When there is no room, or they could not be written: then some may be there.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.storage.take(bytes.len() as u64)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let before = self.bytes;
        let written = match &mut self.content {
            GrowingContent::File(file) => {
                let written = file.write_all(bytes).and_then(|()| file.sync_data());
                self.bytes = match &written {
                    Ok(()) => before + bytes.len() as u64,
                    Err(_) => file.metadata().map_or(before, |file| file.len()),
                };
                written
            }
            GrowingContent::Pieces { pieces, seq } => {
                let written = pieces.add(seq, bytes, false);
                if written.is_ok() {
                    self.bytes += bytes.len() as u64;
                }
                written
            }
        };
        let missing = (before + bytes.len() as u64).saturating_sub(self.bytes);
        self.storage.give_back(missing);
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_together_are_bounded_and_what_is_cut_off_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(folder.path(), 10).unwrap();
        let mut kept = storage.create("a".to_owned()).unwrap();
        kept.write_all(b"12345").unwrap();
        assert_eq!(kept.keep().unwrap(), ("a".to_owned(), 5));
        let mut cut = storage.create("b".to_owned()).unwrap();
        cut.write_all(b"123").unwrap();
        let refused = Problem::from(cut.write_all(b"456").unwrap_err());
        assert_eq!(refused.status, 507);
        drop(cut);
        let names = || fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names(), 2, "the file and the lock");
        assert!(storage.check(5).is_ok());
        let full = storage.check(6).unwrap_err().to_string();
        assert!(full.contains("--max-uploads"), "{full}");

        std::mem::forget(storage.create("c".to_owned()).unwrap());
        let storage = Storage::open(folder.path(), 10).unwrap();
        assert_eq!(names(), 2, "a server that died leaves nothing either");
        assert!(storage.check(5).is_ok() && storage.check(6).is_err());
        storage.remove("a").unwrap();
        assert!(storage.check(10).is_ok());
    }

    /// Pieces that are longer than one, that are added to, and what a server has left that has ended.
    #[test]
    fn files_in_records_are_whole_and_what_is_cut_off_goes() {
        use crate::records::testing::in_each_place;
        in_each_place(|open| {
            let records = Arc::new(open());
            if !records.is_shared() {
                return;
            }
            let most = 4 * PIECE as u64;
            let (here, there) = (
                Storage::shared(&records, most),
                Storage::shared(&Arc::new(open()), most),
            );
            let bytes: Vec<u8> = (0..PIECE * 2 + 10).map(|n| (n % 251) as u8).collect();
            let mut new = here.create("a".to_owned()).unwrap();
            for part in bytes.chunks(100_000) {
                new.write_all(part).unwrap();
            }
            assert_eq!(new.keep().unwrap().1, bytes.len() as u64);
            let (mut file, length) = there.read("a").unwrap();
            let mut read = Vec::new();
            file.read_to_end(&mut read).unwrap();
            assert!(read == bytes && length == bytes.len() as u64);
            assert!(there.check(2 * PIECE as u64 - 10).is_ok());
            assert!(there.check(2 * PIECE as u64).is_err());
            let mut first = here.append("b").unwrap();
            let mut second = there.append("b").unwrap();
            first.append(b"one\n").unwrap();
            assert!(second.append(b"two\n").is_err(), "another one was first");
            let mut second = there.append("b").unwrap();
            second.append(b"two\n").unwrap();
            assert!(first.append(b"three\n").is_err());
            let mut text = String::new();
            second.reader().unwrap().read_to_string(&mut text).unwrap();
            assert_eq!((&*text, second.bytes), ("one\ntwo\n", 8));
            // Only the server with the role of the results removes lines.
            assert!(second.retain(|line| line == b"two\n").is_err());
            assert!(records.has_role(ROLE).unwrap());
            let mut own = here.append("b").unwrap();
            own.retain(|line| line == b"two\n").unwrap();
            own.append(b"four\n").unwrap();
            let mut text = String::new();
            own.reader().unwrap().read_to_string(&mut text).unwrap();
            assert_eq!((&*text, own.bytes), ("two\nfour\n", 9));
            drop((first, second, own));

            let mut cut = there.create("c".to_owned()).unwrap();
            cut.write_all(&bytes[..PIECE]).unwrap();
            here.forget_cut_off().unwrap();
            assert_eq!(
                here.read("c").unwrap().1,
                PIECE as u64,
                "it is still coming"
            );
            // As if its server were killed.
            std::mem::forget(cut);
            use crate::records::database::Statements;
            let end = "UPDATE #pieces SET owner = 'gone' WHERE file = 'c'";
            records.single().run(end, &[]).unwrap();
            here.forget_cut_off().unwrap();
            assert_eq!(here.read("c").unwrap().1, 0);
            here.remove("a").unwrap();
            assert!(here.check(most - 9).is_ok() && here.check(most).is_err());
        });
    }
}
