//! State that all handlers share.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use batchwright::progress::Metrics;
use batchwright::queue::WorkerLimits;
use batchwright::{JobId, JobQueue, ProcessId};
use batchwright_jobs::JobTypes;
use parking_lot::Mutex;

use crate::background::Wake;
use crate::dashboard::page::Page;
use crate::events::Events;
use crate::guard::Guard;
use crate::observe::Observer;
use crate::openai::storage::Storage;
use crate::openai::waiting::Waiting;
use crate::overview::Overview;
use crate::problem::Problem;
use crate::readiness::DiskCheck;
use crate::records::Records;
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
    pub metrics: Metrics,
    pub events: Arc<Events>,
    /// The current limits of the worker's providers.
    pub limits: WorkerLimits,
    /// Receives the worker's notifications.
    pub observer: Arc<Observer>,
    pub overview: Overview,
    pub records: Arc<Records>,
    /// The files of the Batch endpoint.
    pub storage: Storage,
    pub waiting: Arc<Waiting>,
    /// Wakes the thread that advances batches.
    pub batches: Arc<Wake>,
    pub waiters: Waiters,
    /// Running jobs that are cancelled if they return to the queue.
    pub cancelled_jobs: Mutex<HashSet<JobId>>,
    /// Until when the numbers of the queue among the metrics are fresh.
    pub counted_until: Mutex<Option<Instant>>,
    pub guard: Guard,
    pub page: Page,
    pub disk_check: DiskCheck,
}

impl App {
    /// Has the end of a process told that was created, if the server has a webhook. The process is there in any case.
    pub fn tell_end(&self, process: ProcessId) {
        let database = &self.records.single();
        match self.records.tell_end(database, &process.to_string()) {
            Ok(()) => self.records.wake_sender(),
            Err(error) => {
                log::error!("the webhook is not told the end of process {process}: {error}");
            }
        }
    }
}

/// Limits the number of requests that wait for the end of a job, so that other requests still get connections.
pub(crate) struct Waiters {
    now: AtomicUsize,
    connections: usize,
}

/// When a request that found no slot may be sent again, in seconds.
const RETRY_AFTER: &str = "5";

impl Waiters {
    /// Half of this number of connections may wait.
    pub fn new(connections: usize) -> Self {
        Self {
            now: AtomicUsize::new(0),
            connections,
        }
    }

    fn most(&self) -> usize {
        (self.connections / 2).max(1)
    }

    /// Reserves a waiting slot, if one is free.
    pub fn enter(&self) -> Option<Place<'_>> {
        let place = Place(self);
        let before = self.now.fetch_add(1, Ordering::Relaxed);
        (before < self.most()).then_some(place)
    }

    /// The response if no slot is free: it names the limit and its flag.
    pub fn full(&self) -> Problem {
        let (most, all) = (self.most(), self.connections);
        let why = format!(
            "{most} requests wait for their answers, which is the limit: half of --max-connections ({all}). Send this one \
             again later, raise the limit, or use a batch"
        );
        Problem::new(503, "too_many_waiting", why).header("retry-after", RETRY_AFTER)
    }

    /// The interval at which a waiting request polls for changes that are not signalled. `alone` is the interval of a
    /// single one; it grows with their number, so that hundreds of them do not keep a processor busy.
    pub fn pause(&self, alone: Duration) -> Duration {
        let more = self.now.load(Ordering::Relaxed) / 250;
        alone * (1 + u32::try_from(more).unwrap_or(u32::MAX - 1))
    }
}

/// A waiting slot of a request, released when it is dropped.
pub(crate) struct Place<'w>(&'w Waiters);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}
