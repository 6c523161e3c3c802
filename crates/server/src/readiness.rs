//! Whether the data folder of the server can be written.

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

/// What keeps the server from working: a word for programs, and a description without paths, because the request needs
/// no token.
pub(crate) type Cause = (&'static str, &'static str);

pub(crate) const QUEUE: Cause = ("queue", "the queue cannot be read");
const DATA_FOLDER: Cause = (
    "data_folder",
    "the data folder is missing or cannot be written",
);
const DISK_FULL: Cause = ("disk_full", "the disk of the data folder is full");

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
            let folder = self.folder.display();
            log::warn!("{folder}: the check of the folder failed: {error}");
            match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                    DISK_FULL
                }
                _ => DATA_FOLDER,
            }
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
