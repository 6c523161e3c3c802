//! What the worker does: its notifications, passed on as events, metrics and waits, on its own threads; and the overview,
//! which is read from the queue and from them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use batchwright::plan::{EffectiveStrategy, ProviderPlan};
use batchwright::progress::{EndedJob, JobObserver, Metrics, Phase};
use batchwright::queue::WorkerLimits;
use batchwright::{Error, JobQueue, LlmManager, ProcessId, Progress, ProgressNotifier};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::events::Events;
use crate::openai::waiting::Waiting;
use crate::shapes::{now, time};

/// Receives notifications of a worker and passes them on.
pub(crate) struct Observer {
    pub events: Arc<Events>,
    pub metrics: Metrics,
    pub waiting: Arc<Waiting>,
    pub seen: Mutex<Seen>,
}

#[derive(Default)]
pub(crate) struct Seen {
    /// Changed processes that were not reported since.
    changed: HashSet<ProcessId>,
    /// How fast each process goes that the worker processes.
    paces: HashMap<ProcessId, Progress>,
    /// Slots in use, and how many there are.
    slots: (usize, usize),
    limited_by: Option<&'static str>,
    trouble: Option<String>,
}

impl Observer {
    /// Records that a process has changed that the worker does not report in time.
    pub fn touch(&self, process: ProcessId) {
        self.seen.lock().changed.insert(process);
    }

    /// The processes that have changed since the last call.
    pub fn take_changed(&self) -> HashSet<ProcessId> {
        std::mem::take(&mut self.seen.lock().changed)
    }

    /// The speed of a process, if the worker processes it.
    pub fn pace(&self, process: ProcessId) -> Option<Progress> {
        self.seen.lock().paces.get(&process).cloned()
    }

    /// Why no job makes progress while the worker has jobs: its provider rejects all calls, or is unreachable.
    pub fn trouble(&self) -> Option<String> {
        let seen = self.seen.lock();
        seen.trouble.clone().filter(|_| !seen.paces.is_empty())
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
                seen.limited_by = progress.limited_by.or(seen.limited_by);
                seen.trouble.clone_from(&progress.trouble);
                seen.paces.insert(process, progress.clone());
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

/// What was read of the queue is reused for at least this time,
const FRESH: Duration = Duration::from_secs(1);
/// and for this multiple of the time that reading it took, because a long queue is counted job by job.
const FRESH_TIMES: u32 = 20;

/// What was read of the queue, and when it expires.
#[derive(Default)]
pub(crate) struct Fresh<T>(Mutex<Option<(Instant, T)>>);

impl<T: Clone> Fresh<T> {
    /// What was read, or is read now by one caller for all.
    ///
    /// # Errors
    /// That of `read`.
    pub fn get(&self, read: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let mut last = self.0.lock();
        let began = Instant::now();
        if let Some((until, known)) = &*last
            && began < *until
        {
            return Ok(known.clone());
        }
        let new = read()?;
        let ended = Instant::now();
        let until = ended + FRESH.max((ended - began) * FRESH_TIMES);
        *last = Some((until, new.clone()));
        Ok(new)
    }
}

/// Reads the queue and the worker, at most once per second.
pub(crate) struct Overview {
    pub queue: JobQueue,
    pub observer: Arc<Observer>,
    /// The current limits of the worker's providers.
    pub limits: WorkerLimits,
    pub manager: Option<Mutex<LlmManager>>,
    pub last: Fresh<Arc<Value>>,
}

impl Overview {
    /// Whether a worker can go by the settings as they are now.
    ///
    /// # Errors
    /// Why it cannot, and goes by those before.
    pub fn check_settings(&self) -> Result<(), Error> {
        match &self.manager {
            Some(manager) => manager.lock().refresh(),
            None => Ok(()),
        }
    }

    /// # Errors
    /// When the queue cannot be read.
    pub fn now(&self) -> Result<Arc<Value>, Error> {
        self.last.get(|| self.look().map(Arc::new))
    }

    /// Reads everything again for the next client, because a client has changed it.
    pub fn forget(&self) {
        *self.last.0.lock() = None;
    }

    /// Passes on the providers that the present settings select; `None` if they are unknown.
    pub fn look_at_providers<T>(&self, look: impl FnOnce(&ProviderPlan) -> T) -> Option<T> {
        let mut manager = self.manager.as_ref()?.lock();
        if let Err(error) = manager.refresh() {
            log::debug!("the settings cannot be used: {error}");
        }
        Some(look(manager.plan()))
    }

    fn look(&self) -> Result<Value, Error> {
        let totals = self.queue.totals()?;
        let manager = self.look_at_providers(|plan| {
            let first = &plan.first;
            let provider = json!({
                "name": first.provider,
                "model": first.model,
                "local": first.provider == "local",
            });
            let job_types = plan.for_job_types();
            let skipped = job_types.map_or_else(|_| Vec::new(), |plan| plan.skipped);
            (provider, strategy(&plan.strategy()), skipped)
        });
        let (provider, strategy, skipped) = match manager {
            Some((provider, strategy, skipped)) => (Some(provider), Some(strategy), skipped),
            None => (None, None, Vec::new()),
        };
        let trouble = self.observer.trouble();
        let seen = self.observer.seen.lock();
        let (used, slots) = seen.slots;
        let rate: f64 = seen.paces.values().map(|pace| pace.rate).sum();
        let limited_by = seen.limited_by.filter(|_| !seen.paces.is_empty());
        drop(seen);
        let jobs = &totals.jobs;
        let left = (jobs.pending + jobs.in_progress + jobs.at_provider) as f64;
        let eta = (left > 0.0 && rate > 0.0).then(|| (left / rate).ceil());
        Ok(json!({
            "now": time(now()),
            "jobs": jobs,
            "eta_seconds": eta,
            "paused": self.queue.is_paused()?,
            "waiting_by_priority": self.queue.waiting_by_priority()?,
            "processes": totals.processes,
            "processes_open": totals.open,
            "batches_open": self.queue.batches(None)?.len(),
            "worker": {
                "slots": slots,
                "used": used,
                "limited_by": limited_by,
                "trouble": trouble,
                "calls_in_flight": self.limits.calls_in_flight(),
                "rate": rate,
            },
            "provider": provider,
            "strategy": strategy,
            "skipped_providers": skipped,
        }))
    }
}

fn strategy(effective: &EffectiveStrategy) -> Value {
    json!({
        "asked": effective.asked,
        "effective": effective.strategy,
        "fallback_reason": effective.fallback_reason,
    })
}
