//! The overview of the server: the states of all jobs, and the worker.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use batchwright::plan::{EffectiveStrategy, ProviderPlan};
use batchwright::queue::WorkerLimits;
use batchwright::{Error, JobQueue, LlmManager};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::observe::Observer;
use crate::shapes::{now, time};

/// An overview is reused for at least this time,
const FRESH: Duration = Duration::from_secs(1);
/// and for this multiple of the time that reading it took, because a long queue is counted job by job.
const FRESH_TIMES: u32 = 20;
/// The rate, also for the time left, is measured over this time.
const WINDOW: Duration = Duration::from_secs(60);

/// Reads the queue and the worker, at most once per second.
pub(crate) struct Overview {
    queue: JobQueue,
    observer: Arc<Observer>,
    limits: WorkerLimits,
    manager: Option<Mutex<LlmManager>>,
    last: Mutex<Last>,
}

struct Last {
    /// The stored overview, and when it expires.
    shown: Option<(Instant, Arc<Value>)>,
    /// Ends as they were in the last minute.
    ended: VecDeque<(Instant, u64)>,
}

impl Overview {
    pub fn new(
        queue: JobQueue,
        observer: Arc<Observer>,
        limits: WorkerLimits,
        manager: Option<LlmManager>,
    ) -> Self {
        let ended = VecDeque::from([(Instant::now(), observer.ended())]);
        Self {
            queue,
            observer,
            limits,
            manager: manager.map(Mutex::new),
            last: Mutex::new(Last { shown: None, ended }),
        }
    }

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
        let mut last = self.last.lock();
        if let Some((until, shown)) = &last.shown
            && Instant::now() < *until
        {
            return Ok(Arc::clone(shown));
        }
        let rate = last.rate(self.observer.ended());
        let began = Instant::now();
        let shown = Arc::new(self.look(rate)?);
        last.shown = Some((fresh_until(began, Instant::now()), Arc::clone(&shown)));
        Ok(shown)
    }

    /// Reads everything again for the next client, because a client has changed it.
    pub fn forget(&self) {
        self.last.lock().shown = None;
    }

    /// Counts the ends also without a client: the rate must cover the last minute, not the time since the last request.
    pub fn count(&self) {
        self.last.lock().rate(self.observer.ended());
    }

    /// Passes on the providers that the present settings select; `None` if they are unknown.
    pub fn look_at_providers<T>(&self, look: impl FnOnce(&ProviderPlan) -> T) -> Option<T> {
        let mut manager = self.manager.as_ref()?.lock();
        if let Err(error) = manager.refresh() {
            log::debug!("the settings cannot be used: {error}");
        }
        Some(look(manager.plan()))
    }

    /// With the ends per second.
    fn look(&self, rate: f64) -> Result<Value, Error> {
        let totals = self.queue.totals()?;
        let (used, slots) = self.observer.slots();
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
        let jobs = &totals.jobs;
        let left = (jobs.pending + jobs.in_progress + jobs.at_provider) as f64;
        let eta = (left > 0.0 && rate > 0.0).then(|| (left / rate).ceil());
        Ok(json!({
            "now": time::text(now()),
            "jobs": {
                "pending": jobs.pending,
                "in_progress": jobs.in_progress,
                "at_provider": jobs.at_provider,
                "completed": jobs.completed,
                "failed": jobs.failed,
                "cancelled": jobs.cancelled,
            },
            "eta_seconds": eta,
            "paused": self.queue.is_paused()?,
            "waiting_by_priority": self.queue.waiting_by_priority()?,
            "processes": totals.processes,
            "processes_open": totals.open,
            "batches_open": self.queue.batches(None)?.len(),
            "worker": {
                "slots": slots,
                "used": used,
                "limited_by": self.observer.limited_by(),
                "trouble": self.observer.trouble(),
                "calls_in_flight": self.limits.calls_in_flight(),
                "rate": rate,
            },
            "provider": provider,
            "strategy": strategy,
            "skipped_providers": skipped,
        }))
    }
}

/// When an overview expires whose reading started at `began` and ended at `read`.
pub(crate) fn fresh_until(began: Instant, read: Instant) -> Instant {
    read + FRESH.max((read - began) * FRESH_TIMES)
}

impl Last {
    /// Ends per second in the last minute.
    fn rate(&mut self, ended: u64) -> f64 {
        let now = Instant::now();
        while self.ended.len() > 1 && now - self.ended[1].0 >= WINDOW {
            self.ended.pop_front();
        }
        self.ended.push_back((now, ended));
        let (since, before) = self.ended[0];
        let seconds = (now - since).as_secs_f64();
        if seconds > 0.0 {
            (ended - before) as f64 / seconds
        } else {
            0.0
        }
    }
}

fn strategy(effective: &EffectiveStrategy) -> Value {
    json!({
        "asked": effective.asked,
        "effective": effective.strategy,
        "fallback_reason": effective.fallback_reason,
    })
}
