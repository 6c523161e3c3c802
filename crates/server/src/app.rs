//! What all handlers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

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
use crate::problem::Problem;
use crate::records::Records;
use crate::settings::LiveSettings;

/// What all handlers share.
// More than 15 fields: one for each part of the server that handlers share.
pub(crate) struct App {
    pub queue: JobQueue,
    /// The settings and where they are kept, where the server was given them.
    pub settings: Option<LiveSettings>,
    pub types: JobTypes,
    /// The kinds of jobs that the worker carries out.
    pub kinds: Vec<String>,
    /// Most bytes that a body of JSON lines may have.
    pub line_bytes: u64,
    pub metrics: Metrics,
    pub events: Arc<Events>,
    /// What the worker's providers allow.
    pub limits: WorkerLimits,
    /// Who hears of the worker.
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

/// Requests that wait for the end of a job: not so many that they have all connections.
pub(crate) struct Waiters {
    now: AtomicUsize,
    connections: usize,
    /// How long places were taken lately, in milliseconds: a moving average.
    lasted: AtomicU64,
}

/// Longest time after which somebody is told to come again, in seconds: OpenAI's clients heed no longer one.
const LONGEST_RETRY: u64 = 60;

impl Waiters {
    /// Of so many connections half may wait.
    pub fn new(connections: usize) -> Self {
        Self {
            now: AtomicUsize::new(0),
            connections,
            lasted: AtomicU64::new(0),
        }
    }

    /// A place to wait at, where one is free.
    pub fn enter(&self) -> Option<Waiting<'_>> {
        let before = self.now.fetch_add(1, Ordering::Relaxed);
        if before < (self.connections / 2).max(1) {
            return Some(Waiting(self, Instant::now()));
        }
        self.now.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// Says that no place is free, what limits them, and when to come again.
    pub fn full(&self) -> Problem {
        let (most, all) = ((self.connections / 2).max(1), self.connections);
        let why = format!(
            "{most} requests wait for their answers, which is the limit: half of --max-connections ({all}). Send this one \
             again later, raise the limit, or use a batch"
        );
        Problem::new(503, "too_many_waiting", why)
            .header("retry-after", self.retry_after().to_string())
    }

    /// The time after which those who wait now will have been answered, as places were taken lately, in seconds.
    pub fn retry_after(&self) -> u64 {
        let seconds = self.lasted.load(Ordering::Relaxed).div_ceil(1_000);
        seconds.clamp(1, LONGEST_RETRY)
    }

    /// How often somebody who waits looks whether anything has changed that nobody tells, where a single one looks as often
    /// as `alone`: with hundreds of them less often, so that looking takes no processor.
    pub fn pause(&self, alone: Duration) -> Duration {
        let more = self.now.load(Ordering::Relaxed) / 250;
        alone * (1 + u32::try_from(more).unwrap_or(u32::MAX - 1))
    }
}

/// A place at which a request waits, free again when it is dropped.
pub(crate) struct Waiting<'w>(&'w Waiters, Instant);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
        let took = u64::try_from(self.1.elapsed().as_millis()).unwrap_or(u64::MAX);
        let before = self.0.lasted.load(Ordering::Relaxed);
        // Two that end at once may lose one of the two times, which an average bears.
        let average = before - before / 8 + took / 8;
        self.0.lasted.store(average, Ordering::Relaxed);
    }
}
