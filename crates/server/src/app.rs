//! State that all handlers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use batchwright::JobQueue;
use batchwright::progress::Metrics;
use batchwright::queue::WorkerLimits;
use batchwright_jobs::JobTypes;
use parking_lot::Mutex;

use crate::background::Wake;
use crate::events::Events;
use crate::guard::Guard;
use crate::observe::Observer;
use crate::openai::state::OpenAi;
use crate::overview::Overview;
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
    pub openai: OpenAi,
    pub waiters: Waiters,
    /// Until when the numbers of the queue among the metrics are fresh.
    pub counted_until: Mutex<Option<Instant>>,
    /// Wakes the thread that sends webhooks.
    pub webhooks: Arc<Wake>,
    /// Whether webhooks may go to addresses that are not public, and unencrypted.
    pub private_webhooks: bool,
    pub guard: Guard,
}

/// Limits the number of requests that wait for the end of a job, so that other requests still get connections.
pub(crate) struct Waiters {
    now: AtomicUsize,
    most: usize,
}

impl Waiters {
    /// Half of this number of connections may wait.
    pub fn new(connections: usize) -> Self {
        Self {
            now: AtomicUsize::new(0),
            most: (connections / 2).max(1),
        }
    }

    /// Reserves a waiting slot, if one is free.
    pub fn enter(&self) -> Option<Waiting<'_>> {
        let waiting = Waiting(self);
        let before = self.now.fetch_add(1, Ordering::Relaxed);
        (before < self.most).then_some(waiting)
    }
}

/// A waiting slot of a request, released when it is dropped.
pub(crate) struct Waiting<'w>(&'w Waiters);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}
