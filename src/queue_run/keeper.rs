//! Keeps the sidecar of a run's output, and what the queue tells of its process, as they are.

use std::path::{Path, PathBuf};

use crate::base::error::{Error, ErrorKind};
use crate::base::id::{JobId, ProcessId};
use crate::base::sidecar_path::resolved;
use crate::bulk::run_settings::RunSettings;
use crate::queue::host::JobQueue;
use crate::queue::info::ProcessInfo;
use crate::queue::job::ProcessState;

use super::sidecar::{JobSettings, Sidecar, TakenResults, file_id};

/// Whose output it is that a run writes to, and where that is kept.
pub(super) struct SidecarKeeper {
    queue: JobQueue,
    process: ProcessId,
    /// What was told of the process.
    info: ProcessInfo,
    /// `None` where nobody could come back to it.
    output: Option<PathBuf>,
    written: Option<Sidecar>,
    /// The settings of its jobs, from the sidecar and of this run.
    settings: Vec<JobSettings>,
}

/// What is known beside an output, before anything is sent.
#[derive(Default)]
pub(super) struct KnownState {
    pub taken: Vec<TakenResults>,
    pub settings: Vec<JobSettings>,
    /// Why nothing may be sent: it may be bought already.
    pub lost: Option<String>,
}

/// What an output's sidecar says of where its results are, once it is sure that it is this process's.
pub(super) fn known(
    output: &Path,
    queue: &JobQueue,
    process: ProcessId,
) -> Result<KnownState, Error> {
    let state = queue.process(process)?;
    let Some((sidecar, _)) = Sidecar::find(output, state.as_ref())? else {
        return Ok(KnownState::default());
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
    let all_taken = !sidecar.taken.is_empty() && sidecar.items == 0;
    if state.is_none() && !all_taken && sidecar.queue_id != queue.id()? {
        return refused(format!(
            "what is under way of it is on another queue: {}",
            sidecar.queue
        ));
    }
    let lost = (state.is_none() && !sidecar.batches.is_empty()).then(|| {
        let (n, queue) = (sidecar.items, &sidecar.queue);
        let batches = sidecar.batches.iter().take(5);
        let named: Vec<String> = batches.map(|(at, id)| format!("{id} at {at}")).collect();
        format!(
            "{n} items of {} were in batches {}, and {queue} knows nothing of process {process}; was an \
             older copy of it put back?",
            output.display(),
            named.join(", ")
        )
    });
    Ok(KnownState {
        taken: sidecar.taken,
        settings: sidecar.settings,
        lost,
    })
}

/// Refuses what would be bought again, and says how it is bought again on purpose.
pub(super) fn unsent(output: &Path, process: Option<&ProcessState>, why: &str) -> Error {
    let found = Sidecar::find(output, process).ok().flatten();
    let path = found.map(|(_, path)| path).unwrap_or_default();
    let why = format!(
        "{why}. They would be bought again; nothing was sent. Put back what is missing and run this again, \
         which takes them in. To give them up and buy them again: rm '{}', then this command again",
        path.display()
    );
    Error::new(ErrorKind::Invalid, why)
}

impl SidecarKeeper {
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
            settings: Vec::new(),
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
        let Some(output) = &self.output else {
            return Ok(());
        };
        let found = Sidecar::bring(output, before.as_ref())?;
        self.settings = found.map_or_else(Vec::new, |found| found.settings);
        if before.is_none() && more == 0 {
            return Ok(());
        }
        self.write(more)?;
        self.queue.describe(self.process, &self.now()).map(drop)
    }

    /// Writes down the settings of `more` items, before they are put on the queue behind this job of it.
    pub(super) fn submits(
        &mut self,
        more: u64,
        last: Option<JobId>,
        settings: &RunSettings,
    ) -> Result<(), Error> {
        if more == 0 || self.written.is_none() {
            return Ok(());
        }
        JobSettings::note(&mut self.settings, last, settings);
        self.write(more)
    }

    /// The settings that a job was submitted with; `None` where they are not known.
    pub(super) fn settings_of(&self, job: JobId) -> Option<&RunSettings> {
        JobSettings::of(&self.settings, job)
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
        sidecar.settings.clone_from(&self.settings);
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
