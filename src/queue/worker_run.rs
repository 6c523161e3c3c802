//! The run of a worker: it registers with its store, works, and unregisters in every case.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use parking_lot::Mutex;

use crate::base::random::Random;
use crate::base::thread::spawn_scoped;
use crate::base::{Clock, Context, Error, ErrorKind, Time};
use crate::engine::dispatch::{Dispatcher, Options, StopReason};
use crate::engine::run::{Finish, Observer, RunSetup, run};
use crate::engine::work::Work;

use super::backlog::StoreBacklog;
use super::batch::{BatchContext, Poller, PollerOptions, Spool, Transfers, is_cut_off};
use super::controls::{Controls, FixedOptions, MOST_SLOTS};
use super::kind::JobTicket;
use super::maintenance;
use super::progress_reporter::{ProgressReporter, Snapshot};
use super::store::{Store, WorkSignal, WorkerId};
use super::work::{self, StoreWork, WorkerReport};

/// Interval of checks for changed settings.
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);
/// Number of attempts to record remaining ends when the worker stops.
const LAST_TRIES: usize = 5;
const BETWEEN_TRIES: Duration = Duration::from_millis(300);
/// Between two attempts to register while the queue cannot be written.
const BETWEEN_REGISTRATIONS: Duration = Duration::from_secs(1);

/// A worker that is registered, or will be.
pub(crate) struct WorkerRun {
    /// Ends with it; `None` if the queue cannot be written yet.
    registration: Option<Registration>,
    pub controls: Arc<Controls>,
    woken: Receiver<()>,
    plan: FixedOptions,
}

impl WorkerRun {
    pub(crate) fn new(
        registration: Option<Registration>,
        controls: Arc<Controls>,
        woken: Receiver<()>,
        plan: FixedOptions,
    ) -> Self {
        let store = &controls.store;
        if store.is_shared() {
            // No limited call starts before the others know of this worker.
            let now = controls.clock.now();
            // Until the others list what they use, all of them count.
            let live = store.workers().map_or(1, |workers| workers.live.len());
            let limiter = &controls.kinds.limiter;
            limiter.divide(&[], &vec![&[][..]; live], now);
        }
        Self {
            registration,
            controls,
            woken,
            plan,
        }
    }

    /// The registration, once the queue can be written; `None` if the worker was stopped before.
    fn registered(&mut self) -> Result<Option<Registration>, Error> {
        let (controls, ctx) = (&self.controls, &self.plan.ctx);
        let cancelled = ctx.cancel_signal();
        while self.registration.is_none() && !ctx.is_cancelled() {
            cancelled.wait(BETWEEN_REGISTRATIONS);
            match Registration::new(controls.store.clone(), controls.clock.clone()) {
                Ok(registration) => self.registration = Some(registration),
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.registration.take())
    }

    /// Works until no job is left, or the worker is stopped.
    pub(crate) fn run(mut self) -> Result<WorkerReport, Error> {
        let Some(registration) = self.registered()? else {
            return Ok(WorkerReport {
                stop: Some(StopReason::Cancelled),
                ..WorkerReport::default()
            });
        };
        self.controls.register(registration.worker);
        let follower = self.plan.follower.take();
        let caller = self.plan.ctx.clone();
        self.plan.ctx = caller.child();
        let (controls, ctx) = (&self.controls, &self.plan.ctx);
        let store = &controls.store;
        let deadline = self.plan.scope.deadline;
        let is_overdue = || deadline.is_some_and(|at| at <= controls.clock.wall());
        if is_overdue() {
            ctx.cancel();
        }
        // Jobs that wait longer were written while the clock was ahead. Those of this worker may wait longer.
        let longest = controls.kinds.setup.now().settings.retry.longest_wait();
        if let Err(error) = store.make_due(longest, controls.clock.wall()) {
            log::warn!("cannot set due times right: {error}");
        }
        let wakes = controls.clone();
        let wake: Arc<WorkSignal> = Arc::new(move || wakes.wake());
        store.on_work(Arc::downgrade(&wake));
        let (stop_on_drop, stop) = bounded::<()>(0);
        let read = (controls.clock.now(), controls.clock.wall());
        thread::scope(|scope| {
            let upkeep = || {
                let each_tick = || {
                    if is_overdue() {
                        ctx.cancel();
                    }
                };
                maintenance::maintain(controls, read, &each_tick, &stop);
            };
            spawn_scoped(scope, "batchwright-upkeep", upkeep)?;
            if let Some(mut follower) = follower {
                let stop = stop.clone();
                let follow = move || {
                    while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(BETWEEN_LOOKS) {
                        follower(controls);
                    }
                };
                spawn_scoped(scope, "batchwright-settings", follow)?;
            }
            let _stop_on_drop = stop_on_drop;
            let mut report = self.run_with_poller()?;
            if is_overdue()
                && !caller.is_cancelled()
                && matches!(report.stop, Some(StopReason::Cancelled))
            {
                report.stop = Some(StopReason::DeadlineExceeded);
            }
            Ok(report)
        })
    }

    /// Works while another thread polls the batches.
    fn run_with_poller(&self) -> Result<WorkerReport, Error> {
        let (controls, plan) = (&self.controls, &self.plan);
        let clock = controls.clock.clone();
        let seed = clock.now().as_nanos() ^ u64::from(std::process::id()).rotate_left(16);
        let context = Arc::new(BatchContext {
            store: controls.store.clone(),
            worker: controls.worker(),
            spool: Spool::new(controls.store.folder()),
            kinds: controls.kinds.clone(),
            clock,
            jitter: Mutex::new(Random(seed)),
            refused: Mutex::default(),
            overview: controls.batch_overview.clone(),
            observer: plan.observer.clone(),
        });
        let not_scanned = &controls.batch_overview.not_scanned;
        not_scanned.store(true, Ordering::SeqCst);
        // The poller itself writes, so its writes must not wake it.
        let wake = || controls.nudge();
        let (polling, stop) = bounded::<()>(0);
        let report = thread::scope(|scope| {
            let begin = PollerOptions {
                transfers: Transfers::start(scope, &context, &plan.ctx)?,
                context,
                control: &controls.batch_control,
                ctx: &plan.ctx,
                scope: plan.scope.clone(),
                on_error: plan.on_error,
                wake: &wake,
            };
            let poller = Poller::new(begin);
            let _polling = polling;
            spawn_scoped(scope, "batchwright-batches", move || poller.run(&stop))?;
            self.run_jobs()
        })?;
        Ok(self.stopped_by_budget(self.with_batches(report)))
    }

    /// The state of the batches is final once their thread has ended.
    fn with_batches(&self, mut report: WorkerReport) -> WorkerReport {
        let batch_overview = &self.controls.batch_overview;
        let tally = *batch_overview.tally.lock();
        report.completed += tally.completed;
        report.failed += tally.failed;
        report.possibly_paid_twice += tally.possibly_paid_twice;
        report.batches = tally.created;
        let counts = *batch_overview.counts.lock();
        report.batches_open = counts.running;
        report.batches_held = counts.held;
        report.batches_uncollected = counts.put_off;
        if report.stop.is_none() {
            let critical = batch_overview.critical.lock().clone();
            let critical = critical.or_else(|| batch_overview.halted.lock().clone());
            report.stop = critical.map(|error| {
                if is_cut_off(&error) {
                    StopReason::Unreachable(error)
                } else {
                    StopReason::Critical(error)
                }
            });
        }
        report
    }

    /// If the budget of what is left is used up, the worker did not end because no job is left.
    fn stopped_by_budget(&self, mut report: WorkerReport) -> WorkerReport {
        let scope = &self.plan.scope;
        if report.stop.is_some() || !(scope.until_empty || scope.until_submitted) {
            return report;
        }
        let closed = self.controls.store.closed_processes();
        let failed = |error| log::warn!("cannot read the budgets of processes: {error}");
        let mut closed = closed.map_err(failed).into_iter().flatten();
        let only = &scope.processes;
        let ours = closed.find(|(id, _)| only.is_empty() || only.contains(id));
        report.stop = ours.map(|(id, budget)| {
            let why = budget.why().unwrap_or_default();
            let why = match only[..] {
                [_] => why,
                _ => format!("process {id}: {why}"),
            };
            StopReason::BudgetExceeded(Error::new(ErrorKind::BudgetExceeded, why))
        });
        report
    }

    fn run_jobs(&self) -> Result<WorkerReport, Error> {
        let (controls, plan) = (&self.controls, &self.plan);
        let clock = &*controls.clock;
        let backlog = StoreBacklog::new(controls.clone(), plan.scope.clone());
        let now = clock.now();
        let options = Options {
            concurrency: controls.permits.load(Ordering::SeqCst),
            retry: controls.kinds.setup.now().settings.retry,
            on_error: plan.on_error,
            deadline: plan.ctx.remaining().map(|left| now.after(left)),
            jitter: Random(now.as_nanos() ^ u64::from(std::process::id()).rotate_left(32)),
            durable: true,
            multi_tenant: plan.multi_tenant,
            no_shared_fate: false,
        };
        let limiter = controls.kinds.limiter.clone();
        let dispatcher = Dispatcher::new(
            StoreWork::new(backlog, plan.observer.clone()),
            limiter,
            options,
        );
        let mut reporter = ProgressReporter::new(controls.clone(), plan.notifier.clone());
        let look =
            |dispatcher: &mut Dispatcher<StoreWork>, now| snapshot(dispatcher, controls, now);
        let mut show = |snapshot: Snapshot| {
            if let Some(observer) = &plan.observer {
                observer.on_slots(snapshot.slots.0, snapshot.slots.1);
            }
            reporter.report(snapshot);
            if let Some((observer, limit)) = plan.observer.as_ref().zip(reporter.limited_by()) {
                observer.on_limit(limit);
            }
        };
        let setup = RunSetup {
            ctx: &plan.ctx,
            clock,
            most_threads: MOST_SLOTS,
            permits: Some(&controls.permits),
            waker: controls.waker.clone(),
            woken: self.woken.clone(),
            every_call: plan
                .notifier
                .as_deref()
                .is_some_and(|them| them.every_item()),
        };
        let runner = |ticket: &JobTicket, ctx: &Context| work::call(controls, ticket, ctx);
        let mut observer = Observer {
            look: &|d: &mut Dispatcher<StoreWork>, now: Time| {
                d.set_retry(controls.kinds.setup.now().settings.retry);
                controls.availability.lock().clone_from(&d.availability);
                look(d, now)
            },
            show: &mut show,
        };
        let finish = run::<_, _, (), _>(dispatcher, &runner, setup, None, &mut observer)?;
        Ok(self.end(finish, &look, &mut show))
    }

    /// Records ends that could not be recorded before. Prefetched jobs return to the queue when the worker unregisters.
    fn end(
        &self,
        finish: Finish<StoreWork>,
        look: &dyn Fn(&mut Dispatcher<StoreWork>, Time) -> Snapshot,
        show: &mut dyn FnMut(Snapshot),
    ) -> WorkerReport {
        let Finish {
            mut dispatcher,
            mut lost,
        } = finish;
        let clock = &self.controls.clock;
        for _ in 0..LAST_TRIES {
            match dispatcher.work.settle(&mut lost, clock.now()) {
                Ok(()) => break,
                Err(error) => {
                    log::warn!("cannot record the last results: {error}");
                    thread::sleep(BETWEEN_TRIES);
                }
            }
        }
        show(look(&mut dispatcher, clock.now()));
        let counters = dispatcher.counters;
        let tally = std::mem::take(&mut dispatcher.work.tally);
        WorkerReport {
            calls: counters.calls,
            retries: counters.retries,
            rate_limited: counters.rate_limited,
            possibly_paid_twice: counters.possibly_paid_twice,
            stop: dispatcher.stop_reason().cloned(),
            unsaved: dispatcher.work.unsaved(&lost, clock.now()),
            ..tally
        }
    }
}

fn snapshot(dispatcher: &mut Dispatcher<StoreWork>, controls: &Controls, now: Time) -> Snapshot {
    let limited_by = dispatcher.lately.limited_by(now);
    let in_flight = dispatcher.counters.in_flight;
    let permits = controls.permits.load(Ordering::SeqCst);
    let all_busy = &controls.all_busy;
    all_busy.store(in_flight >= permits, Ordering::SeqCst);
    let work = &dispatcher.work;
    let stuck = dispatcher.settle_error();
    let stuck = stuck.or(work.backlog.trouble.as_ref());
    let trouble = stuck
        .or(dispatcher.availability.reasons().next())
        .or(dispatcher.last_failure());
    let trouble_text = trouble
        .map(|error| error.message().to_owned())
        .or_else(|| controls.batch_overview.trouble.lock().clone())
        .or_else(|| work.backlog.unknown());
    let changed = work
        .changed
        .lock()
        .drain()
        .map(|(_, state)| state)
        .collect();
    Snapshot {
        changed,
        stuck: stuck.map(|error| error.message().to_owned()),
        trouble_kind: trouble.map(Error::kind),
        trouble: trouble_text,
        loading: dispatcher
            .availability
            .loading_since()
            .map(|since| now.since(since)),
        limited_by,
        slots: (in_flight, permits),
        stopping: dispatcher.stop_reason().is_some(),
    }
}

// A registered worker of a store.

/// Unregisters the worker when dropped, also after a panic. Otherwise its jobs and batches would stay its own until its
/// OS process ends.
pub(crate) struct Registration {
    pub store: Arc<Store>,
    pub clock: Arc<dyn Clock>,
    pub worker: WorkerId,
}

/// Whether the queue may be writable again later.
pub(crate) fn is_passing(error: &Error) -> bool {
    error.is_storage() && error.kind() == ErrorKind::Transient
}

impl Registration {
    /// Registers a worker. Jobs of crashed workers are taken over first, because they come before newer ones.
    pub(crate) fn new(store: Arc<Store>, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        store.reclaim(clock.wall())?;
        let worker = store.register_worker()?;
        Ok(Self {
            store,
            clock,
            worker,
        })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Err(error) = self.store.unregister_worker(self.worker, self.clock.wall()) {
            log::warn!("the worker's jobs and batches return to the queue later: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::base::ProcessId;
    use crate::base::usage::Usage;
    use crate::llm::client::LlmClient;
    use crate::llm::request::Request;
    use crate::llm::response::Response;
    use crate::llm::route::Route;
    use crate::queue::handler::{Handler, RunningJob};
    use crate::queue::host::JobQueue;
    use crate::queue::job::Job;
    use crate::queue::kinds::WorkerSettings;
    use crate::queue::store::sqlite::SqliteOptions;
    use crate::queue::worker::Worker;

    /// Answers once; from then on the store rejects all writes.
    struct Last(Arc<Store>, Context);

    impl LlmClient for Last {
        fn complete(&self, request: &Request, _: &Context) -> Result<Response, Error> {
            let full = || Some(Error::new(ErrorKind::Transient, "the disk is full"));
            *self.0.faults.unwritable.lock() = Some(Box::new(full));
            self.1.cancel();
            let error = Error::new(ErrorKind::Malformed, "no answer");
            let usage = Usage {
                input_tokens: 10,
                ..Usage::default()
            };
            Err(match &*request.messages[0].text() {
                "unusable" => error.with_unusable_reply("<tool call>"),
                "paid" => error.with_usage(usage),
                _ => Error::new(ErrorKind::Invalid, "never").with_status(400),
            })
        }
    }

    #[test]
    fn a_worker_does_not_begin_while_its_queue_cannot_be_written() {
        let store = Arc::new(Store::in_memory(SqliteOptions::default()).unwrap());
        let full = || Some(Error::new(ErrorKind::Transient, "full").with_storage());
        *store.faults.unwritable.lock() = Some(Box::new(full));
        let worker = || Worker::new(&JobQueue::on(store.clone())).until_empty(true);
        let refused = worker().run().err();
        assert!(refused.is_some_and(|error| error.is_storage()));
        let stopped = worker().start().unwrap().stop().unwrap();
        assert!(matches!(stopped.stop, Some(StopReason::Cancelled)));
        let waits = worker().start().unwrap();
        assert!(!waits.is_finished());
        *store.faults.unwritable.lock() = None;
        assert!(waits.join().unwrap().stop.is_none());
    }

    #[test]
    fn a_worker_ends_at_its_deadline_while_its_queue_cannot_be_written() {
        let store = Arc::new(Store::in_memory(SqliteOptions::default()).unwrap());
        let queue = JobQueue::on(store.clone());
        let job = Job::new("count", &1).unwrap();
        queue.enqueue(ProcessId::new(), [job]).unwrap();
        let count = Handler::new(move |_: &RunningJob, _: &Context| {
            let full = || Some(Error::new(ErrorKind::Transient, "full").with_storage());
            *store.faults.unwritable.lock() = Some(Box::new(full));
            Ok(1)
        });
        let ctx = Context::new().with_timeout(Duration::from_millis(300));
        let worker = Worker::new(&queue).context(&ctx).handle("count", count);
        let report = worker.run().unwrap();
        assert!(matches!(report.stop, Some(StopReason::DeadlineExceeded)));
        assert_eq!(report.unsaved.len(), 1);
    }

    #[test]
    fn failures_that_were_paid_for_are_handed_out_when_they_cannot_be_recorded() {
        for (prompt, raw) in [
            ("unusable", Some("<tool call>")),
            ("paid", None),
            ("refused", None),
        ] {
            let store = Arc::new(Store::in_memory(SqliteOptions::default()).unwrap());
            let queue = JobQueue::on(store.clone());
            let job = Job::from(Request::new(prompt).with_id("a"));
            queue.enqueue(ProcessId::new(), [job]).unwrap();
            let ctx = Context::new().with_grace(Duration::from_millis(500));
            let worker = Worker::new(&queue)
                .completions(Route::new(Last(store, ctx.clone())))
                .context(&ctx)
                .settings(WorkerSettings::default().max_retries(0))
                .until_empty(true);
            let unsaved = worker.run().unwrap().unsaved;
            if prompt == "refused" {
                assert!(unsaved.is_empty(), "{unsaved:?}");
                continue;
            }
            assert_eq!(unsaved.len(), 1, "{prompt}: {unsaved:?}");
            let line: Value = serde_json::from_str(&unsaved[0]).unwrap();
            assert_eq!(line["id"], "a");
            assert_eq!(line["success"], false);
            assert_eq!(line["error"]["raw"].as_str(), raw, "{line}");
        }
    }
}
