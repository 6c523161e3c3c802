//! State that all handlers share.

use std::path::PathBuf;
use std::sync::Arc;

use batchwright::progress::Timestamp;
use batchwright::{JobQueue, ProcessId};
use batchwright_jobs::JobTypes;

use crate::access::Guard;
use crate::background::Wake;
use crate::events::Events;
use crate::observe::{Fresh, Observer, Overview};
use crate::openai::storage::Storage;
use crate::openai::waiting::Waiting;
use crate::records::{Records, now};
use crate::settings::LiveSettings;

/// State that all handlers share. More than 15 fields: one for each part of the server that handlers share.
pub(crate) struct App {
    pub queue: JobQueue,
    /// The settings and their location, if the server was given them.
    pub settings: Option<LiveSettings>,
    pub types: JobTypes,
    /// The kinds of jobs that the worker carries out.
    pub kinds: Vec<String>,
    /// Most bytes that a body of JSON lines may have.
    pub line_bytes: u64,
    pub events: Arc<Events>,
    /// Receives the worker's notifications.
    pub observer: Arc<Observer>,
    pub overview: Overview,
    pub records: Arc<Records>,
    /// The files of the Batch endpoint.
    pub storage: Storage,
    pub waiting: Arc<Waiting>,
    /// Wakes the thread that advances batches.
    pub batches: Arc<Wake>,
    /// Whether the numbers of the queue among the metrics are fresh.
    pub counted: Fresh<()>,
    pub guard: Guard,
    pub folder: PathBuf,
    /// The file of the queue, if it is in one.
    pub queue_file: Option<PathBuf>,
}

impl App {
    /// What the time is at least and at most, in seconds since 1970.
    pub fn time(&self) -> (u64, u64) {
        trusted(&self.queue)
    }

    /// Has the end of a process told that was created, if the server has a webhook. The process is there in any case.
    pub fn tell_end(&self, process: ProcessId) {
        let database = &self.records.single();
        if let Err(error) = self.records.tell_end(database, &process.to_string()) {
            log::error!("the webhook is not told the end of process {process}: {error}");
        }
    }
}

/// What the time is at least and at most, in seconds since 1970. Nothing ends while that cannot be known.
pub(crate) fn trusted(queue: &JobQueue) -> (u64, u64) {
    let seconds = |time: Timestamp| u64::try_from(time.0 / 1000).unwrap_or_default();
    match queue.trusted_time() {
        Ok(time) => (seconds(time.earliest), seconds(time.latest)),
        Err(error) => {
            log::debug!("the time is not known: {error}");
            (0, now())
        }
    }
}
