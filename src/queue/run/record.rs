//! What a run's process is described with: what people are told, and what the run needs when it comes back.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::disk::resolved;
use crate::base::{Error, ProcessId};
use crate::queue::budget::ProcessBudget;
use crate::queue::host::JobQueue;
use crate::queue::info::ProcessInfo;

/// What a run notes in its store for the next one.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Note {
    /// Items whose answers were saved last, before they left the store.
    pub saved: Vec<String>,
}

impl Note {
    pub(super) fn of(info: &ProcessInfo) -> Self {
        let text = info.note.as_deref().unwrap_or("{}");
        serde_json::from_str(text).unwrap_or_default()
    }
}

/// Ids of saved items that are kept: a user may take some of their lines out of the output, and not all.
const SAVED: usize = 8;

/// The description of a run's process.
pub(super) struct Record {
    queue: JobQueue,
    process: ProcessId,
    info: ProcessInfo,
    note: Note,
}

impl Record {
    /// Describes the process, if it is there already, as this run has it.
    pub(super) fn begin(
        queue: &JobQueue,
        process: ProcessId,
        info: Option<ProcessInfo>,
        output: Option<PathBuf>,
    ) -> Result<Self, Error> {
        let known = queue.process(process)?.map(|known| known.info);
        let note = known.as_ref().map(Note::of).unwrap_or_default();
        let mut info = info.or(known).unwrap_or_default();
        if let Some(output) = output {
            let whole = resolved(&output, 0).unwrap_or(output);
            info.output = Some(whole.to_string_lossy().into_owned());
        }
        let record = Self {
            queue: queue.clone(),
            process,
            info,
            note,
        };
        record.write()?;
        Ok(record)
    }

    /// Sets the budget of the process, if that does not exist yet.
    pub(super) fn limited(&mut self, budget: ProcessBudget) {
        self.info.budget = Some(budget);
    }

    /// The queue, on which jobs of this process are described.
    pub(super) fn described(&self) -> JobQueue {
        self.queue.described(self.now())
    }

    fn now(&self) -> ProcessInfo {
        let note = serde_json::to_string(&self.note).unwrap_or_default();
        self.info.clone().note(note)
    }

    fn write(&self) -> Result<(), Error> {
        self.queue.describe(self.process, &self.now()).map(drop)
    }

    /// Notes that the answers to these items are in the output, before they leave the queue.
    pub(super) fn saved(&mut self, ids: Vec<String>) -> Result<(), Error> {
        let saved = &mut self.note.saved;
        saved.extend(ids);
        saved.drain(..saved.len().saturating_sub(SAVED));
        self.write()
    }
}
