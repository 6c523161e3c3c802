//! State that all handlers share.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use batchwright::progress::Metrics;
use batchwright::queue::WorkerLimits;
use batchwright::{Error, JobId, JobQueue, ProcessId};
use batchwright_jobs::JobTypes;
use parking_lot::Mutex;

use crate::dashboard::page::Page;
use crate::events::Events;
use crate::guard::Guard;
use crate::observe::Observer;
use crate::openai::state::OpenAi;
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
    pub openai: OpenAi,
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
    /// Has the end of a process told that was created, if the server has a webhook.
    pub fn tell_end(&self, process: ProcessId) -> Result<(), Error> {
        let database = &mut self.records.single();
        self.records.tell_end(database, &process.to_string())?;
        self.records.wake_sender();
        Ok(())
    }
}

/// Limits the number of requests that wait for the end of a job, so that other requests still get connections.
pub(crate) struct Waiters {
    now: AtomicUsize,
    connections: usize,
    /// The moving average of the time that requests waited, in milliseconds.
    average_wait: AtomicU64,
    /// When the last of them ended, or the first one began to wait.
    changed: Mutex<Instant>,
}

/// The longest `retry-after`, in seconds: OpenAI's clients ignore longer ones.
const LONGEST_RETRY: u64 = 60;

impl Waiters {
    /// Half of this number of connections may wait.
    pub fn new(connections: usize) -> Self {
        Self {
            now: AtomicUsize::new(0),
            connections,
            average_wait: AtomicU64::new(0),
            changed: Mutex::new(Instant::now()),
        }
    }

    fn most(&self) -> usize {
        (self.connections / 2).max(1)
    }

    /// Reserves a waiting slot, if one is free.
    pub fn enter(&self) -> Option<Waiting<'_>> {
        let before = self.now.fetch_add(1, Ordering::Relaxed);
        if before < self.most() {
            if before == 0 {
                *self.changed.lock() = Instant::now();
            }
            return Some(Waiting(self, Instant::now()));
        }
        self.now.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// The response if no slot is free: it names the limit, its flag and the time to wait.
    pub fn full(&self) -> Problem {
        let (most, all) = (self.most(), self.connections);
        let why = format!(
            "{most} requests wait for their answers, which is the limit: half of --max-connections ({all}). Send this one \
             again later, raise the limit, or use a batch"
        );
        Problem::new(503, "too_many_waiting", why)
            .header("retry-after", self.retry_after().to_string())
    }

    /// The time until a slot is likely to be free, in seconds: the average time that requests waited, or the time
    /// since the last one ended, if that is longer.
    pub fn retry_after(&self) -> u64 {
        self.retry_after_at(Instant::now())
    }

    fn retry_after_at(&self, now: Instant) -> u64 {
        let seconds = self.average_wait.load(Ordering::Relaxed).div_ceil(1_000);
        let without_end = match self.now.load(Ordering::Relaxed) {
            0 => 0,
            _ => now
                .saturating_duration_since(*self.changed.lock())
                .as_secs(),
        };
        seconds.max(without_end).clamp(1, LONGEST_RETRY)
    }

    /// The interval at which a waiting request polls for changes that are not signalled. `alone` is the interval of a
    /// single one; it grows with their number, so that hundreds of them do not keep a processor busy.
    pub fn pause(&self, alone: Duration) -> Duration {
        let more = self.now.load(Ordering::Relaxed) / 250;
        alone * (1 + u32::try_from(more).unwrap_or(u32::MAX - 1))
    }
}

/// A waiting slot of a request, released when it is dropped.
pub(crate) struct Waiting<'w>(&'w Waiters, Instant);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
        *self.0.changed.lock() = Instant::now();
        let took = u64::try_from(self.1.elapsed().as_millis()).unwrap_or(u64::MAX);
        let before = self.0.average_wait.load(Ordering::Relaxed);
        // If two requests end at once, one of the two times may be lost, which hardly changes the average.
        let average = match before {
            0 => took,
            _ => before - before / 8 + took / 8,
        };
        self.0.average_wait.store(average, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_wait_is_that_of_others_also_before_one_has_ended() {
        let waiters = Waiters::new(4);
        let began = Instant::now();
        let after = |seconds| waiters.retry_after_at(began + Duration::from_secs(seconds));
        assert_eq!((after(0), after(30)), (1, 1), "nobody waits");
        let waits = [waiters.enter(), waiters.enter()];
        assert!(waits.iter().all(Option::is_some) && waiters.enter().is_none());
        *waiters.changed.lock() = began;
        assert_eq!((after(30), after(1_000)), (30, LONGEST_RETRY));
        drop(waits);
        // As if both had ended at once, however long the test took.
        waiters.average_wait.store(0, Ordering::Relaxed);
        assert_eq!(after(1_000), 1);
        waiters.average_wait.store(7_500, Ordering::Relaxed);
        assert_eq!(after(0), 8);
    }
}
