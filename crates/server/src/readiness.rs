//! Whether the server can work: the causes that keep it from it, and a check of its data folder.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use batchwright::unstable::open_private;
use parking_lot::Mutex;

/// A check of the folder is reused for this time, because anyone may request it.
const FRESH: Duration = Duration::from_secs(1);
/// Number of bytes that must fit into the data folder: about what a few jobs take.
const PROBE_BYTES: usize = 64 << 10;
/// The file that is written and removed again.
const PROBE_FILE: &str = "readyz.tmp";

/// What keeps the server from working.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Queue,
    DataFolder,
    DiskFull,
}

impl Cause {
    pub fn code(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::DataFolder => "data_folder",
            Self::DiskFull => "disk_full",
        }
    }

    /// A description without paths, because the request needs no token.
    pub fn detail(self) -> &'static str {
        match self {
            Self::Queue => "the queue cannot be read",
            Self::DataFolder => "the data folder is missing or cannot be written",
            Self::DiskFull => "the disk of the data folder is full",
        }
    }
}

/// Checks the data folder, at most once per second, and the file of the queue.
pub(crate) struct DiskCheck {
    folder: PathBuf,
    queue: Option<PathBuf>,
    last: Mutex<Option<(Instant, Option<Cause>)>>,
}

impl DiskCheck {
    /// `queue` is the location of the queue, which is not a file if the queue is in a database server.
    pub fn new(folder: PathBuf, queue: String) -> Self {
        let queue = PathBuf::from(queue);
        Self {
            folder,
            queue: queue.is_file().then_some(queue),
            last: Mutex::default(),
        }
    }

    /// Whether the file of the queue was removed, which open connections to it do not notice.
    pub fn has_lost_queue(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| !queue.is_file())
    }

    /// Why the folder cannot be used.
    pub fn cause(&self) -> Option<Cause> {
        let mut last = self.last.lock();
        if let Some((at, cause)) = *last
            && at.elapsed() < FRESH
        {
            return cause;
        }
        let cause = probe(&self.folder).err().map(|error| {
            log::warn!(
                "{}: the check of the folder failed: {error}",
                self.folder.display()
            );
            cause_of(error.kind())
        });
        *last = Some((Instant::now(), cause));
        cause
    }
}

/// Writes a file and removes it. Free space alone does not show quotas, and that a folder is read-only.
fn probe(folder: &Path) -> io::Result<()> {
    let path = folder.join(PROBE_FILE);
    let mut options = File::options();
    let file = open_private(options.create(true).truncate(true).write(true), &path);
    let written = file.and_then(|mut file| file.write_all(&[0; PROBE_BYTES]));
    // Also if it is incomplete.
    let removed = fs::remove_file(&path);
    written.and(removed)
}

fn cause_of(kind: ErrorKind) -> Cause {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            Cause::DiskFull
        }
        _ => Cause::DataFolder,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_missing_or_its_disk_is_full() {
        let folder = tempfile::tempdir().unwrap();
        assert!(probe(folder.path()).is_ok());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let missing = probe(&folder.path().join("missing")).unwrap_err();
        assert_eq!(cause_of(missing.kind()), Cause::DataFolder);
        assert_eq!(cause_of(ErrorKind::ReadOnlyFilesystem), Cause::DataFolder);
        assert_eq!(cause_of(ErrorKind::StorageFull), Cause::DiskFull);
        assert_eq!(cause_of(ErrorKind::QuotaExceeded), Cause::DiskFull);
    }
}
