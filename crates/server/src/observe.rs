//! Receives the worker's notifications and passes them on as events, metrics and data of the overview. It is called on
//! the worker's threads, so it neither reads the queue nor waits.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use batchwright::progress::{EndedJob, JobObserver, Metrics, Phase};
use batchwright::{ProcessId, Progress, ProgressNotifier};
use parking_lot::Mutex;
use serde_json::json;

use crate::events::Events;
use crate::openai::waiting::Waiting;
use crate::shapes::Pace;

/// Receives notifications of a worker and passes them on.
pub(crate) struct Observer {
    events: Arc<Events>,
    metrics: Metrics,
    waiting: Arc<Waiting>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Changed processes that were not reported since.
    changed: HashSet<ProcessId>,
    paces: HashMap<ProcessId, Pace>,
    /// Jobs that have ended.
    ended: u64,
    /// Slots in use, and how many there are.
    slots: (usize, usize),
    limited_by: Option<&'static str>,
    trouble: Option<String>,
}

impl Observer {
    pub fn new(events: Arc<Events>, metrics: Metrics, waiting: Arc<Waiting>) -> Self {
        Self {
            events,
            metrics,
            waiting,
            seen: Mutex::default(),
        }
    }

    /// Records that a process has changed that the worker does not report in time.
    pub fn touch(&self, process: ProcessId) {
        self.seen.lock().changed.insert(process);
    }

    /// The processes that have changed since the last call.
    pub fn take_changed(&self) -> HashSet<ProcessId> {
        std::mem::take(&mut self.seen.lock().changed)
    }

    /// The speed of a process, if the worker processes it.
    pub fn pace(&self, process: ProcessId) -> Option<Pace> {
        self.seen.lock().paces.get(&process).copied()
    }

    /// Slots in use, and how many there are.
    pub fn slots(&self) -> (usize, usize) {
        self.seen.lock().slots
    }

    /// What limits the worker, while it is busy.
    pub fn limited_by(&self) -> Option<&'static str> {
        let seen = self.seen.lock();
        seen.limited_by.filter(|_| !seen.paces.is_empty())
    }

    /// Why no job makes progress while the worker has jobs: its provider rejects all calls, or is unreachable.
    pub fn trouble(&self) -> Option<String> {
        let seen = self.seen.lock();
        seen.trouble.clone().filter(|_| !seen.paces.is_empty())
    }

    /// Jobs that have ended since the start.
    pub fn ended(&self) -> u64 {
        self.seen.lock().ended
    }
}

impl ProgressNotifier for Observer {
    fn on_progress(&self, progress: &Progress) {
        let Some(process) = progress.process_id else {
            return;
        };
        let mut seen = self.seen.lock();
        seen.changed.insert(process);
        match progress.phase {
            Phase::Running | Phase::Stopping => {
                let limited_by = progress.limited_by;
                seen.limited_by = limited_by.or(seen.limited_by);
                seen.trouble.clone_from(&progress.trouble);
                let pace = Pace {
                    rate: progress.rate,
                    eta: progress.eta,
                    limited_by,
                };
                seen.paces.insert(process, pace);
            }
            _ => {
                seen.paces.remove(&process);
            }
        }
    }
}

impl JobObserver for Observer {
    fn on_job_end(&self, job: &EndedJob<'_>) {
        self.metrics.on_job_end(job);
        self.seen.lock().ended += 1;
        let (process_id, job_id) = job.ids.unzip();
        let status = if job.error.is_some() {
            "failed"
        } else {
            "completed"
        };
        let error = job
            .error
            .map(|error| json!({"kind": error.kind().as_str(), "message": error.message()}));
        let event = json!({
            "job_id": job_id,
            "process_id": process_id,
            "type": job.kind,
            "status": status,
            "error": error,
            "provider": job.provider,
            "took_seconds": job.took.as_secs_f64(),
        });
        self.events.publish("job", process_id, &event);
        if let Some(process) = process_id {
            self.waiting.ended(process);
        }
    }

    fn on_slots(&self, used: usize, slots: usize) {
        self.metrics.on_slots(used, slots);
        self.seen.lock().slots = (used, slots);
    }

    fn on_limit(&self, limited_by: &'static str) {
        self.metrics.on_limit(limited_by);
    }
}
