//! The queue into a file.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::base::disk::{folder_of, sync_folder};
use crate::base::error::Error;
use crate::queue::host::JobQueue;
use crate::queue::store::moving::{FileState, MovableStore, MoveMark};
use crate::queue::store::sqlite::{SqliteOptions, SqliteStore};

use super::copy::{Copy, LocalFiles};
use super::{MoveOptions, MoveReport, absolute, changed_meanwhile, invalid};

/// The file of an export while it is made.
fn part_of(file: &Path, attempt: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{attempt}.part"));
    name.into()
}

/// Removes an unfinished file with what SQLite puts beside it.
pub(super) fn remove_part(file: &Path, attempt: &str) {
    let part = part_of(file, attempt);
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut name = part.clone().into_os_string();
        name.push(suffix);
        let _ = fs::remove_file(name);
    }
    for folder in [".workers", ".batches"] {
        let mut name = part.clone().into_os_string();
        name.push(folder);
        let _ = fs::remove_dir_all(name);
    }
}

/// What an export file says of itself; `None` if there is no such file.
pub(super) fn mark_of(file: &Path) -> Result<Option<(SqliteStore, MoveMark)>, Error> {
    if !file.exists() {
        return Ok(None);
    }
    let store = SqliteStore::open(file, SqliteOptions::default().allow_closed())?;
    let mark = store.mark()?;
    Ok(mark.map(|mark| (store, mark)))
}

impl JobQueue {
    /// Moves the queue into a file, from which [`import_from`](Self::import_from) brings it into another store: all
    /// processes, jobs of every state, results that were not taken yet, and batches with their ids at the provider.
    /// The queue is closed here from then on: to open it fails until it is [reopened](Self::reopen). Ids of processes and
    /// jobs stay valid. The file holds prompts and results, and is for its owner only.
    ///
    /// A call that is interrupted leaves the queue closed, and goes on when it is made again with the same file; the
    /// queue has to be opened with [`SqliteOptions::allow_closed`] for that. A call that fails reopens the queue. Settings
    /// do not move. Memory: a few megabytes, or the largest job.
    ///
    /// ```
    /// use batchwright::queue::MoveOptions;
    /// use batchwright::{Job, JobQueue, ProcessId, Request};
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// let queue = JobQueue::open(folder.join("old.db"))?;
    /// let process = ProcessId::new();
    /// queue.enqueue(process, [Job::from(&Request::new("Name a prime."))])?;
    /// queue.export_to(folder.join("queue.export"), MoveOptions::new())?;
    /// assert!(JobQueue::open(folder.join("old.db")).is_err());
    ///
    /// let queue = JobQueue::open(folder.join("new.db"))?;
    /// queue.import_from(folder.join("queue.export"), MoveOptions::new())?;
    /// let queue = JobQueue::open(folder.join("new.db"))?;
    /// assert_eq!(queue.process(process)?.unwrap().counts.pending, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// When somebody uses the queue, the file exists, a local file of a prompt cannot be read, or something cannot be read or written.
    pub fn export_to(
        &self,
        file: impl AsRef<Path>,
        options: MoveOptions<'_>,
    ) -> Result<MoveReport, Error> {
        let file = absolute(file.as_ref())?;
        let store = self.movable()?;
        if let Some(records) = &options.records {
            store.attach_records(records)?;
        }
        let found = store.mark()?;
        if found.is_none() {
            self.await_users(options.wait)?;
        }
        let begun = self.begin_export(store, found, &file)?;
        let Some((export, attempt, mark)) = begun else {
            return Err(invalid(format!(
                "{} is complete already: the queue was moved to it. Import it: batchwright queue import {}",
                file.display(),
                file.display()
            )));
        };
        let at = self.clock.wall().0;
        let done = self.write_file(store, (&file, &export, &attempt), options);
        let report = match done {
            Ok(report) => report,
            Err(error) => {
                remove_part(&file, &attempt);
                // Nothing of it can be imported, so the queue may be used as before.
                return match !file.exists() && store.set_mark(Some(&mark), None)? {
                    true => Err(error),
                    false => Err(changed_meanwhile(&self.location())),
                };
            }
        };
        let file = file.to_string_lossy().into_owned();
        let complete = MoveMark::Exported { export, file, at };
        match store.set_mark(Some(&mark), Some(&complete))? {
            true => Ok(report),
            false => Err(changed_meanwhile(&self.location())),
        }
    }

    /// Closes the queue, or takes over an export that was interrupted. Returns the ids of the export and of this attempt;
    /// nothing if the file is complete.
    fn begin_export(
        &self,
        store: &dyn MovableStore,
        found: Option<MoveMark>,
        file: &Path,
    ) -> Result<Option<(String, String, MoveMark)>, Error> {
        let (attempt, at) = (Uuid::now_v7().to_string(), self.clock.wall().0);
        let shown = file.to_string_lossy().into_owned();
        let export = match &found {
            None => Uuid::now_v7().to_string(),
            Some(MoveMark::Exporting { export, file, .. }) if *file == shown => export.clone(),
            Some(other) => return Err(other.refusal(&self.location())),
        };
        if let Some((_, there)) = mark_of(file)? {
            let is_ours = matches!(&there, MoveMark::File { export: id, .. } if *id == export);
            if !is_ours {
                return Err(invalid(format!(
                    "{shown} exists already; name another file"
                )));
            }
            // Only the mark of the source was not written any more.
            let complete = MoveMark::Exported {
                export,
                file: shown,
                at,
            };
            return match store.set_mark(found.as_ref(), Some(&complete))? {
                true => Ok(None),
                false => Err(changed_meanwhile(&self.location())),
            };
        }
        if file.exists() {
            return Err(invalid(format!(
                "{shown} exists already; name another file"
            )));
        }
        if let Some(MoveMark::Exporting { attempt, .. }) = &found {
            remove_part(file, attempt);
        }
        let mark = MoveMark::Exporting {
            export: export.clone(),
            attempt: attempt.clone(),
            file: shown,
            at,
        };
        match store.set_mark(found.as_ref(), Some(&mark))? {
            true => Ok(Some((export, attempt, mark))),
            false => Err(changed_meanwhile(&self.location())),
        }
    }

    fn write_file(
        &self,
        store: &dyn MovableStore,
        (file, export, attempt): (&Path, &str, &str),
        options: MoveOptions<'_>,
    ) -> Result<MoveReport, Error> {
        let part = part_of(file, attempt);
        let at = self.clock.wall().0;
        let unfinished = MoveMark::Exporting {
            export: export.to_owned(),
            attempt: attempt.to_owned(),
            file: file.to_string_lossy().into_owned(),
            at,
        };
        let finished = MoveMark::File {
            export: export.to_owned(),
            source: self.location(),
            at,
            state: FileState::Ready,
        };
        let to = SqliteStore::open(&part, SqliteOptions::default())?;
        to.prepare_file(&unfinished)?;
        // Jobs of a store for many machines have their files with them.
        let files = match options.keep_paths || self.store.is_shared() {
            true => LocalFiles::Keep,
            false => LocalFiles::Embed,
        };
        let mut copy = Copy::new(store, &to, files);
        copy.tell = options.on_progress;
        let mut report = copy.run()?;
        if self.store.is_shared() {
            report.by_path = 0;
        }
        to.set_mark(Some(&unfinished), Some(&finished))?;
        // The last connection puts the log into the file.
        drop(to);
        publish(&part, file).map_err(|error| {
            invalid(format!("{} could not be written: {error}", file.display()))
        })?;
        Ok(report)
    }
}

/// Gives the file its name, unless another one has it.
fn publish(part: &Path, file: &Path) -> io::Result<()> {
    File::open(part)?.sync_all()?;
    match fs::hard_link(part, file) {
        Ok(()) => fs::remove_file(part)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
        // A file system without links.
        Err(_) => fs::rename(part, file)?,
    }
    sync_folder(folder_of(file))
}
