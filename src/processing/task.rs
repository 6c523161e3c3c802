//! A file to process, its contents, and what failures of the file system mean.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::base::{Error, ErrorKind};
use crate::sources::{FileInfo, decode, open_regular, shown_path};

/// The version of a file: its size, and its modification time in nanoseconds since 1970, as in rsync and make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub size: u64,
    pub modified: i64,
}

impl Stamp {
    pub(super) fn new(size: u64, modified: Option<SystemTime>) -> Self {
        let nanos = |span: Duration| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
        let time = |time: SystemTime| match time.duration_since(UNIX_EPOCH) {
            Ok(after) => nanos(after),
            Err(before) => -nanos(before.duration()),
        };
        let modified = modified.map_or(i64::MIN, time);
        Self { size, modified }
    }

    fn of(found: &Metadata) -> Self {
        Self::new(found.len(), found.modified().ok())
    }
}

/// A file to process. A task made from a [`FileInfo`] fails if the file has changed since it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessTask {
    /// Its path.
    pub file_path: PathBuf,
    /// Its name in results. Default: its path as text.
    pub source_id: String,
    /// Maximum size in bytes; a larger file fails without being read. Default: no limit.
    pub max_file_size: u64,
    pub(super) expected: Option<Stamp>,
}

impl ProcessTask {
    /// A task for a file in the version that will be read.
    pub fn new(file_path: impl Into<PathBuf>) -> Self {
        let file_path = file_path.into();
        Self {
            source_id: shown_path(&file_path).into_owned(),
            file_path,
            max_file_size: u64::MAX,
            expected: None,
        }
    }

    /// The same task with another name in results.
    pub fn with_source_id(mut self, id: impl Into<String>) -> Self {
        self.source_id = id.into();
        self
    }

    /// The same task with this maximum size in bytes. Default: no limit.
    pub fn with_max_file_size(mut self, bytes: u64) -> Self {
        self.max_file_size = bytes;
        self
    }

    /// Checks the file before any of it is in memory.
    pub(super) fn look(&self) -> Result<Stamp, Error> {
        let found = std::fs::metadata(&self.file_path).map_err(|e| failed_to("read it", &e))?;
        // Opening a pipe would wait for its writer.
        if !found.is_file() {
            let why = "not a regular file; leave folders, pipes and devices out";
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let stamp = Stamp::of(&found);
        match self.expected {
            Some(expected) if expected != stamp => Err(changed()),
            _ if stamp.size > self.max_file_size => Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{} bytes, more than the {} that are read of a file; allow for more, or leave it out",
                    stamp.size, self.max_file_size
                ),
            )),
            _ => Ok(stamp),
        }
    }

    /// Reads the file completely, in the version that was checked.
    pub(super) fn read(&self, stamp: Stamp) -> Result<Vec<u8>, Error> {
        let failed = |error| failed_to("read it", &error);
        let now = |file: &File| file.metadata().map(|found| Stamp::of(&found));
        let file = open_regular(&self.file_path, true).map_err(failed)?;
        if now(&file).map_err(failed)? != stamp {
            return Err(changed());
        }
        let mut bytes = Vec::new();
        // One byte more than expected: if the file grows, reading stops there.
        let most = stamp.size.saturating_add(1);
        let room = usize::try_from(most).unwrap_or(usize::MAX);
        if bytes.try_reserve_exact(room).is_err() {
            let why = format!("not enough memory for its {} bytes", stamp.size);
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        (&file).take(most).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 == stamp.size && now(&file).map_err(failed)? == stamp {
            Ok(bytes)
        } else {
            Err(changed())
        }
    }
}

fn changed() -> Error {
    let why = "it changed after it was found; run again to process the new content";
    Error::new(ErrorKind::Changed, why)
}

impl From<&FileInfo> for ProcessTask {
    fn from(info: &FileInfo) -> Self {
        let mut task = Self::new(&info.path);
        task.expected = Some(Stamp::new(info.size, info.modified_time));
        task
    }
}

impl From<FileInfo> for ProcessTask {
    fn from(info: FileInfo) -> Self {
        Self::from(&info)
    }
}

impl<P: AsRef<Path>> From<P> for ProcessTask {
    fn from(path: P) -> Self {
        Self::new(path.as_ref())
    }
}

/// A file that was read, as the function receives it.
#[derive(Clone, PartialEq, Eq, derive_more::Debug)]
#[debug("SourceFile {{ path: {:?}, bytes: {} }}", task.file_path, bytes.len())]
pub struct SourceFile<'t> {
    pub(super) task: &'t ProcessTask,
    pub(super) bytes: Vec<u8>,
}

impl SourceFile<'_> {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.task.file_path
    }

    /// Its name in results.
    pub fn source_id(&self) -> &str {
        &self.task.source_id
    }

    /// Its contents.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its contents as text, without a byte order mark.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if it is not UTF-8, with the line of the first invalid byte.
    pub fn text(&self) -> Result<&str, Error> {
        decode(&self.bytes).map_err(|reason| Error::new(ErrorKind::Invalid, reason.to_string()))
    }
}

/// Numbers of temporary errors that [`io::ErrorKind`] does not name or classifies differently: EIO, which a network mount
/// returns whose server did not answer in time (nfs(5), "soft"), ENFILE and EMFILE.
const TEMPORARY: [i32; 3] = [5, 23, 24];

/// The kind of a failure: temporary, or if not, its cause.
pub(super) fn kind_of(error: &io::Error) -> ErrorKind {
    use io::ErrorKind::*;
    let number = error.raw_os_error();
    match error.kind() {
        _ if number.is_some_and(|number| TEMPORARY.contains(&number)) => ErrorKind::Transient,
        Interrupted | WouldBlock | TimedOut | ResourceBusy | Deadlock => ErrorKind::Transient,
        // Errors of files on other machines.
        StaleNetworkFileHandle | NetworkDown | NetworkUnreachable => ErrorKind::Transient,
        HostUnreachable | ConnectionReset | ConnectionAborted => ErrorKind::Transient,
        NotConnected | OutOfMemory => ErrorKind::Transient,
        // A folder in its path was replaced by a file.
        NotFound | NotADirectory => ErrorKind::NotFound,
        PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Invalid,
    }
}

/// The failure as an [`Error`], with the operation that failed.
pub(super) fn failed_to(what: &str, error: &io::Error) -> Error {
    Error::new(kind_of(error), format!("cannot {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn kind(task: &ProcessTask) -> ErrorKind {
        let read = task.look().and_then(|stamp| task.read(stamp));
        read.unwrap_err().kind()
    }

    fn found(path: &Path) -> ProcessTask {
        let mut task = ProcessTask::new(path);
        task.expected = Some(task.look().unwrap());
        task
    }

    #[test]
    fn changed_and_deleted_files_are_distinguished() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a.py");
        fs::write(&path, "one").unwrap();
        let task = found(&path);
        let stamp = task.look().unwrap();
        assert_eq!(task.read(stamp).unwrap(), b"one");
        fs::write(&path, "longer").unwrap();
        assert_eq!(kind(&task), ErrorKind::Changed);
        assert_eq!(task.read(stamp).unwrap_err().kind(), ErrorKind::Changed);
        // The same length as before, but another modification time.
        fs::write(&path, "two").unwrap();
        let later = SystemTime::now() + Duration::from_secs(1);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(later)
            .unwrap();
        assert_eq!(kind(&task), ErrorKind::Changed);
        fs::remove_file(&path).unwrap();
        assert_eq!(kind(&task), ErrorKind::NotFound);
        assert_eq!(task.read(stamp).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn the_debug_output_shows_no_contents() {
        let task = ProcessTask::new("a");
        let file = SourceFile {
            task: &task,
            bytes: b"private".to_vec(),
        };
        assert_eq!(format!("{file:?}"), r#"SourceFile { path: "a", bytes: 7 }"#);
    }
}

#[cfg(test)]
mod failure_tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn temporary_and_permanent_failures_are_distinguished() {
        // EINTR, EIO, ENFILE, EMFILE; ENOENT, EACCES, ENOTDIR, EISDIR.
        let numbers = [4, 5, 23, 24, 2, 13, 20, 21].map(io::Error::from_raw_os_error);
        let kinds = [
            io::ErrorKind::TimedOut,
            io::ErrorKind::WouldBlock,
            io::ErrorKind::StaleNetworkFileHandle,
            io::ErrorKind::InvalidData,
        ];
        let all = numbers.into_iter().chain(kinds.map(io::Error::from));
        use ErrorKind::{Invalid, NotFound, PermissionDenied, Transient};
        let expected = [
            [Transient; 4],
            [NotFound, PermissionDenied, NotFound, Invalid],
            [Transient, Transient, Transient, Invalid],
        ];
        let found: Vec<_> = all.map(|error| kind_of(&error)).collect();
        assert_eq!(found, expected.concat());
    }
}
