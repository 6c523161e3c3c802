//! What a run's process is described with: what people are told, and what the run needs when it comes back.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::store_path::resolved;
use crate::base::{Error, ProcessId, Timestamp};
use crate::money::call_rate::CallPace;
use crate::money::deadline::DeadlinePlan;
use crate::queue::budget::ProcessBudget;
use crate::queue::host::JobQueue;
use crate::queue::info::ProcessInfo;

/// What a run notes in its store for the next one.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Note {
    /// Items whose answers were saved last, before they left the store.
    pub saved: Vec<String>,
    /// The rates of calls at the standard and the flex tier that earlier runs have measured, for a deadline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_pace: Option<CallPace>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flex_pace: Option<CallPace>,
    /// Where a run with a deadline stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub course: Option<Course>,
    /// Requests that were sent to write a prompt cache.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pilots: Vec<NotedPilot>,
}

/// A request that was sent to write a prompt cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NotedPilot {
    /// The hash of the beginning that it shares.
    pub prefix: u64,
    /// The id of its item.
    pub item: String,
    /// When it was sent or, if it has ended, when that was seen.
    pub at: Timestamp,
    /// If it has ended, whether requests with this beginning are marked.
    pub marks: Option<bool>,
}

/// Where a run with a deadline stands, for the run that continues it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Course {
    pub began: Timestamp,
    /// Calls could have met the deadline at some time.
    pub was_safe: bool,
    pub has_withdrawn: bool,
    /// Answers of batches per second.
    pub batch_rate: Option<f64>,
}

impl Note {
    pub(super) fn of(info: &ProcessInfo) -> Self {
        let text = info.note.as_deref().unwrap_or("{}");
        serde_json::from_str(text).unwrap_or_default()
    }
}

/// What earlier runs have noted about a deadline.
pub(super) struct Known<'a> {
    pub plan: Option<&'a DeadlinePlan>,
    /// The rates of standard and flex calls.
    pub paces: [Option<CallPace>; 2],
    pub course: Option<Course>,
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
        let plan = known.as_ref().and_then(|known| known.deadline.clone());
        let mut info = info.or(known).unwrap_or_default();
        info.deadline = plan;
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

    /// Notes the plan of a run with a deadline, and the measured rates of standard and flex calls.
    pub(super) fn planned(
        &mut self,
        plan: Option<&DeadlinePlan>,
        paces: [Option<CallPace>; 2],
        course: Option<Course>,
    ) -> Result<(), Error> {
        self.info.deadline = plan.cloned();
        self.note.course = course;
        [self.note.sync_pace, self.note.flex_pace] = paces;
        self.write()
    }

    /// Notes the pilots of prompt caches.
    pub(super) fn piloted(&mut self, pilots: Vec<NotedPilot>) -> Result<(), Error> {
        self.note.pilots = pilots;
        self.write()
    }

    /// The pilots that an earlier run has noted.
    pub(super) fn pilots(&self) -> &[NotedPilot] {
        &self.note.pilots
    }

    /// The plan, the rates and the course that earlier runs have noted.
    pub(super) fn plan(&self) -> Known<'_> {
        Known {
            plan: self.info.deadline.as_ref(),
            paces: [self.note.sync_pace, self.note.flex_pace],
            course: self.note.course,
        }
    }
}
