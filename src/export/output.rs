//! A file that appears under its name when it is whole, or not at all.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::results::refused;
use super::sink::unwritable;
use crate::base::disk::sync_folder;
use crate::base::error::Error;

/// A file beside the one that is to be, under another name until it is whole.
#[derive(Debug)]
pub(super) struct NewFile {
    target: PathBuf,
    beside: PathBuf,
    file: File,
    is_in_place: bool,
}

impl NewFile {
    /// Makes the file.
    ///
    /// # Errors
    /// When the path is taken and may not be written over, or somebody else is writing it.
    pub(super) fn create(path: &Path, overwrite: bool) -> Result<Self, Error> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() && !overwrite => {
                return Err(refused(
                    path,
                    "it is there already; --overwrite replaces it",
                ));
            }
            Ok(metadata) if !metadata.is_file() => {
                return Err(refused(
                    path,
                    "it is not a regular file; only text goes elsewhere, by -o -",
                ));
            }
            _ => {}
        }
        // The target of a link is replaced, not the link.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let beside = target.with_file_name(format!(".{name}.exporting"));
        let failed = |error: io::Error| refused(path, &format!("cannot be written: {error}"));
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false);
        let file = file.open(&beside).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(refused(
                    path,
                    "another export is writing it; wait for its end",
                ));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // What a killed export left there.
        file.set_len(0).map_err(failed)?;
        Ok(Self {
            target,
            beside,
            file,
            is_in_place: false,
        })
    }

    /// Where it is written meanwhile.
    #[cfg(any(feature = "queue", feature = "excel"))]
    pub(super) fn path(&self) -> &Path {
        &self.beside
    }

    /// The file itself, to be written.
    pub(super) fn handle(&self) -> Result<File, Error> {
        self.file.try_clone().map_err(|error| unwritable(&error))
    }

    /// Puts it in its place.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        let placed = self.file.sync_all();
        let placed = placed.and_then(|()| fs::rename(&self.beside, &self.target));
        placed.map_err(|error| unwritable(&error))?;
        self.is_in_place = true;
        let _ = sync_folder(&self.target);
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_in_place {
            let _ = fs::remove_file(&self.beside);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.csv");
        let left = || fs::read_dir(folder.path()).unwrap().count();
        let write = |text: &str, overwrite| {
            let file = NewFile::create(&path, overwrite)?;
            file.handle()?.write_all(text.as_bytes()).unwrap();
            Ok::<_, Error>(file)
        };
        drop(write("never", false).unwrap());
        assert_eq!(left(), 0);
        fs::write(
            folder.path().join(".out.csv.exporting"),
            "left by one that was killed",
        )
        .unwrap();
        write("one", false).unwrap().finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        assert!(
            write("two", false)
                .unwrap_err()
                .message()
                .contains("--overwrite")
        );
        let second = write("two", true).unwrap();
        let busy = NewFile::create(&path, true).unwrap_err();
        assert!(busy.message().contains("another export"), "{busy}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        second.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(left(), 1);
        let none = NewFile::create(&folder.path().join("no/out.csv"), false).unwrap_err();
        assert!(none.message().contains("cannot be written"), "{none}");
    }
}
