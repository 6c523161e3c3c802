//! The settings of a worker that can change while it runs and need no provider.

use std::time::Duration;

use crate::engine::route::RetryPolicy;

use super::batch::BatchSettings;
use super::scale::WorkerScale;

/// Settings of a [`Worker`](crate::Worker) that apply to all kinds of jobs.
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
    /// The number of jobs at once. Default: as [`WorkerScale`].
    pub fn scale(mut self, scale: WorkerScale) -> Self {
        self.scale = scale;
        self
    }

    /// The waits before retries, instead of the routes' own policies; [`max_retries`](Self::max_retries) sets their
    /// number. Default: as [`RetryPolicy`].
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Retries at each step of the route, for jobs without their own number. Default: 3.
    pub fn max_retries(mut self, retries: u8) -> Self {
        self.max_retries = retries;
        self
    }

    /// Jobs that the worker claims with one access to the store at first; more if many jobs wait. Default: 10.
    pub fn batch_size(mut self, jobs: usize) -> Self {
        self.batch_size = jobs;
        self
    }

    /// How often an idle worker checks for jobs without a notification. Default: 5 s.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval;
        self
    }

    /// The settings for batches. Default: as [`BatchSettings`].
    pub fn batches(mut self, settings: BatchSettings) -> Self {
        self.batches = settings;
        self
    }
}
