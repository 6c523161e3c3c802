//! What the worker tells, for those who listen: events and metrics.

use std::sync::Arc;

use batchwright::progress::{EndedJob, JobObserver, Metrics};
use batchwright::{Progress, ProgressNotifier};

use crate::events::Events;

/// Hears of a worker and tells of it.
pub(crate) struct Observer {
    events: Arc<Events>,
    metrics: Metrics,
}

impl Observer {
    pub fn new(events: Arc<Events>, metrics: Metrics) -> Self {
        Self { events, metrics }
    }
}

impl ProgressNotifier for Observer {
    fn on_progress(&self, progress: &Progress) {
        self.metrics.on_progress(progress);
        self.events.publish("progress", progress);
    }
}

impl JobObserver for Observer {
    fn on_job_end(&self, job: &EndedJob<'_>) {
        self.metrics.on_job_end(job);
    }

    fn on_slots(&self, used: usize, slots: usize) {
        self.metrics.on_slots(used, slots);
    }
}
