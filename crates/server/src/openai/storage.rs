//! The files of the Batch endpoint, on the disk: bounded all together.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use batchwright::unstable::{make_private_folder, named_file, open_private};
use batchwright::{Error, ErrorKind};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::problem::Problem;
use crate::records::{FileRecord, new_id};

/// Where files lie, and how much they take up.
pub(crate) struct Storage {
    folder: PathBuf,
    most: u64,
    used: Mutex<u64>,
}

/// What a file is called until all of it is there.
const PARTIAL: &str = ".part";

impl Storage {
    /// The files in this folder, which is made if it is not there. What uploads left that were cut off goes.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn open(folder: &Path, most: u64) -> Result<Self, Error> {
        let open = || -> io::Result<u64> {
            make_private_folder(folder)?;
            let mut used = 0;
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                if !entry.file_type()?.is_file() {
                    log::warn!(
                        "{} is not a file of this server, and stays",
                        entry.path().display()
                    );
                } else if entry.file_name().to_string_lossy().ends_with(PARTIAL) {
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
            folder: folder.to_owned(),
            most,
            used: Mutex::new(used),
        })
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
        self.take(bytes)?;
        self.give_back(bytes);
        Ok(())
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

    /// A new file, which has no id yet.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(&self) -> io::Result<NewFile<'_>> {
        let partial = self.folder.join(new_id("") + PARTIAL);
        let file = open_private(File::options().create_new(true).write(true), &partial)?;
        Ok(NewFile {
            storage: self,
            file,
            partial,
            bytes: 0,
            hash: Sha256::new(),
            kept: false,
        })
    }

    /// Opens a file that is there, and its length.
    ///
    /// # Errors
    /// When it cannot be; when it is missing, or has not all of its bytes and no others.
    pub fn read(&self, record: &FileRecord) -> Result<(File, u64), Problem> {
        let damaged = |what: &str| {
            let id = &record.id;
            let why = format!(
                "{id} {what}: restore it in the folder files of the server from a backup, or delete it"
            );
            Problem::new(500, "file_damaged", why).header("x-should-retry", "false")
        };
        let path = self.folder.join(&record.id);
        let file = named_file::regular(&path, false).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => damaged("is missing"),
            io::ErrorKind::IsADirectory | io::ErrorKind::InvalidInput => damaged("is no file"),
            _ => error.into(),
        })?;
        let (found, bytes) = (file.metadata()?.len(), record.bytes);
        if found == bytes {
            return Ok((file, bytes));
        }
        Err(damaged(&format!("has {found} of its {bytes} bytes")))
    }

    /// Whether a file is there.
    pub fn has(&self, id: &str) -> bool {
        self.folder.join(id).exists()
    }

    /// Opens a file to add to, which is made if it is not there.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn append(&self, id: &str) -> io::Result<GrowingFile<'_>> {
        let mut options = File::options();
        let options = options.create(true).read(true).append(true).mode(0o600);
        let file = named_file::output(options, &self.folder.join(id), false, false)?;
        Ok(GrowingFile {
            storage: self,
            id: id.to_owned(),
            bytes: file.metadata()?.len(),
            file,
        })
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// When it stays.
    pub fn remove(&self, id: &str) -> io::Result<()> {
        let path = self.folder.join(id);
        let bytes = match fs::symlink_metadata(&path) {
            Ok(file) => file.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        fs::remove_file(&path)?;
        self.give_back(bytes);
        Ok(())
    }

    /// Has names that were given survive a power cut.
    ///
    /// # Errors
    /// When the system cannot.
    pub fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

/// A file that is being written. Dropped before it is [kept](Self::keep) it leaves nothing behind.
pub(crate) struct NewFile<'s> {
    storage: &'s Storage,
    file: File,
    partial: PathBuf,
    bytes: u64,
    hash: Sha256,
    kept: bool,
}

impl NewFile<'_> {
    /// Has what was written survive a power cut, and returns how long it is.
    ///
    /// # Errors
    /// When it could not be written out.
    pub fn synced(&self) -> io::Result<u64> {
        self.file.sync_all()?;
        Ok(self.bytes)
    }

    /// Makes it the file of this id, which no other is: a server that died may have left one. Ids are made here, never by
    /// clients.
    ///
    /// # Errors
    /// When it cannot be named so.
    pub fn keep(mut self, id: &str) -> io::Result<()> {
        self.storage.remove(id)?;
        fs::rename(&self.partial, self.storage.folder.join(id))?;
        self.kept = true;
        self.storage.sync()
    }

    /// The SHA-256 of what was written.
    pub fn hash(&self) -> [u8; 32] {
        self.hash.clone().finalize().into()
    }

    /// Reads what was written.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn reader(&self) -> io::Result<File> {
        File::open(&self.partial)
    }
}

impl Write for NewFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.storage.take(bytes.len() as u64)?;
        match self.file.write_all(bytes) {
            Ok(()) => {
                self.bytes += bytes.len() as u64;
                self.hash.update(bytes);
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
        if let Err(error) = fs::remove_file(&self.partial) {
            log::debug!("{} stays for now: {error}", self.partial.display());
        }
        self.storage.give_back(self.bytes);
    }
}

/// A file that is added to.
pub(crate) struct GrowingFile<'s> {
    storage: &'s Storage,
    pub id: String,
    file: File,
    pub bytes: u64,
}

impl GrowingFile<'_> {
    /// Reads it from the beginning.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn reader(&mut self) -> io::Result<&File> {
        self.file.seek(SeekFrom::Start(0))?;
        Ok(&self.file)
    }

    /// Cuts off what is behind these bytes.
    ///
    /// # Errors
    /// When it stays.
    pub fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)?;
        self.storage.give_back(self.bytes - bytes);
        self.bytes = bytes;
        Ok(())
    }

    /// Has what is there survive a power cut.
    ///
    /// # Errors
    /// When the system cannot.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
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
        let written = self.file.write_all(bytes);
        let written = written.and_then(|()| self.file.sync_data());
        let now = self.file.metadata().map_or(self.bytes, |file| file.len());
        let missing = (self.bytes + bytes.len() as u64).saturating_sub(now);
        self.storage.give_back(missing);
        self.bytes = now;
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
        let mut kept = storage.create().unwrap();
        kept.write_all(b"12345").unwrap();
        assert_eq!(kept.synced().unwrap(), 5);
        fs::write(folder.path().join("a"), "123").unwrap();
        storage.take(3).unwrap();
        kept.keep("a").unwrap();
        let mut cut = storage.create().unwrap();
        cut.write_all(b"123").unwrap();
        let refused = Problem::from(cut.write_all(b"456").unwrap_err());
        assert_eq!(refused.status, 507);
        assert!(refused.response("/v1/files").has("x-should-retry"));
        drop(cut);
        let names = || fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names(), 1);
        assert!(storage.check(5).is_ok());
        let full = storage.check(6).unwrap_err().to_string();
        assert!(full.contains("--max-uploads"), "{full}");

        let elsewhere = tempfile::NamedTempFile::new().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), folder.path().join("link")).unwrap();
        assert!(storage.append("link").is_err());
        storage.remove("link").unwrap();
        assert_eq!(names(), 1);

        fs::create_dir(folder.path().join("theirs.part")).unwrap();
        std::mem::forget(storage.create().unwrap());
        let storage = Storage::open(folder.path(), 10).unwrap();
        assert_eq!(names(), 2, "a server that died leaves nothing either");
        assert!(storage.check(5).is_ok() && storage.check(6).is_err());
        storage.remove("a").unwrap();
        assert!(storage.check(10).is_ok());
    }
}
