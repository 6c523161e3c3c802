//! Progress as data, and the trait that receives it.

use std::time::Duration;

use serde::Serialize;

use crate::base::{ErrorKind, ProcessId, Usd};

/// What a run is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// Calls are being made.
    #[default]
    Running,
    /// Nothing new is started; calls in flight end.
    Stopping,
    /// All items are settled.
    Finished,
    /// The process was deleted, whatever the state of its jobs.
    Deleted,
}

/// The progress of a run, or of a process of a queue. It is derived from settled outcomes, so the counts always add
/// up: `total = completed + failed + cancelled + pending + in_flight + at_provider` if a total is known; the
/// pending items are the rest.
// More than 15 fields, because each is a public number of a progress report.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Progress {
    /// The process of the queue that this progress belongs to, if it belongs to one.
    pub process_id: Option<ProcessId>,
    /// What is being done.
    pub phase: Phase,
    /// Share of the items that have their outcome, 0 to 100 with one decimal, rounded down; `None` without a known total.
    pub percent: Option<f64>,
    /// Total number of items, if known; without those that
    /// [`FileRunOptions::max_items`](crate::FileRunOptions::max_items) leaves to later runs.
    pub total: Option<u64>,
    /// Items with an answer, including those of earlier runs.
    pub completed: u64,
    /// Items that failed permanently.
    pub failed: u64,
    /// Items of a queue that were cancelled.
    pub cancelled: u64,
    /// Items in a batch at the provider.
    pub at_provider: u64,
    /// The part of these that is answered or failed there, if the provider reports it; their outcomes arrive when their
    /// batch has ended. `None` if it reports nothing.
    pub at_provider_done: Option<u64>,
    /// Calls in flight, including those whose outcomes are not settled yet.
    pub in_flight: u64,
    /// Calls repeated at the same provider after a failure.
    pub retries: u64,
    /// Time since the run began.
    pub elapsed: Duration,
    /// Outcomes per second in this run, with the highest weight on the latest ones.
    pub rate: f64,
    /// Expected time to the end at this rate, computed as for a [`ProgressTracker`](crate::progress::ProgressTracker).
    /// `None` before 10 items, or half of a smaller number, are settled in this run, and while the run only waits
    /// (`resumes_in`), because neither allows an estimate.
    pub eta: Option<Duration>,
    /// Input tokens in this run.
    pub input_tokens: u64,
    /// Output tokens in this run.
    pub output_tokens: u64,
    /// The cost so far, without the `unpriced` items; `None` if there are no others.
    pub cost_usd: Option<Usd>,
    /// Items of unknown cost.
    pub unpriced: u64,
    /// What limited the run most in about the last second: `"concurrency"` if more concurrent calls would help,
    /// `"quota"` (requests or tokens per minute), `"cooldown"` (a limit is paused, or a provider cannot be reached),
    /// `"backoff"` (all items wait for a retry), `"provider"` (the last calls are in flight), `"disk"` (outcomes wait to
    /// be written, or taken by the caller) or `"source"` (no item is ready). A worker also has `"load"` and `"memory"`, if they keep it from running more jobs at once, and `"budget"`, if the next call of
    /// a process does not fit its budget. `None` if unknown.
    pub limited_by: Option<&'static str>,
    /// Time until the next call can start, while no call can start because a provider is in cooldown after a rejected
    /// or failed call (`limited_by` is `"cooldown"`), or because every remaining item waits for its retry
    /// (`"backoff"`).
    pub resumes_in: Option<Duration>,
    /// The reason why nothing proceeds at the moment, as text for people.
    pub trouble: Option<String>,
    /// The kind of the failure that `trouble` describes, if it is one.
    pub trouble_kind: Option<ErrorKind>,
    /// How long a server has been loading its model, while it does so; its items wait for it.
    pub loading: Option<Duration>,
}

/// The share in percent with one decimal, rounded down, so that unfinished work never shows as 100.
pub(crate) fn percent(part: u64, whole: u64) -> f64 {
    (part as f64 * 1000.0 / whole as f64).floor() / 10.0
}

/// Receives progress about ten times a second, and once at the end. Called on the thread that
/// started the run, or on the worker's own; it should return quickly.
pub trait ProgressNotifier: Send + Sync {
    /// Receives the current progress. Should return quickly: the run waits for it.
    fn on_progress(&self, progress: &Progress);

    /// Whether it is also called at the end of each item, see [`EveryItem`]. Called once, at the start. Default: no.
    fn every_item(&self) -> bool {
        false
    }
}

/// A notifier that is also called at the end of each item. Items that end while it runs share the next call, and so
/// do texts that share an embedding call. Only its own thread waits for it.
///
/// ```
/// use std::sync::Arc;
/// use batchwright::progress::EveryItem;
/// use batchwright::{Bulk, Extract, Progress, Request};
/// let show = EveryItem(|now: &Progress| println!("{} of {:?}", now.completed, now.total));
/// let requests = ["a", "b", "c"].map(Request::new);
/// Bulk::new(Extract).concurrency(1).notifier(Arc::new(show)).collect(&requests)?;
/// # Ok::<(), batchwright::BulkError>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct EveryItem<N>(pub N);

impl<N: ProgressNotifier> ProgressNotifier for EveryItem<N> {
    fn on_progress(&self, progress: &Progress) {
        self.0.on_progress(progress);
    }

    fn every_item(&self) -> bool {
        true
    }
}

impl<F: Fn(&Progress) + Send + Sync> ProgressNotifier for F {
    fn on_progress(&self, progress: &Progress) {
        self(progress);
    }
}
