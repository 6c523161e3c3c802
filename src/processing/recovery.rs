//! Records failures, and a file that records which files are done.
//!
//! The checkpoint is an ordinary results file: a line is appended when a file has its result and is never changed;
//! the last line of a file counts. After a crash, at worst the last line is truncated, and it is removed. Lines
//! that later lines replace are removed when the checkpoint is opened again.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

use crate::base::{Error, ErrorKind};
use crate::bulk::appender::{Key, key_of};
use crate::bulk::options::FileRunError;
use crate::bulk::results::{PreviousLine, ResultsFile};

use super::result::Ended;
use super::task::Stamp;

/// After this number of attempts, a temporary failure counts as permanent.
const MOST_ATTEMPTS: u32 = 4;

/// A file that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailedFile {
    /// Its path.
    pub path: PathBuf,
    /// The kind of the failure.
    pub kind: ErrorKind,
    /// The failure as text for people.
    pub message: String,
    /// Number of attempts.
    pub attempts: u32,
}

/// Records failed and finished files, in memory or in a checkpoint. Clones share the records.
///
/// | failure | kind | tried again |
/// |---|---|---|
/// | interrupted, would block, timed out, busy, out of memory, too many open files, an I/O error (`EIO`), a network mount that is stale or away | [`Transient`](ErrorKind::Transient) | yes, by itself |
/// | no such file, or no longer | [`NotFound`](ErrorKind::NotFound) | no |
/// | permission denied | [`PermissionDenied`](ErrorKind::PermissionDenied) | no |
/// | not what was found, or it grew while it was read | [`Changed`](ErrorKind::Changed) | no |
/// | too large, no UTF-8, no regular file, anything else | [`Invalid`](ErrorKind::Invalid) | no |
/// | the function panicked | [`Panic`](ErrorKind::Panic) | no |
/// | the function returned an error | as it says | if it says [`Transient`](ErrorKind::Transient) |
///
/// A file counts as done in the version that was read: if its size or modification time differs, it is processed
/// again, as `rsync` and `make` do. A comparison of contents would have to read all files again.
///
/// ```
/// use std::path::Path;
/// use batchwright::{Error, ErrorKind, processing::ErrorRecovery};
/// let recovery = ErrorRecovery::new();
/// let gone = Error::new(ErrorKind::NotFound, "it is gone");
/// let again = recovery.handle_error(Path::new("a.py"), &gone, 1);
/// assert!(!again);
/// assert_eq!(recovery.failed_files()[0].kind, ErrorKind::NotFound);
/// assert_eq!(recovery.retry_failed(), [Path::new("a.py")]);
/// ```
#[derive(Clone, Default, derive_more::Debug)]
pub struct ErrorRecovery(#[debug(skip)] Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    failed: BTreeMap<PathBuf, FailedFile>,
    done: HashMap<Key, Stamp>,
    checkpoint: Option<Checkpoint>,
}

struct Checkpoint {
    file: ResultsFile,
    /// Lines that could not be written because the disk was full.
    unsaved: Vec<u8>,
    warned: bool,
}

/// A line of the checkpoint, readable as a result line.
#[derive(Serialize)]
struct Line<'l> {
    id: &'l str,
    success: bool,
    /// The version of the file, in the field that other result lines use for the hash of a request.
    request_hash: Option<String>,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'l Error>,
}

impl ErrorRecovery {
    /// Keeps all records in memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Also keeps all records in a file, and reads from it which files are done and which have failed. The file is
    /// created if it does not exist, and stays locked as long as this value exists.
    ///
    /// # Errors
    /// If the file cannot be written, another process has it locked, or it is not a checkpoint; then it is not changed.
    pub fn resume_from_checkpoint(path: impl AsRef<Path>) -> Result<Self, Error> {
        let mut state = State::default();
        let mut last = HashMap::new();
        let (mut lines, mut is_other) = (0_usize, false);
        let opened = ResultsFile::open(path.as_ref(), false, &mut |line, at| {
            lines += 1;
            let path = PathBuf::from(&line.id);
            last.insert(key(&path), at);
            is_other |= !state.remember(path, &line);
        });
        let mut file = opened.map_err(|error| match error {
            FileRunError::Output(error) | FileRunError::Usage(error) => error,
        })?;
        if is_other {
            let shown = path.as_ref().display();
            let why = "it has results of prompts and stays unchanged; name another checkpoint";
            return Err(Error::new(ErrorKind::Invalid, format!("{shown}: {why}")));
        }
        if file.mend()? {
            file.scan(&mut |line, at| last.extend([(key(Path::new(&line.id)), at)]))?;
        }
        if lines > 2 * last.len() {
            let mut order: Vec<u64> = last.into_values().collect();
            order.sort_unstable();
            file.rewrite("cannot compact", &order)?;
        }
        state.checkpoint = Some(Checkpoint {
            file,
            unsaved: Vec::new(),
            warned: false,
        });
        Ok(Self(Arc::new(Mutex::new(state))))
    }

    /// Records a failure, and returns whether to retry the file: if the failure may be temporary and there were fewer
    /// than four attempts. If not, the file counts as failed.
    pub fn handle_error(&self, path: impl AsRef<Path>, error: &Error, attempts: u32) -> bool {
        let path = path.as_ref();
        let again = error.kind() == ErrorKind::Transient && attempts < MOST_ATTEMPTS;
        if !again {
            self.0.lock().end(path, None, Some(error), attempts);
        }
        again
    }

    pub(super) fn knows(&self, path: &Path, stamp: Stamp) -> bool {
        self.0.lock().done.get(&key(path)) == Some(&stamp)
    }

    /// The files that failed and were not finished since, in the order of their paths.
    pub fn failed_files(&self) -> Vec<FailedFile> {
        self.0.lock().failed.values().cloned().collect()
    }

    /// Removes the failed files from the list, for a retry.
    pub fn retry_failed(&self) -> Vec<PathBuf> {
        let failed = std::mem::take(&mut self.0.lock().failed);
        failed.into_keys().collect()
    }

    /// Syncs the checkpoint to the disk. Without this call, a crash of the program loses nothing, but a power failure
    /// may.
    ///
    /// # Errors
    /// If the disk does not accept the data. Nothing is lost as long as this value exists.
    pub fn save_checkpoint(&self) -> Result<(), Error> {
        match &mut self.0.lock().checkpoint {
            Some(checkpoint) => checkpoint.save().and_then(|()| checkpoint.file.sync()),
            None => Ok(()),
        }
    }

    /// Records the end of a file, unless the file was never started.
    pub(super) fn note(&self, (path, stamp, error, attempts): Ended) {
        let error = error.as_ref();
        if error.is_none_or(|error| error.kind() != ErrorKind::Cancelled) {
            self.0.lock().end(&path, stamp, error, attempts);
        }
    }
}

impl State {
    fn end(&mut self, path: &Path, stamp: Option<Stamp>, error: Option<&Error>, attempts: u32) {
        if let (Some(checkpoint), Some(id)) = (&mut self.checkpoint, path.to_str()) {
            checkpoint.append(&Line {
                id,
                success: error.is_none(),
                request_hash: stamp.map(|Stamp { size, modified }| format!("{size}-{modified}")),
                attempts,
                error,
            });
        }
        self.settle(path.to_owned(), stamp, error, attempts);
    }

    /// Reads a line of an earlier run. False if it is not a line of a checkpoint.
    fn remember(&mut self, path: PathBuf, line: &PreviousLine) -> bool {
        let written = line.request_hash.as_deref();
        let stamp = written.and_then(|text| {
            let (size, modified) = text.split_once('-')?;
            Some(Stamp {
                size: size.parse().ok()?,
                modified: modified.parse().ok()?,
            })
        });
        if written.is_some() != stamp.is_some() {
            return false;
        }
        let unknown = || {
            let why = "failed, and the checkpoint does not contain the reason";
            Error::new(ErrorKind::Invalid, why)
        };
        let error = (!line.success).then(|| line.error().unwrap_or_else(unknown));
        self.settle(path, stamp, error.as_ref(), line.attempts.unwrap_or(1));
        true
    }

    fn settle(
        &mut self,
        path: PathBuf,
        stamp: Option<Stamp>,
        error: Option<&Error>,
        attempts: u32,
    ) {
        if let Some(error) = error {
            self.done.remove(&key(&path));
            let failed = FailedFile {
                path: path.clone(),
                kind: error.kind(),
                message: error.message().to_owned(),
                attempts,
            };
            self.failed.insert(path, failed);
        } else {
            self.failed.remove(&path);
            self.done.extend(stamp.map(|stamp| (key(&path), stamp)));
        }
    }
}

impl Checkpoint {
    fn append(&mut self, line: &Line<'_>) {
        // This cannot fail: the line consists of strings and numbers, and is written to memory.
        if serde_json::to_writer(&mut self.unsaved, line).is_ok() {
            self.unsaved.push(b'\n');
        }
        if let Err(error) = self.save()
            && !std::mem::replace(&mut self.warned, true)
        {
            log::warn!("the checkpoint waits until it can be written: {error}");
        }
    }

    fn save(&mut self) -> Result<(), Error> {
        if !self.unsaved.is_empty() {
            self.file.append(&self.unsaved)?;
            self.unsaved.clear();
            self.warned = false;
        }
        Ok(())
    }
}

fn key(path: &Path) -> Key {
    key_of(path.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
