//! Keeps the sidecar of a run's output, and what the queue tells of its process, as they are.

use std::path::{Path, PathBuf};

use crate::base::error::{Error, ErrorKind};
use crate::base::id::ProcessId;
use crate::base::sidecar_path::resolved;
use crate::queue::host::JobQueue;
use crate::queue::info::ProcessInfo;

use super::sidecar::{Sidecar, Taken, file_id};

/// Whose output it is that a run writes to, and where that is kept.
pub(super) struct Keeper {
    queue: JobQueue,
    process: ProcessId,
    /// What was told of the process.
    info: ProcessInfo,
    /// `None` where nobody could come back to it.
    output: Option<PathBuf>,
    written: Option<Sidecar>,
}

/// What an output's sidecar says was taken elsewhere, once it is sure that it is this process's.
pub(super) fn taken(
    output: &Path,
    queue: &JobQueue,
    process: ProcessId,
) -> Result<Vec<Taken>, Error> {
    let Some(sidecar) = Sidecar::read(output)? else {
        return Ok(Vec::new());
    };
    let refused = |why: String| {
        let why = format!("{}: {why}; nothing was sent", output.display());
        Err(Error::new(ErrorKind::Invalid, why))
    };
    if sidecar.process_id != process {
        return refused(format!(
            "what is under way of it is process {}, and not {process}",
            sidecar.process_id
        ));
    }
    let gone = queue.process(process)?.is_none();
    if gone && sidecar.taken.is_empty() && sidecar.queue_id != queue.id()? {
        return refused(format!(
            "what is under way of it is on another queue: {}",
            sidecar.queue
        ));
    }
    sidecar.taken.iter().try_for_each(Taken::check)?;
    Ok(sidecar.taken)
}

impl Keeper {
    pub(super) fn new(
        queue: &JobQueue,
        process: ProcessId,
        info: Option<ProcessInfo>,
        output: Option<PathBuf>,
    ) -> Result<Self, Error> {
        let known = queue.process(process)?.map(|known| known.info);
        Ok(Self {
            queue: queue.clone(),
            process,
            info: info.or(known).unwrap_or_default(),
            output,
            written: None,
        })
    }

    /// The queue, on which this process is described.
    pub(super) fn described(&self) -> JobQueue {
        self.queue.described(self.now())
    }

    /// What is told of the process; which file the output is changes when it is tidied up.
    fn now(&self) -> ProcessInfo {
        let info = self.info.clone();
        let Some(output) = &self.output else {
            return info;
        };
        let whole = resolved(output, 0).unwrap_or_else(|_| output.clone());
        ProcessInfo {
            output: Some(whole.to_string_lossy().into_owned()),
            output_file: file_id(output),
            ..info
        }
    }

    /// Writes the sidecar down, before `more` items are put on the queue, and tells the queue where its
    /// process belongs.
    pub(super) fn begin(&mut self, more: u64) -> Result<(), Error> {
        let before = self.queue.process(self.process)?;
        if self.output.is_none() || (before.is_none() && more == 0) {
            return Ok(());
        }
        self.write(more)?;
        let now = self.now();
        self.queue.describe(self.process, &now)?;
        // Under the name that the output had before.
        let old = before.and_then(|process| process.info.output);
        if let Some(old) = old.filter(|old| Some(old) != now.output.as_ref()) {
            Sidecar::discard(Path::new(&old), self.process)?;
        }
        Ok(())
    }

    /// Writes down what has changed.
    pub(super) fn refresh(&mut self) -> Result<(), Error> {
        match self.written {
            Some(_) => self.write(0),
            None => Ok(()),
        }
    }

    fn write(&mut self, more: u64) -> Result<(), Error> {
        let Some(output) = &self.output else {
            return Ok(());
        };
        let counts = self.queue.process(self.process)?.map(|now| now.counts);
        let open = counts.map_or(0, |counts| counts.total - counts.finished());
        let batches = self.queue.batches(Some(self.process))?;
        let mut sidecar = Sidecar::new(&self.queue, self.process, self.now())?;
        sidecar = sidecar.with_batches(open + more, &batches);
        let items = |written: &Sidecar| match batches.is_empty() {
            true => written.items.max(sidecar.items),
            false => sidecar.items,
        };
        sidecar.items = self.written.as_ref().map_or(sidecar.items, items);
        let taken = Sidecar::read(output)?.map(|before| before.taken);
        sidecar.taken = taken.unwrap_or_default();
        let known = self.written.as_ref();
        if !known.is_some_and(|known| known.says_the_same(&sidecar)) {
            sidecar.write(output)?;
            self.written = Some(sidecar);
        }
        Ok(())
    }

    /// What was taken elsewhere is in the output now.
    pub(super) fn has_taken_in(&self) -> Result<(), Error> {
        let Some(output) = &self.output else {
            return Ok(());
        };
        match Sidecar::read(output)? {
            Some(mut sidecar) if !sidecar.taken.is_empty() => {
                sidecar.taken.clear();
                sidecar.write(output)
            }
            _ => Ok(()),
        }
    }

    /// The run is over: removes the sidecar when nothing is left, neither on the queue nor elsewhere.
    pub(super) fn end(&mut self, left: bool) -> Result<(), Error> {
        let Some(output) = &self.output else {
            return Ok(());
        };
        if !left {
            return Sidecar::remove(output, self.process);
        }
        self.write(0)?;
        self.queue.describe(self.process, &self.now()).map(drop)
    }
}
