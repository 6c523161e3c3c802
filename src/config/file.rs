//! Settings in a small JSON file that all processes of a data folder share.
//!
//! Each call reads the file anew, so a file that is created, replaced or deleted is noticed at once. A change replaces
//! the whole file, so reading needs no lock, and no permission to write.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::base::disk::folder_of;
use crate::base::{AtomicFile, Error, ErrorKind, LockedFile, named_file, private};

use super::store::ConfigStore;

/// How long a change waits for another one, which takes milliseconds: a process that takes longer is suspended.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of the file. All settings together have a thousandth of it.
const LONGEST: u64 = 1 << 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(5);

/// A [`ConfigStore`] in a JSON file, `settings.json` in the data folder of the `batchwright` program.
///
/// A missing file means that nothing is set. The first [`write`](ConfigStore::write) creates the file and its
/// folder. Reading creates nothing and works in a read-only folder. A change survives a power loss.
#[derive(Debug, Clone)]
pub struct FileConfig {
    path: PathBuf,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    /// It grows with each change, and a new file has a larger one than all before: it is at least the time in
    /// microseconds.
    version: u64,
    settings: BTreeMap<String, String>,
}

impl FileConfig {
    /// The settings in the file at this path. The file is not opened yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn content(&self) -> Result<Content, Error> {
        let text = match named_file::read(&self.path, LONGEST) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.without_earlier_version();
            }
            read => read.map_err(|why| self.trouble("read", &why))?,
        };
        serde_json::from_slice(&text).map_err(|why| {
            let advice = "put a backup in its place, or move it away and set the settings anew";
            let why = named_file::no_such_json(&why);
            self.error(ErrorKind::Invalid, &format!("is damaged ({why}); {advice}"))
        })
    }

    /// Settings of an earlier version are not read, and not ignored either.
    fn without_earlier_version(&self) -> Result<Content, Error> {
        let earlier = self.path.with_file_name("config.db");
        if !earlier.exists() {
            return Ok(Content::default());
        }
        let why = format!(
            "is missing, and the settings in {} are of an earlier version: delete that file and set them again",
            earlier.display()
        );
        Err(self.error(ErrorKind::Invalid, &why))
    }

    /// The right to change the file, until it is dropped.
    fn lock(&self) -> Result<LockedFile, Error> {
        let mut path = self.path.clone().into_os_string();
        path.push(".lock");
        let mut options = File::options();
        options.write(true).create(true);
        let end = Instant::now() + PATIENCE;
        loop {
            let file = private::open(&mut options, Path::new(&path));
            match file.and_then(LockedFile::try_lock) {
                Ok(Some(lock)) => return Ok(lock),
                Ok(None) if Instant::now() < end => thread::sleep(BETWEEN_TRIES),
                Ok(None) => {
                    let why = "is locked by another program; try again when that has ended";
                    return Err(self.error(ErrorKind::Transient, why));
                }
                Err(why) => return Err(self.trouble("written", &why)),
            }
        }
    }

    fn replace(&self, content: &Content) -> io::Result<()> {
        let mut options = File::options();
        let file = AtomicFile::create(&self.path, private::restrict(options.write(true)))?;
        serde_json::to_writer_pretty(file.file(), content)?;
        file.replace().map(drop)
    }

    fn trouble(&self, doing: &str, why: &io::Error) -> Error {
        let advice = match why.kind() {
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                "one of these folders is a file: set another data folder with --data-dir or BATCHWRIGHT_HOME"
            }
            _ => "check the permissions of the file and its folder, and the space on the disk",
        };
        self.error(
            ErrorKind::Invalid,
            &format!("cannot be {doing}: {why}; {advice}"),
        )
    }

    fn error(&self, kind: ErrorKind, why: &str) -> Error {
        let why = format!("the settings file {} {why}", self.path.display());
        Error::new(kind, why).with_storage()
    }
}

impl ConfigStore for FileConfig {
    fn all(&self) -> Result<BTreeMap<String, String>, Error> {
        Ok(self.content()?.settings)
    }

    fn write(&self, key: &str, value: Option<&str>) -> Result<(), Error> {
        if value.is_none() && self.get(key)?.is_none() {
            return Ok(());
        }
        let written = |why: io::Error| self.trouble("written", &why);
        private::make_folder(folder_of(&self.path)).map_err(written)?;
        let _lock = self.lock()?;
        let mut content = self.content()?;
        match value {
            Some(value) => content.settings.insert(key.to_owned(), value.to_owned()),
            None => content.settings.remove(key),
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_micros() as u64);
        content.version = now.max(content.version + 1);
        self.replace(&content).map_err(written)
    }

    fn version(&self) -> Result<u64, Error> {
        Ok(self.content()?.version)
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
