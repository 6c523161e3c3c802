//! The overview of the server: the states of all jobs, the worker, and the history of the last hour.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use batchwright::plan::{EffectiveStrategy, ProviderPlan};
use batchwright::progress::Timestamp;
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
/// The duration of one point of the history,
const POINT: Duration = Duration::from_secs(10);
/// and the number of stored points.
const POINTS: usize = 360;
/// The rate is measured over this time,
const WINDOW: Duration = Duration::from_secs(10);
/// and the rate for the time left over this one.
const LONG_WINDOW: Duration = Duration::from_secs(60);

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
    history: VecDeque<Point>,
    /// Ends and failures at the last point.
    counted: (Instant, u64, u64),
    /// Ends as they were in the last minute.
    ended: VecDeque<(Instant, u64)>,
}

struct Point {
    at: Timestamp,
    ended_per_second: f64,
    failed_per_second: f64,
    waiting: u64,
}

impl Overview {
    pub fn new(
        queue: JobQueue,
        observer: Arc<Observer>,
        limits: WorkerLimits,
        manager: Option<LlmManager>,
    ) -> Self {
        let (began, (ended, failed)) = (Instant::now(), observer.ended());
        Self {
            queue,
            observer,
            limits,
            manager: manager.map(Mutex::new),
            last: Mutex::new(Last {
                shown: None,
                history: VecDeque::new(),
                counted: (began, ended, failed),
                ended: VecDeque::from([(began, ended)]),
            }),
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

    /// All but the history.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn now(&self) -> Result<Arc<Value>, Error> {
        let mut last = self.last.lock();
        if let Some((until, shown)) = &last.shown
            && Instant::now() < *until
        {
            return Ok(Arc::clone(shown));
        }
        let rates = last.rates(self.observer.ended().0);
        let began = Instant::now();
        let shown = Arc::new(self.look(rates)?);
        last.shown = Some((fresh_until(began, Instant::now()), Arc::clone(&shown)));
        Ok(shown)
    }

    /// Reads everything again for the next client, because a client has changed it.
    pub fn forget(&self) {
        self.last.lock().shown = None;
    }

    /// With the history.
    ///
    /// # Errors
    /// As [`now`](Self::now).
    pub fn whole(&self) -> Result<Value, Error> {
        let mut whole = Value::clone(&*self.now()?);
        let last = self.last.lock();
        let history = last.history.iter().map(|point| {
            json!({
                "at": time::text(point.at),
                "ended_per_second": point.ended_per_second,
                "failed_per_second": point.failed_per_second,
                "waiting": point.waiting,
            })
        });
        whole["history"] = history.collect();
        Ok(whole)
    }

    /// Adds a point to the history when it is time.
    ///
    /// # Errors
    /// As [`now`](Self::now).
    pub fn keep_history(&self) -> Result<(), Error> {
        let mut last = self.last.lock();
        // Also without a client: the rate must cover the last seconds, not the time since the last request.
        last.rates(self.observer.ended().0);
        let (since, ended, failed) = last.counted;
        let seconds = since.elapsed().as_secs_f64();
        if since.elapsed() < POINT {
            return Ok(());
        }
        let waiting = self.queue.waiting_by_priority()?;
        let (ended_now, failed_now) = self.observer.ended();
        last.counted = (Instant::now(), ended_now, failed_now);
        last.history.push_back(Point {
            at: now(),
            ended_per_second: (ended_now - ended) as f64 / seconds,
            failed_per_second: (failed_now - failed) as f64 / seconds,
            waiting: waiting.iter().map(|(_, jobs)| jobs).sum(),
        });
        if last.history.len() > POINTS {
            last.history.pop_front();
        }
        Ok(())
    }

    /// Passes on the providers that the present settings select; `None` if they are unknown.
    pub fn look_at_providers<T>(&self, look: impl FnOnce(&ProviderPlan) -> T) -> Option<T> {
        let mut manager = self.manager.as_ref()?.lock();
        if let Err(error) = manager.refresh() {
            log::debug!("the settings cannot be used: {error}");
        }
        Some(look(manager.plan()))
    }

    /// With the ends per second in the last seconds, and in the last minute.
    fn look(&self, (rate, long_rate): (f64, f64)) -> Result<Value, Error> {
        let totals = self.queue.totals()?;
        let (used, slots) = self.observer.slots();
        let manager = self.manager.as_ref().map(|manager| {
            let mut manager = manager.lock();
            if let Err(error) = manager.refresh() {
                log::debug!("the settings cannot be used: {error}");
            }
            let plan = manager.plan();
            let provider = &plan.first;
            (
                json!({
                    "name": provider.provider,
                    "model": provider.model,
                    "local": provider.provider == "local",
                }),
                strategy(&plan.strategy()),
                plan.for_job_types()
                    .map_or_else(|_| Vec::new(), |plan| plan.skipped),
            )
        });
        let (provider, strategy, skipped) = match manager {
            Some((provider, strategy, skipped)) => (Some(provider), Some(strategy), skipped),
            None => (None, None, Vec::new()),
        };
        let failures = self.observer.failures().into_iter();
        let failures = failures.map(
            |(kind, message, count)| json!({"kind": kind, "message": message, "count": count}),
        );
        let jobs = &totals.jobs;
        let left = (jobs.pending + jobs.in_progress + jobs.at_provider) as f64;
        let eta = (left > 0.0 && long_rate > 0.0).then(|| (left / long_rate).ceil());
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
            "failures": failures.collect::<Value>(),
        }))
    }
}

/// When an overview expires whose reading started at `began` and ended at `read`.
pub(crate) fn fresh_until(began: Instant, read: Instant) -> Instant {
    read + FRESH.max((read - began) * FRESH_TIMES)
}

impl Last {
    /// Ends per second, in the last seconds and in the last minute.
    fn rates(&mut self, ended: u64) -> (f64, f64) {
        let now = Instant::now();
        while self.ended.len() > 1 && now - self.ended[1].0 >= LONG_WINDOW {
            self.ended.pop_front();
        }
        self.ended.push_back((now, ended));
        let since = |window: Duration| {
            let later = self.ended.iter().take_while(|(at, _)| now - *at >= window);
            let (since, before) = self.ended[later.count().saturating_sub(1)];
            let seconds = (now - since).as_secs_f64();
            if seconds > 0.0 {
                (ended - before) as f64 / seconds
            } else {
                0.0
            }
        };
        (since(WINDOW), since(LONG_WINDOW))
    }
}

fn strategy(effective: &EffectiveStrategy) -> Value {
    json!({
        "asked": effective.asked,
        "effective": effective.strategy,
        "fallback_reason": effective.fallback_reason,
    })
}
