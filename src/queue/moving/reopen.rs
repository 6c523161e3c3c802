//! Reopens an exported queue at its old place.

use std::path::Path;

use crate::base::Error;
use crate::queue::host::JobQueue;
use crate::queue::store::moving::{FileState, MovableStore, MoveMark};

use super::export::{discard, mark_of};
use super::{changed_meanwhile, invalid};

impl JobQueue {
    /// Undoes an [export](Self::export_to): the queue can be opened here again, and the file can no longer be imported.
    /// Open the queue with [`SqliteOptions::allow_closed`](crate::queue::SqliteOptions::allow_closed) for this call,
    /// and again afterwards. Returns false if the queue is not closed.
    ///
    /// With `force` the file is not checked. If the file is imported anywhere, jobs are billed twice.
    ///
    /// # Errors
    /// When an import of the file has begun, the file is not where it was, or something cannot be read or written.
    pub fn reopen(&self, force: bool) -> Result<bool, Error> {
        let (store, place) = (self.movable()?, self.location());
        let Some(mark) = store.mark()? else {
            return Ok(false);
        };
        match &mark {
            MoveMark::Exporting { file, .. } => {
                if !store.set_mark(Some(&mark), None)? {
                    return Err(changed_meanwhile(&place));
                }
                // A running export finds that the mark is missing, and stops.
                discard(Path::new(file), &mark);
                return Ok(true);
            }
            MoveMark::Exported { file, export, .. } => void(file, export, force)?,
            MoveMark::Importing { file, .. } => {
                return Err(invalid(format!(
                    "{place} is the target of an import of {file} that has not ended, and holds a part of that queue. \
                     Finish it: batchwright queue import {file}; or delete the database, and the file can be imported \
                     elsewhere with --again"
                )));
            }
            MoveMark::File { .. } => return Err(mark.refusal(&place)),
        }
        if store.set_mark(Some(&mark), None)? {
            Ok(true)
        } else {
            Err(changed_meanwhile(&place))
        }
    }
}

/// Marks a file so that it can never be imported.
fn void(file: &str, export: &str, force: bool) -> Result<(), Error> {
    // With `force`, an unreadable file does not stop the reopening.
    let found = if force {
        mark_of(Path::new(file)).unwrap_or(None)
    } else {
        mark_of(Path::new(file))?
    };
    let ours = found.filter(|(_, mark)| {
        let (MoveMark::File { export: id, .. } | MoveMark::Exporting { export: id, .. }) = mark
        else {
            return false;
        };
        id == export
    });
    let Some((store, mark)) = ours else {
        return if force {
            Ok(())
        } else {
            Err(invalid(format!(
                "{file} no longer exists, so batchwright cannot tell if it was imported. Put it back and run the \
             command again. If you know that it is imported nowhere, add --force"
            )))
        };
    };
    if let MoveMark::File { state, .. } = &mark
        && let FileState::Importing { to, .. } | FileState::Imported { to, .. } = state
        && !force
    {
        return Err(invalid(format!(
            "{file} was already imported into {to}: a second queue would pay for its jobs again. To move it \
             back, export it there and import it into another data folder. If that place is never used again, add --force"
        )));
    }
    let voided = MoveMark::File {
        export: export.to_owned(),
        source: String::new(),
        at: 0,
        state: FileState::Void,
    };
    if store.set_mark(Some(&mark), Some(&voided))? {
        Ok(())
    } else {
        Err(changed_meanwhile(file))
    }
}
