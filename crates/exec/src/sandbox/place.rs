//! A file or folder as it was when the run began, whatever its path refers to later.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::encoding::os_path;

/// A path, and the file or folder it referred to. Commands with write access around it can replace it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    #[serde(with = "os_path")]
    pub path: PathBuf,
    pub device: u64,
    pub inode: u64,
}

/// A file or folder that is held open, so that no other one gets its number during the run.
#[derive(Debug)]
pub struct Held {
    pub place: Place,
    _opened: File,
}

impl Held {
    pub fn new(path: &Path) -> io::Result<Self> {
        let opened = open(path)?;
        let about = opened.metadata()?;
        Ok(Self {
            place: Place {
                path: path.to_owned(),
                device: about.dev(),
                inode: about.ino(),
            },
            _opened: opened,
        })
    }
}

impl Place {
    /// Opens it, if it was not replaced; it need not be readable.
    pub fn open(&self) -> Result<File, String> {
        let opened = open(&self.path);
        self.compare(opened.and_then(|opened| Ok((opened.metadata()?, opened))))
    }

    /// Fails if it was replaced.
    pub fn check(&self) -> Result<(), String> {
        self.compare(std::fs::metadata(&self.path).map(|about| (about, ())))
    }

    /// Why a command cannot work there.
    pub fn unusable(&self, error: &io::Error) -> String {
        format!("cannot work in {}: {error}", self.path.display())
    }

    fn compare<T>(&self, found: io::Result<(Metadata, T)>) -> Result<T, String> {
        let path = self.path.display();
        let (about, found) = found.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound if self.inode != 0 => format!(
                "{path} was removed during the run; commands may write only to what was there at its start"
            ),
            _ => self.unusable(&error),
        })?;
        if (about.dev(), about.ino()) == (self.device, self.inode) {
            Ok(found)
        } else {
            Err(format!(
                "{path} was replaced during the run; commands may write only to what was there at its start"
            ))
        }
    }
}

/// Opens it neither for reading nor for writing.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    // Does not wait for the other end of a pipe, and needs no permission for the file.
    options.custom_flags(libc::O_PATH).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_is_not_the_same_place() {
        let site = tempfile::tempdir().unwrap();
        let (folder, victim) = (site.path().join("folder"), site.path().join("victim"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::create_dir(&victim).unwrap();
        let held = Held::new(&folder).unwrap();
        assert!(held.place.open().is_ok() && held.place.check().is_ok());
        std::fs::write(folder.join("file"), "what is in it does not matter").unwrap();
        assert!(held.place.open().is_ok());

        std::fs::remove_dir_all(&folder).unwrap();
        let gone = held.place.open().unwrap_err();
        assert!(gone.contains("was removed"), "{gone}");
        assert_eq!(held.place.check(), Err(gone));
        std::os::unix::fs::symlink(&victim, &folder).unwrap();
        let replaced = held.place.open().unwrap_err();
        assert!(replaced.contains("was replaced"), "{replaced}");
        assert_eq!(held.place.check(), Err(replaced));
        std::fs::remove_file(&folder).unwrap();
        for _ in 0..20 {
            std::fs::create_dir(&folder).unwrap();
            assert!(held.place.check().is_err(), "its number is not used again");
            std::fs::remove_dir(&folder).unwrap();
        }
    }
}
