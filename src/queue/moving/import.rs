//! Imports a queue from a file.

use std::path::Path;

use uuid::Uuid;

use crate::base::Error;
use crate::queue::host::JobQueue;
use crate::queue::store::moving::{FileState, MovableStore, MoveMark};
use crate::queue::store::sqlite::SqliteStore;

use super::copy::{Copy, LocalFiles};
use super::export::mark_of;
use super::{MoveOptions, MoveReport, absolute, changed_meanwhile, invalid};

/// The file of an export, and how far its import is.
struct Source {
    store: SqliteStore,
    mark: MoveMark,
    export: String,
    state: FileState,
}

impl Source {
    fn open(file: &Path) -> Result<Self, Error> {
        let shown = file.display();
        let Some((store, mark)) = mark_of(file)? else {
            return Err(invalid(format!(
                "{shown} is not the file of an export. To make one: batchwright queue export FILE"
            )));
        };
        match &mark {
            MoveMark::File { export, state, .. } => {
                let (export, state) = (export.clone(), state.clone());
                Ok(Self {
                    store,
                    mark,
                    export,
                    state,
                })
            }
            other => Err(other.refusal(&shown.to_string())),
        }
    }

    fn set_state(&mut self, state: FileState) -> Result<(), Error> {
        let mut mark = self.mark.clone();
        if let MoveMark::File { state: present, .. } = &mut mark {
            *present = state;
        }
        // Another attempt to import it into the same queue may have set the same state.
        if !self.store.set_mark(Some(&self.mark), Some(&mark))?
            && self.store.mark()?.as_ref() != Some(&mark)
        {
            return Err(changed_meanwhile("the file"));
        }
        self.mark = mark;
        Ok(())
    }

    /// Rejects a file that was imported into this place before, if that queue no longer exists.
    fn check_lost(&self, file: &Path, again: bool) -> Result<(), Error> {
        match &self.state {
            FileState::Imported { to, .. } if !again => Err(invalid(format!(
                "{} was imported into {to} before, and that queue is not there any more. --again imports it once more: \
                 jobs that were carried out there are paid for again",
                file.display()
            ))),
            _ => Ok(()),
        }
    }

    /// Rejects a file whose queue is, or may be, in another place. `own` is the target in the mark of the queue at
    /// `place`.
    fn check(&self, file: &Path, place: &str, own: Option<&str>, again: bool) -> Result<(), Error> {
        let file = file.display();
        match &self.state {
            FileState::Ready => Ok(()),
            FileState::Importing { target, .. } | FileState::Imported { target, .. }
                if own == Some(target) || again =>
            {
                Ok(())
            }
            // The queue is there already, or was deleted.
            FileState::Imported { to, .. } if own.is_none() && to == place => Ok(()),
            FileState::Imported { to, .. } => Err(invalid(format!(
                "{file} was already imported into {to}: a second queue would pay for its jobs again"
            ))),
            FileState::Importing { to, .. } => Err(invalid(format!(
                "an import of {file} into {to} has begun, and {place} is not that queue, even if its path is the same. \
                 To finish the import, run the command again where it began. If that queue was deleted or is never \
                 used, import the file here with --again"
            ))),
            FileState::Void => Err(invalid(format!(
                "{file} cannot be imported: the queue was reopened where it came from. Export it again"
            ))),
        }
    }
}

impl JobQueue {
    /// Imports an [exported](Self::export_to) queue into this store, which must be empty. This queue is closed until
    /// the import is complete, and must be opened again afterwards. If a call is interrupted, the same call resumes it;
    /// open the queue with [`SqliteOptions::allow_closed`](crate::queue::SqliteOptions::allow_closed) for that. A file
    /// can be imported once.
    ///
    /// Batches at a provider continue here: a worker with the same API key takes them over and fetches their
    /// results.
    ///
    /// # Errors
    /// When the store is not empty or is in use, the file is not that of an export or was imported before, or something
    /// cannot be read or written.
    pub fn import_from(
        &self,
        file: impl AsRef<Path>,
        options: MoveOptions<'_>,
    ) -> Result<MoveReport, Error> {
        let file = absolute(file.as_ref())?;
        let (store, place) = (self.movable()?, self.location());
        let mut source = Source::open(&file)?;
        if let Some(records) = &options.records {
            store.attach_records(records)?;
        }
        let found = store.mark()?;
        let own = match &found {
            Some(MoveMark::Importing { target, .. }) => Some(target.as_str()),
            _ => None,
        };
        source.check(&file, &place, own, options.again)?;
        let target = own.map_or_else(|| Uuid::now_v7().to_string(), str::to_owned);
        match &found {
            None if self.is_there(store, &source, &place)? => {
                return Err(invalid(format!(
                    "{} was imported into {} already",
                    file.display(),
                    self.location()
                )));
            }
            None => {
                source.check_lost(&file, options.again)?;
                self.await_users(options.wait)?;
            }
            Some(MoveMark::Importing { export, .. }) if *export == source.export => {}
            Some(MoveMark::Exported { file: old, .. }) => {
                return Err(invalid(format!(
                    "{place} holds the closed queue that was moved to {old}. Import into another place (--data-dir, or \
                     ?tables=NAME in the address), or delete the old queue first: its tables, or in a data folder \
                     llm_jobs.db, server.db and files/"
                )));
            }
            Some(other) => return Err(other.refusal(&place)),
        }
        let begun = MoveMark::Importing {
            export: source.export.clone(),
            target: target.clone(),
            attempt: Uuid::now_v7().to_string(),
            file: file.to_string_lossy().into_owned(),
            at: self.clock.wall().0,
        };
        source.store.check_file()?;
        // This queue is marked first: if that fails, the file can still be imported elsewhere.
        if !store.set_mark(found.as_ref(), Some(&begun))? {
            return Err(changed_meanwhile(&place));
        }
        let (to, id) = (place.clone(), target.clone());
        let imported = FileState::Imported {
            to: place.clone(),
            target,
        };
        // If an import was interrupted at its very end, the queue only has to be opened.
        if source.state != imported
            && let Err(error) = source.set_state(FileState::Importing { to, target: id })
        {
            if found.is_none() {
                store.set_mark(Some(&begun), None)?;
            }
            return Err(error);
        }
        let files = if options.keep_paths || !self.store.is_shared() {
            LocalFiles::Keep
        } else {
            LocalFiles::Embed
        };
        let mut copy = Copy::new(&source.store, store, &begun, files);
        copy.tell = options.on_progress;
        let report = copy.run()?;
        // The file is marked first: from now on no other queue can be opened from it.
        source.set_state(imported)?;
        if !store.set_mark(Some(&begun), None)? {
            return Err(changed_meanwhile(&place));
        }
        Ok(report)
    }

    /// Whether the queue of the file was already imported here.
    fn is_there(
        &self,
        store: &dyn MovableStore,
        source: &Source,
        place: &str,
    ) -> Result<bool, Error> {
        let was_here = matches!(&source.state, FileState::Imported { to, .. } if to == place);
        Ok(was_here && store.identity()? == source.store.identity()?)
    }
}
