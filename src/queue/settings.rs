//! The settings of a worker that can change while it runs and need no provider.

use std::time::Duration;

use derive_setters::Setters;

use crate::engine::route::RetryPolicy;

use super::batch::BatchSettings;
use super::scale::WorkerScale;

/// Settings of a [`Worker`](crate::Worker) that apply to all kinds of jobs.
#[derive(Debug, Clone, Copy, PartialEq, Setters)]
pub struct WorkerSettings {
    /// The number of jobs at once. Default: as [`WorkerScale`].
    pub(crate) scale: WorkerScale,
    /// The waits before retries, instead of the routes' own policies; [`max_retries`](Self::max_retries) sets their
    /// number. Default: as [`RetryPolicy`].
    pub(crate) retry: RetryPolicy,
    /// Retries at each step of the route, for jobs without their own number. Default: 3.
    pub(crate) max_retries: u8,
    /// Jobs that the worker claims with one access to the store at first; more if many jobs wait. Default: 10.
    pub(crate) batch_size: usize,
    /// How often an idle worker checks for jobs without a notification. Default: 5 s.
    pub(crate) poll_interval: Duration,
    /// The settings for batches. Default: as [`BatchSettings`].
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
