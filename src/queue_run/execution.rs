//! A run under way: hands over what is new, has it worked on, and takes what has ended into the output.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};

use crate::base::thread::spawn;
use crate::base::{Context, Error, ErrorKind, JobId, ProcessId, WarnOnce};
use crate::bulk::checkpoint::Checkpoint;
use crate::engine::dispatch::{ErrorPolicy, StopReason};
use crate::money::budget::Budget;
use crate::observe::progress::ProgressNotifier;
use crate::queue::controls::Controls;
use crate::queue::host::JobQueue;
use crate::queue::job::ProcessState;
use crate::queue::worker::Worker;
use crate::queue::worker_run::WorkerReport;

use super::attach::{self, Attached};
use super::deadline_control::DeadlineControl;
use super::pilot::{Pilots, Rule};
use super::record::Record;
use super::trouble::{Trouble, waiting};
use super::watch::Watch;

/// How often it is looked for results that another worker has brought, and for what it left.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// The same with a deadline.
const STEER_INTERVAL: Duration = Duration::from_millis(200);

/// What a run has submitted, and what waits.
#[derive(Default)]
pub(super) struct Portions {
    pub pilots: Pilots,
    /// Items that were submitted.
    pub submitted: u64,
    /// Items that wait for a later portion.
    pub waiting: u64,
    /// The same, for the progress.
    pub unsubmitted: Arc<AtomicU64>,
    /// A portion of at most this many items is due. It remains due if the store has a temporary problem.
    pub due: Option<usize>,
    /// An attempt to submit has not ended yet: how many jobs and how many items to submit there were at its beginning.
    pub attempt: Option<(u64, usize)>,
    /// The process was cancelled or deleted while items waited. They are not submitted.
    pub was_cancelled: bool,
}

impl Portions {
    pub fn wait_for(&mut self, items: u64) {
        self.waiting = items;
        self.unsubmitted.store(items, Ordering::Relaxed);
    }
}

/// A run under way.
pub(super) struct Execution {
    pub checkpoint: Checkpoint,
    pub queue: JobQueue,
    pub record: Record,
    pub process: ProcessId,
    pub ctx: Context,
    pub notifier: Option<Arc<dyn ProgressNotifier>>,
    pub until_submitted: bool,
    pub on_error: ErrorPolicy,
    /// What the process may cost.
    pub budget: Option<Budget>,
    /// Which beginnings of prompts are cached.
    pub caching: Option<Rule>,
    pub portions: Portions,
    pub attached: u64,
    /// Jobs that were under way at the beginning although the input does not ask for them.
    pub unwanted: Vec<JobId>,
    /// Keeps the run to its deadline, if it has one.
    pub control: Option<DeadlineControl>,
    /// The plan has changed and could not be stored yet.
    pub unsaved_plan: bool,
    pub sum: WorkerReport,
}

/// Makes the workers of a run.
pub(super) type MakeWorker<'h> = dyn FnMut() -> Result<Worker, Error> + 'h;

impl Execution {
    pub(super) fn carry_out(&mut self, make_worker: &mut MakeWorker<'_>) -> Result<(), StopReason> {
        self.limit()?;
        // First what has ended: it may be all, and a process that was cancelled takes no more.
        self.collect_all()?;
        let before = self
            .queue
            .process(self.process)
            .map_err(StopReason::Fatal)?;
        if before.is_some_and(|process| process.cancelled) {
            self.work(make_worker)?;
        }
        let mut attached = self.attach(true).map_err(StopReason::Fatal)?;
        if !attached.unwanted.is_empty() {
            // What is in a batch of which nothing was sent need not be bought.
            let dissolved = self.queue.dissolve_unsent(self.process);
            dissolved.map_err(StopReason::Fatal)?;
            attached = self.attach(true).map_err(StopReason::Fatal)?;
        }
        (self.attached, self.unwanted) = (attached.items, attached.unwanted);
        self.begin(make_worker)?;
        let portions = &self.portions;
        let expected = self.attached + portions.submitted + portions.waiting;
        self.checkpoint.will_take(expected);
        self.work(make_worker)
    }

    /// Stores the plan if it has changed.
    pub(super) fn save_plan(&mut self) -> Result<(), Error> {
        if !self.unsaved_plan {
            return Ok(());
        }
        match &self.control {
            Some(control) => {
                let (paces, course) = (control.paces(), control.course());
                self.record
                    .planned(Some(control.plan()), paces, Some(course))?;
            }
            None => self.record.planned(None, [None; 2], None)?,
        }
        self.unsaved_plan = false;
        Ok(())
    }

    /// Has it decided how to go on to meet the deadline.
    fn steer(&mut self, controls: &Controls) -> Result<(), Trouble> {
        let Some(control) = &mut self.control else {
            return Ok(());
        };
        let Some(found) = self.queue.process(self.process)? else {
            return Ok(());
        };
        self.unsaved_plan |= control.steer(&found.counts, controls);
        let stuck = control.is_stuck(&found.counts, controls);
        self.save_plan()?;
        match stuck {
            None => Ok(()),
            Some(why) => {
                let error = Error::new(ErrorKind::Transient, why);
                Err(Trouble::Lasting(StopReason::Fatal(error)))
            }
        }
    }

    /// Gives the process of an earlier run its new limit.
    fn limit(&self) -> Result<(), StopReason> {
        let Some(budget) = &self.budget else {
            return Ok(());
        };
        let known = self.queue.process(self.process);
        let Some(process) = known.map_err(StopReason::Fatal)? else {
            return Ok(());
        };
        if process.budget.is_none() {
            let why = "an earlier run of this output without a budget is under way: finish it without one";
            return Err(StopReason::Misuse(why.to_owned()));
        }
        let set = self.queue.set_budget(self.process, budget.limit());
        set.map_err(|error| StopReason::Misuse(error.message().to_owned()))?;
        self.note_spent().map_err(StopReason::Fatal)
    }

    /// Takes over what the process has spent, before it is gone with its last result.
    pub(super) fn note_spent(&self) -> Result<(), Error> {
        let Some(budget) = &self.budget else {
            return Ok(());
        };
        self.queue.note_spent(self.process, budget, None)
    }

    /// Compares the input with the queue. With `cancel`, waiting jobs that the input does not ask for are cancelled.
    pub(super) fn attach(&mut self, cancel: bool) -> Result<Attached, Error> {
        let items = self.checkpoint.by_id();
        let attached = attach::compare(&self.queue, self.process, items, cancel)?;
        self.portions.pilots.lost(|item| !items.is_held(item));
        Ok(attached)
    }

    /// Works and collects until nothing is left of the process, or nothing but what cannot be helped.
    fn work(&mut self, make_worker: &mut MakeWorker<'_>) -> Result<(), StopReason> {
        let mut stuck = None;
        if self
            .queue
            .process(self.process)
            .map_err(StopReason::Fatal)?
            .is_none()
        {
            return if self.portions.waiting == 0 {
                Ok(())
            } else {
                Err(StopReason::Cancelled)
            };
        }
        loop {
            let stop = self.employ(make_worker)?;
            self.note_spent().map_err(StopReason::Fatal)?;
            if stop.is_none() && self.portions.waiting > 0 {
                self.advance_alone()?;
                continue;
            }
            self.collect_all()?;
            let found = self.queue.process(self.process);
            if let Some(stop) = stop {
                return Err(stop);
            }
            let process = found.map_err(StopReason::Fatal)?;
            if self.portions.was_cancelled {
                return Err(StopReason::Cancelled);
            }
            let Some(process) = process else {
                return Ok(());
            };
            if self.until_submitted {
                return Ok(());
            }
            let now = self.stuck(&process).map_err(StopReason::Fatal)?;
            // Whoever attended a batch may just have died: then the next worker has it.
            if now.is_some() && now == stuck {
                return Err(StopReason::Fatal(Error::new(
                    ErrorKind::Transient,
                    "the rest is in batches that cannot be collected now",
                )));
            }
            stuck = now;
            self.pause()?;
        }
    }

    /// The batches that nobody attends, if nothing else is left.
    fn stuck(&self, process: &ProcessState) -> Result<Option<Vec<String>>, Error> {
        let counts = &process.counts;
        if counts.pending > 0 || counts.in_progress > 0 {
            return Ok(None);
        }
        let batches = self.queue.batches(Some(self.process))?;
        let others = batches.iter().any(|batch| batch.attended);
        let labels = batches.into_iter().map(|batch| batch.label);
        Ok((!others).then(|| labels.collect()))
    }

    /// Others have the rest in hand.
    pub(super) fn pause(&self) -> Result<(), StopReason> {
        self.ctx.cancel_signal().wait(STATUS_INTERVAL);
        if !self.ctx.is_cancelled() {
            Ok(())
        } else {
            Err(StopReason::Cancelled)
        }
    }

    /// Runs a worker to its end, and saves meanwhile what comes back. Returns why it stopped.
    fn employ(
        &mut self,
        make_worker: &mut MakeWorker<'_>,
    ) -> Result<Option<StopReason>, StopReason> {
        let ctx = self.ctx.child();
        let (wake, woken) = bounded(1);
        let found = self.queue.process(self.process);
        let counts = found.map_err(StopReason::Fatal)?.map(|now| now.counts);
        let watch = self.watch(counts.map_or(0, |counts| counts.failed), wake);
        let mut worker = make_worker().map_err(StopReason::Fatal)?;
        if let Some(control) = &mut self.control {
            let all = counts.filter(|_| self.portions.waiting == 0);
            worker = control.employs(worker, all.as_ref());
            self.unsaved_plan = true;
        }
        match self.save_plan() {
            Err(error) if error.kind() != ErrorKind::Transient => {
                return Err(StopReason::Fatal(error));
            }
            _ => {}
        }
        let worker = worker
            .processes([self.process])
            .until_empty(!self.until_submitted)
            .until_submitted(self.until_submitted)
            .multi_tenant(self.on_error != ErrorPolicy::StopOnCriticalError)
            .context(&ctx)
            .notifier(Arc::new(watch));
        let (done, ended) = bounded(1);
        let (worker, controls) = worker.register().map_err(StopReason::Fatal)?;
        let worker = spawn("batchwright-worker", move || {
            let _ = done.send(worker.run());
        });
        let worker = worker.map_err(StopReason::Fatal)?;
        let (report, stop) = self.attend(&controls, &ctx, &ended, &woken);
        let _ = worker.join();
        let panicked = || Error::new(ErrorKind::Panic, "the worker panicked");
        let report = report.unwrap_or_else(|| Err(panicked()));
        let report = report.map_err(StopReason::Fatal)?;
        add(&mut self.sum, &report);
        Ok(stop.or(report.stop))
    }

    /// Submits, decides and collects while a worker runs. Returns its report, and why it was stopped.
    fn attend(
        &mut self,
        controls: &Controls,
        ctx: &Context,
        ended: &Receiver<Result<WorkerReport, Error>>,
        woken: &Receiver<()>,
    ) -> (Option<Result<WorkerReport, Error>>, Option<StopReason>) {
        let interval = match self.control {
            Some(_) => STEER_INTERVAL,
            None => STATUS_INTERVAL,
        };
        let mut stop = None;
        let mut trouble = WarnOnce::default();
        loop {
            select! {
                recv(ended) -> report => return (report.ok(), stop),
                recv(woken) -> _ => {}
                default(interval) => {}
            }
            // A step that fails does not keep the others from what they save.
            let steps = [
                self.advance(Some(controls)),
                self.steer(controls),
                self.release(),
                self.collect(true),
            ];
            if steps.iter().all(Result::is_ok) {
                trouble.clear();
            }
            for failed in steps.into_iter().filter_map(Result::err) {
                match failed {
                    Trouble::Passing(error) => trouble.warn(waiting(&error)),
                    Trouble::Lasting(reason) => {
                        stop = stop.or(Some(reason));
                        ctx.cancel();
                    }
                }
            }
        }
    }

    /// Passes the progress of the process on.
    fn watch(&self, failed: u64, wake: Sender<()>) -> Watch {
        let (plan, portions) = (self.checkpoint.plan(), &self.portions);
        let all = plan.done + self.attached + portions.submitted + portions.waiting;
        Watch {
            process: self.process,
            goal: plan.total.unwrap_or(0).min(all),
            unsubmitted: portions.unsubmitted.clone(),
            failed,
            notifier: self.notifier.clone(),
            wake,
        }
    }
}

fn add(sum: &mut WorkerReport, report: &WorkerReport) {
    sum.calls += report.calls;
    sum.batches += report.batches;
    sum.retries += report.retries;
    sum.rate_limited += report.rate_limited;
    sum.possibly_paid_twice += report.possibly_paid_twice;
    sum.unsaved.extend_from_slice(&report.unsaved);
}
