//! The state of a worker's batches, for its other threads.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::base::Error;

/// Written by the poller, read by the worker.
#[derive(Debug, Default)]
pub(crate) struct BatchOverview {
    /// Batches that are not at the provider yet.
    submitting: AtomicUsize,
    /// Batches at the provider, or whose results are being stored.
    running: AtomicUsize,
    /// Batches that wait for the user's decision.
    held: AtomicUsize,
    /// Batches whose missing results are not waited for.
    put_off: AtomicUsize,
    /// The store was not scanned yet.
    pub not_scanned: AtomicBool,
    /// The last scan of the store found no job that waits for a batch, and no batch was closed since. Jobs of paused
    /// processes do not count.
    pub none_waiting: AtomicBool,
    /// Batches that were created.
    pub created: AtomicU64,
    /// Batches that were closed, after all their results were stored.
    pub closed: AtomicU64,
    /// Jobs whose results were stored.
    pub completed: AtomicU64,
    /// Jobs that failed permanently.
    pub failed: AtomicU64,
    /// Requests that were sent again although the earlier batch may exist.
    pub possibly_paid_twice: AtomicU64,
    /// Why batches make no progress.
    pub trouble: Mutex<Option<String>>,
    /// A failure that affects all batches.
    pub critical: Mutex<Option<Error>>,
}

/// Number of batches of a worker by state.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub submitting: usize,
    pub running: usize,
    pub held: usize,
    pub put_off: usize,
}

impl BatchOverview {
    pub(super) fn report(&self, counts: Counts) {
        self.submitting.store(counts.submitting, Ordering::SeqCst);
        self.running.store(counts.running, Ordering::SeqCst);
        self.held.store(counts.held, Ordering::SeqCst);
        self.put_off.store(counts.put_off, Ordering::SeqCst);
    }

    /// Whether batches are open: until everything is stored, or until everything is submitted.
    pub(crate) fn open(&self, until_submitted: bool) -> bool {
        let submitting = self.submitting.load(Ordering::SeqCst);
        let running = self.running.load(Ordering::SeqCst);
        let not_scanned = self.not_scanned.load(Ordering::SeqCst);
        not_scanned || submitting > 0 || !until_submitted && running > 0
    }

    /// Whether this worker owns batches.
    pub(crate) fn has_batches(&self) -> bool {
        let counts = [&self.submitting, &self.running, &self.held, &self.put_off];
        counts.iter().any(|count| count.load(Ordering::SeqCst) > 0)
    }

    pub(crate) fn at_provider(&self) -> u64 {
        self.running.load(Ordering::SeqCst) as u64
    }

    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::SeqCst) as u64
    }

    pub(crate) fn put_off(&self) -> u64 {
        self.put_off.load(Ordering::SeqCst) as u64
    }
}
