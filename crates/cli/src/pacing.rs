//! How many jobs a worker runs, and how patiently: settings that need no provider.

use std::time::Duration;

use batchwright::batch::BatchSettings;
use batchwright::queue::WorkerScale;
use batchwright::{RetryPolicy, RunningWorker, Settings, Worker};

use super::args::work::WorkArgs;
use super::exit::Refusal;
use super::settings::refused;

pub struct Pacing {
    scale: WorkerScale,
    retry: RetryPolicy,
    max_retries: u8,
    batch: usize,
    poll: Duration,
    batches: BatchSettings,
}

impl Pacing {
    pub fn new(args: &WorkArgs, settings: &Settings) -> Result<Self, Refusal> {
        let max_retries = settings.max_retries().map_err(refused)?;
        Ok(Self {
            scale: scale(args, settings)?,
            retry: retry(args, settings, max_retries)?,
            max_retries,
            batch: settings.batch_size().map_err(refused)?,
            poll: settings.poll_interval().map_err(refused)?,
            batches: settings.batch_settings().map_err(refused)?,
        })
    }

    pub fn give(&self, worker: Worker) -> Worker {
        worker
            .retry(self.retry)
            .max_retries(self.max_retries)
            .scale(self.scale)
            .batch_size(self.batch)
            .poll_interval(self.poll)
            .batch_settings(self.batches)
    }

    /// Passes them on to a worker that runs.
    pub fn apply(&self, worker: &RunningWorker) {
        worker.set_scale(self.scale);
        worker.set_max_retries(self.max_retries);
        worker.set_batch_size(self.batch);
        worker.set_poll_interval(self.poll);
        worker.set_batch_settings(self.batches);
    }
}

pub fn retry(
    args: &WorkArgs,
    settings: &Settings,
    max_retries: u8,
) -> Result<RetryPolicy, Refusal> {
    let policy = settings.retry_policy(max_retries).map_err(refused)?;
    Ok(policy.fall_back_when_blocked(args.provider.fallback_blocked))
}

fn scale(args: &WorkArgs, settings: &Settings) -> Result<WorkerScale, Refusal> {
    if args.concurrency.is_some() {
        let slots = settings.sync_concurrency().map_err(refused)?;
        return Ok(WorkerScale::fixed(slots.unwrap_or(1)));
    }
    let most = settings.max_concurrent_requests().map_err(refused)?;
    let slots = |n: usize| n.min(most).max(1);
    Ok(WorkerScale::default()
        .slots(
            slots(settings.min_workers().map_err(refused)?),
            slots(settings.worker_count().map_err(refused)?),
            slots(settings.max_workers().map_err(refused)?),
        )
        .cpu_percent(settings.max_cpu_percent().map_err(refused)?.into())
        .memory_percent(settings.max_memory_percent().map_err(refused)?.into()))
}
