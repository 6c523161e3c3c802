//! How many jobs a worker runs, and how patiently: what may change while it runs, and needs no provider.

use std::time::Duration;

use crate::engine::route::RetryPolicy;

use super::batch::BatchSettings;
use super::scale::WorkerScale;

/// How a [`Worker`](crate::Worker) works, whatever its jobs are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WorkerSettings {
    pub(crate) scale: WorkerScale,
    pub(crate) retry: RetryPolicy,
    pub(crate) max_retries: u8,
    pub(crate) batch_size: usize,
    pub(crate) poll_interval: Duration,
    pub(crate) batches: BatchSettings,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            scale: WorkerScale::default(),
            retry: RetryPolicy::default(),
            max_retries: 3,
            batch_size: 10,
            poll_interval: Duration::from_secs(5),
            batches: BatchSettings::default(),
        }
    }
}

impl WorkerSettings {
    /// How many jobs run at once. Default: as [`WorkerScale`].
    pub fn scale(mut self, scale: WorkerScale) -> Self {
        self.scale = scale;
        self
    }

    /// How patiently failures are tried again, in place of the routes' own policies; the number of
    /// retries is [another setting](Self::max_retries). Default: as [`RetryPolicy`].
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Retries of jobs that bring no number of their own, at each step of their route. Default: 3.
    pub fn max_retries(mut self, retries: u8) -> Self {
        self.max_retries = retries;
        self
    }

    /// Jobs claimed with one trip to the store, at first; more while there is much to do. Default: 10.
    pub fn batch_size(mut self, jobs: usize) -> Self {
        self.batch_size = jobs;
        self
    }

    /// How often an idle worker looks for work although nobody told it of any. Default: 5 s.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval;
        self
    }

    /// How batches are looked after. Default: as [`BatchSettings`].
    pub fn batches(mut self, settings: BatchSettings) -> Self {
        self.batches = settings;
        self
    }
}
