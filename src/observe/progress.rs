//! Progress as data, and the trait that receives it.

use std::time::Duration;

use serde::Serialize;

use crate::base::error::ErrorKind;
use crate::base::id::ProcessId;
use crate::base::usd::Usd;
use crate::engine::quota_status::LearnedLimit;

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// Calls are being made.
    Running,
    /// Nothing new is started; calls in flight end.
    Stopping,
    /// All is settled.
    Finished,
    /// Somebody deleted the process, whatever its jobs had come to.
    Deleted,
}

/// Where a run, or a process of a queue, stands. Derived from settled outcomes, so the counts always
/// add up: `total = completed + failed + cancelled + pending + in_flight + at_provider` where a total
/// is known; what is pending is the rest.
// More than 15 fields: each is public, and a number that a report of progress shows.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Progress {
    /// Whose progress it is, when it is that of a queue's process.
    pub process_id: Option<ProcessId>,
    /// What is being done.
    pub phase: Phase,
    /// Share of the items that have their outcome, 0 to 100 with one decimal, rounded down; `None` without a known total.
    pub percent: Option<f64>,
    /// Items in all, where known; without those that
    /// [`FileRunOptions::max_items`](crate::FileRunOptions::max_items) leaves to later runs.
    pub total: Option<u64>,
    /// Items with an answer, those of earlier runs included.
    pub completed: u64,
    /// Items that finally failed.
    pub failed: u64,
    /// Items of a queue that were cancelled.
    pub cancelled: u64,
    /// Items in a batch at the provider.
    pub at_provider: u64,
    /// Of these, answered or failed there, as far as the provider tells; their outcomes come when their
    /// batch has ended. `None` when it tells nothing.
    pub at_provider_done: Option<u64>,
    /// Calls being made right now, outcomes not yet settled included.
    pub in_flight: u64,
    /// Calls repeated at the same provider after a failure.
    pub retries: u64,
    /// Time since the run began.
    pub elapsed: Duration,
    /// Outcomes per second in this run, the latest weighing most.
    pub rate: f64,
    /// Expected time to the end, at this rate. It comes about as that of a
    /// [`ProgressTracker`](crate::progress::ProgressTracker). `None` before 10 items, or half of a smaller number, are
    /// settled in this run, and while the run only waits (`resumes_in`): neither says anything about the end.
    pub eta: Option<Duration>,
    /// Tokens read by the provider in this run.
    pub input_tokens: u64,
    /// Tokens written by the provider in this run.
    pub output_tokens: u64,
    /// The cost so far, without the `unpriced` items; `None` if there are no others.
    pub cost_usd: Option<Usd>,
    /// Items of unknown cost.
    pub unpriced: u64,
    /// What has limited the pace most in the last second or so: the name of a part of
    /// [`TimeSplit`](crate::progress::TimeSplit), or `"concurrency"` where more calls at once would help. `None` where
    /// that is not known.
    pub limited_by: Option<&'static str>,
    /// The limit that was learned and slows the run, while `limited_by` is `"quota"` and nobody set that limit.
    pub learned_limit: Option<LearnedLimit>,
    /// Time until the next call can start, while nothing can start because a provider pauses after a refusal or a
    /// failure (`limited_by` is `"cooldown"`) or because every item left waits for its retry (`"backoff"`).
    pub resumes_in: Option<Duration>,
    /// Why nothing moves at the moment, for people.
    pub trouble: Option<String>,
    /// The kind of the failure that is in the way, where `trouble` tells one.
    pub trouble_kind: Option<ErrorKind>,
    /// For how long a server has been loading its model, while one does; its items wait for it.
    pub loading: Option<Duration>,
}

/// The share in percent with one decimal, rounded down: what is not done is never shown as 100.
pub(crate) fn percent(part: u64, whole: u64) -> f64 {
    (part as f64 * 1000.0 / whole as f64).floor() / 10.0
}

/// Receives progress about ten times a second, and once at the end. Called on the thread that
/// started the run, or on the worker's own; it should return quickly.
pub trait ProgressNotifier: Send + Sync {
    /// Receives where the run stands now. Should return quickly: the run waits for it.
    fn on_progress(&self, progress: &Progress);

    /// Whether it is called at the end of each item, too, see [`EveryItem`]. Asked once, at the start. Default: no.
    fn every_item(&self) -> bool {
        false
    }
}

/// A notifier that is called at the end of each item, too. Items that end while it is at work share the next call, and
/// so do texts that share a call for vectors. Nothing waits for it but its own thread.
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
