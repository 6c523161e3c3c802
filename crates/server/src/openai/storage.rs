//! The files of the Batch endpoint on the disk: written piece by piece, bounded all together.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use batchwright::{Error, ErrorKind};
use parking_lot::Mutex;

use crate::private;
use crate::problem::Problem;

/// Where files lie, and how much they take up.
pub(crate) struct Storage {
    folder: PathBuf,
    most: u64,
    used: Mutex<u64>,
}

/// What a file is called until all of it is there.
const PARTIAL: &str = ".part";
/// What whoever writes results has: a lock in the data folder.
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
            private::create_folder(folder)?;
            // Those of another server are still being written.
            let alone = private::lock(&folder.join(LOCK))?.is_some();
            let mut used = 0;
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                let is_partial = entry.file_name().to_string_lossy().ends_with(PARTIAL);
                match alone && is_partial {
                    true => fs::remove_file(entry.path())?,
                    false => used += entry.metadata()?.len(),
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

    /// Where a file lies. Ids are made here, never by clients.
    pub fn path(&self, id: &str) -> PathBuf {
        self.folder.join(id)
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
        let used = *self.used.lock();
        match used.saturating_add(bytes) > self.most {
            true => Err(self.full(used)),
            false => Ok(()),
        }
    }

    fn full(&self, used: u64) -> Problem {
        let why = format!(
            "files here may take up {} bytes together, and {used} are taken: delete files that are no longer needed \
             (DELETE /v1/files/ID), or start the server with a higher bound",
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

    /// A new file of this id.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(&self, id: String) -> io::Result<NewFile<'_>> {
        let partial = self.path(&format!("{id}{PARTIAL}"));
        let file = private::options()
            .create_new(true)
            .write(true)
            .open(&partial)?;
        Ok(NewFile {
            storage: self,
            id,
            partial,
            file,
            bytes: 0,
            kept: false,
        })
    }

    /// Opens a file that is there.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn read(&self, id: &str) -> io::Result<File> {
        File::open(self.path(id))
    }

    /// Opens a file to add to, which is made if it is not there.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn append(&self, id: &str) -> io::Result<File> {
        private::options()
            .create(true)
            .read(true)
            .append(true)
            .open(self.path(id))
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// When it stays.
    pub fn remove(&self, id: &str) -> io::Result<()> {
        let path = self.path(id);
        let bytes = match fs::metadata(&path) {
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
        match cfg!(unix) {
            true => File::open(&self.folder)?.sync_all(),
            false => Ok(()),
        }
    }
}

/// A file that is being written. Dropped before it is [kept](Self::keep) it leaves nothing behind.
pub(crate) struct NewFile<'s> {
    storage: &'s Storage,
    id: String,
    partial: PathBuf,
    file: File,
    bytes: u64,
    kept: bool,
}

impl NewFile<'_> {
    /// Makes it a file of its id, and returns that and how long it is.
    ///
    /// # Errors
    /// When it could not be written out.
    pub fn keep(mut self) -> io::Result<(String, u64)> {
        self.file.sync_all()?;
        fs::rename(&self.partial, self.storage.path(&self.id))?;
        self.kept = true;
        self.storage.sync()?;
        Ok((self.id.clone(), self.bytes))
    }
}

impl Write for NewFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.storage.take(bytes.len() as u64)?;
        let written = self.file.write_all(bytes);
        match written {
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
        if !self.kept {
            let _ = fs::remove_file(&self.partial);
            self.storage.give_back(self.bytes);
        }
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
        assert!(storage.check(5).is_ok() && storage.check(6).is_err());

        std::mem::forget(storage.create("c".to_owned()).unwrap());
        let storage = Storage::open(folder.path(), 10).unwrap();
        assert_eq!(names(), 2, "a server that died leaves nothing either");
        assert!(storage.check(5).is_ok() && storage.check(6).is_err());
        storage.remove("a").unwrap();
        assert!(storage.check(10).is_ok());
    }
}
