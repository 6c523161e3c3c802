//! Exports the queue to a file.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::base::Error;
use crate::base::disk::{folder_of, sync_folder};
use crate::queue::host::JobQueue;
use crate::queue::store::moving::{FileState, MovableStore, MoveMark};
use crate::queue::store::sqlite::{SqliteOptions, SqliteStore};

use super::copy::{Copy, LocalFiles, report_of};
use super::{MoveOptions, MoveReport, absolute, changed_meanwhile, invalid};

/// The unfinished file of an export.
fn part_of(file: &Path, attempt: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{attempt}.part"));
    name.into()
}

/// Removes an unfinished file and the files that SQLite creates next to it.
fn remove_part(file: &Path, attempt: &str) {
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

/// The mark of an export file; `None` if the file does not exist.
pub(super) fn mark_of(file: &Path) -> Result<Option<(SqliteStore, MoveMark)>, Error> {
    if !file.exists() {
        return Ok(None);
    }
    let store = SqliteStore::open(file, SqliteOptions::default().allow_closed())?;
    let mark = store.mark()?;
    Ok(mark.map(|mark| (store, mark)))
}

impl JobQueue {
    /// Moves the queue into a file, from which [`import_from`](Self::import_from) moves it into another store: all
    /// processes, jobs of every state, results that were not fetched yet, and batches with their ids at the provider.
    /// The export closes this queue: opening it fails until it is [reopened](Self::reopen). Ids of processes and jobs
    /// stay valid. The file contains prompts and results, so only its owner can read it.
    ///
    /// An interrupted call leaves the queue closed. The same call with the same file resumes it; open the queue with
    /// [`SqliteOptions::allow_closed`] for that. A call that fails reopens the queue. Settings are not moved. Memory: a
    /// few megabytes, or the largest job.
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
    /// When a worker or server uses the queue, the file exists, a local file of a prompt cannot be read, or something
    /// cannot be read or written.
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
        if let Some(report) = self.finish_export(store, found.as_ref(), &file)? {
            return Ok(report);
        }
        let mark = self.begin_export(store, found, &file)?;
        match self.write_file(store, &file, &mark, options) {
            Ok(report) => self.complete(store, &mark, &file).map(|()| report),
            Err(error) => {
                // The file cannot be imported, so the queue may be used as before.
                discard(&file, &mark);
                if store.set_mark(Some(&mark), None)? {
                    Err(error)
                } else {
                    Err(changed_meanwhile(&self.location()))
                }
            }
        }
    }

    /// Resumes an export whose file has its final name. `None` if there is no such file.
    fn finish_export(
        &self,
        store: &dyn MovableStore,
        found: Option<&MoveMark>,
        file: &Path,
    ) -> Result<Option<MoveReport>, Error> {
        let shown = file.to_string_lossy();
        let ours = match found {
            Some(
                MoveMark::Exporting { export, file, .. } | MoveMark::Exported { export, file, .. },
            ) if *file == shown => Some(export),
            Some(other) => return Err(other.refusal(&self.location())),
            None => None,
        };
        let there = if file.exists() { mark_of(file)? } else { None };
        match (found, there) {
            (
                Some(mark),
                Some((
                    to,
                    MoveMark::Exporting {
                        export, attempt, ..
                    },
                )),
            ) if ours == Some(&export) => {
                let report = report_of(&to)?;
                drop(to);
                self.complete(store, mark, file)?;
                // An export that was killed may have left the first name of the same file.
                remove_part(file, &attempt);
                Ok(Some(report))
            }
            (Some(mark @ MoveMark::Exported { .. }), _) => Err(mark.refusal(&self.location())),
            _ if file.exists() => Err(invalid(format!(
                "{shown} exists already; name another file"
            ))),
            _ => Ok(None),
        }
    }

    /// Closes the queue, or takes over an export that was interrupted. Returns the mark of this attempt.
    fn begin_export(
        &self,
        store: &dyn MovableStore,
        found: Option<MoveMark>,
        file: &Path,
    ) -> Result<MoveMark, Error> {
        let export = match &found {
            Some(MoveMark::Exporting {
                export, attempt, ..
            }) => {
                remove_part(file, attempt);
                export.clone()
            }
            _ => Uuid::now_v7().to_string(),
        };
        let mark = MoveMark::Exporting {
            export,
            attempt: Uuid::now_v7().to_string(),
            file: file.to_string_lossy().into_owned(),
            at: self.clock.wall().0,
        };
        if store.set_mark(found.as_ref(), Some(&mark))? {
            Ok(mark)
        } else {
            Err(changed_meanwhile(&self.location()))
        }
    }

    fn write_file(
        &self,
        store: &dyn MovableStore,
        file: &Path,
        mark: &MoveMark,
        options: MoveOptions<'_>,
    ) -> Result<MoveReport, Error> {
        let part = part_of(file, attempt_of(mark));
        let to = SqliteStore::open(&part, SqliteOptions::default())?;
        to.prepare_file(mark)?;
        // Jobs of a store for many machines already contain their files.
        let files = if options.keep_paths || self.store.is_shared() {
            LocalFiles::Keep
        } else {
            LocalFiles::Embed
        };
        let mut copy = Copy::new(store, &to, mark, files);
        copy.tell = options.on_progress;
        let mut report = copy.run()?;
        if self.store.is_shared() {
            report.by_path = 0;
        }
        to.complete_file()?;
        drop(to);
        check_log(&part)?;
        publish(&part, file).map_err(|error| {
            invalid(format!("{} could not be written: {error}", file.display()))
        })?;
        Ok(report)
    }

    /// Allows the import of a file that has its final name: first marks this queue as moved, then the file.
    fn complete(
        &self,
        store: &dyn MovableStore,
        mark: &MoveMark,
        file: &Path,
    ) -> Result<(), Error> {
        let (MoveMark::Exporting { export, .. } | MoveMark::Exported { export, .. }) = mark else {
            return Err(mark.refusal(&self.location()));
        };
        let (export, at) = (export.clone(), self.clock.wall().0);
        if matches!(mark, MoveMark::Exporting { .. }) {
            let moved = MoveMark::Exported {
                export: export.clone(),
                file: file.to_string_lossy().into_owned(),
                at,
            };
            if !store.set_mark(Some(mark), Some(&moved))?
                && !is_exported(store.mark()?.as_ref(), &export)
            {
                discard(file, mark);
                return Err(changed_meanwhile(&self.location()));
            }
        }
        let ready = MoveMark::File {
            export: export.clone(),
            source: self.location(),
            at,
            state: FileState::Ready,
        };
        let shown = file.display().to_string();
        let (to, unfinished) = mark_of(file)?.ok_or_else(|| changed_meanwhile(&shown))?;
        let is_unfinished = matches!(unfinished, MoveMark::Exporting { .. });
        if is_unfinished && to.set_mark(Some(&unfinished), Some(&ready))?
            || is_exported(to.mark()?.as_ref(), &export)
        {
            return Ok(());
        }
        Err(changed_meanwhile(&shown))
    }
}

/// Whether the same command, run concurrently, has completed this export.
fn is_exported(mark: Option<&MoveMark>, export: &str) -> bool {
    match mark {
        Some(MoveMark::Exported { export: id, .. }) => id == export,
        Some(MoveMark::File {
            export: id, state, ..
        }) => id == export && *state != FileState::Void,
        _ => false,
    }
}

fn attempt_of(mark: &MoveMark) -> &str {
    match mark {
        MoveMark::Exporting { attempt, .. } => attempt,
        _ => "",
    }
}

/// Removes the file of an attempt if it cannot be imported yet.
pub(super) fn discard(file: &Path, mark: &MoveMark) {
    remove_part(file, attempt_of(mark));
    if let Ok(Some((store, there))) = mark_of(file)
        && there == *mark
    {
        drop(store);
        let _ = fs::remove_file(file);
    }
}

/// Rejects a file that lacks a part of its rows, for example because the disk was full.
fn check_log(part: &Path) -> Result<(), Error> {
    let mut log = part.as_os_str().to_owned();
    log.push("-wal");
    if fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
        return Err(invalid(format!(
            "{} is not complete: SQLite's log could not be put into it. Free disk space and run the command again",
            part.display()
        )));
    }
    Ok(())
}

/// Gives the file its name, unless another one has it.
fn publish(part: &Path, file: &Path) -> io::Result<()> {
    File::open(part)?.sync_all()?;
    match fs::hard_link(part, file) {
        Ok(()) => fs::remove_file(part)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
        // The file system does not support links.
        Err(_) => fs::rename(part, file)?,
    }
    sync_folder(folder_of(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_whose_log_holds_rows_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("q.bw.a.part");
        fs::write(&part, "file").unwrap();
        fs::write(folder.path().join("q.bw.a.part-wal"), "").unwrap();
        check_log(&part).unwrap();
        fs::write(folder.path().join("q.bw.a.part-wal"), "rows").unwrap();
        let error = check_log(&part).unwrap_err();
        assert!(error.message().contains("not complete"), "{error}");
    }

    #[test]
    fn all_rows_are_in_the_file_itself_once_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("part");
        let store = SqliteStore::open(&part, SqliteOptions::default()).unwrap();
        let log = folder.path().join("part-wal");
        assert!(fs::metadata(&log).unwrap().len() > 0);
        store.complete_file().unwrap();
        assert_eq!(fs::metadata(&log).unwrap().len(), 0);
    }
}
