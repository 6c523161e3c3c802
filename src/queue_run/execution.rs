//! A run under way: hands over what is new, has it worked on, and takes what has ended into the output.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, select};

use crate::base::cancel::Context;
use crate::base::clock::{Clock, SystemClock};
use crate::base::error::{Error, ErrorKind};
use crate::base::id::{JobId, ProcessId};
use crate::base::thread::spawn;
use crate::base::warn_once::WarnOnce;
use crate::bulk::checkpoint::{Checkpoint, Line, Submit, Unsaved};
use crate::bulk::run_settings::RunSettings;
use crate::engine::dispatch::{ErrorPolicy, StopReason};
use crate::llm::params::CacheLifetime;
use crate::llm::prompt_cache::PromptPrefix;
use crate::money::budget::Budget;
use crate::observe::progress::{Phase, Progress, ProgressNotifier};
use crate::queue::budget::{BudgetPause, ProcessBudget};
use crate::queue::controls::Controls;
use crate::queue::host::{EnqueueError, JobQueue};
use crate::queue::job::{Job, JobStatus, ProcessState};
use crate::queue::store::DeliveredResult;
use crate::queue::worker::Worker;
use crate::queue::worker_run::WorkerReport;

use super::attach::{self, Attached};
use super::deadline_control::DeadlineControl;
use super::pilot::{Decision, Pilots, Rule};
use super::record::Record;

/// Results that are saved at once.
const CHUNK: usize = 500;
/// How often it is looked for results that another worker has brought, and for what it left.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// The same with a deadline.
const STEER_INTERVAL: Duration = Duration::from_millis(200);

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
    /// The settings of this run.
    pub settings: RunSettings,
    /// Which beginnings of prompts are cached.
    pub caching: Option<Rule>,
    pub pilots: Pilots,
    /// Items that wait for the pilot of their beginning.
    pub waiting: u64,
    /// Whether items may be submitted that waited for a control.
    pub is_free: bool,
    /// Items that will be submitted later, for the progress.
    pub unsubmitted: Arc<AtomicU64>,
    pub submitted: u64,
    pub attached: u64,
    /// Jobs that were under way at the beginning although the input does not ask for them.
    pub unwanted: Vec<JobId>,
    /// Keeps the run to its deadline, if it has one.
    pub control: Option<DeadlineControl>,
    /// The maximum number of items to submit after a trial, if that is set.
    pub owed: Option<Option<usize>>,
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
        let mut attached = self.attach().map_err(StopReason::Fatal)?;
        if !attached.unwanted.is_empty() {
            // What is in a batch of which nothing was sent need not be bought.
            let dissolved = self.queue.dissolve_unsent(self.process);
            dissolved.map_err(StopReason::Fatal)?;
            attached = self.attach().map_err(StopReason::Fatal)?;
        }
        (self.attached, self.unwanted) = (attached.items, attached.unwanted);
        self.record.submits(attached.last, &self.settings);
        let to_send = self.checkpoint.plan().to_send.unwrap_or(0);
        let first = self.begin_trial(to_send, make_worker)?;
        self.choose_pilots();
        self.submit(first)?;
        if self.caching.is_some() {
            let waiting = self.checkpoint.count_unsent();
            self.wait_for(waiting);
        }
        let rest = first.map_or(self.waiting, |_| to_send.saturating_sub(self.submitted));
        self.checkpoint
            .will_take(self.attached + self.submitted + rest);
        self.work(make_worker)
    }

    /// The number of items to submit first, to measure the rate of calls. Of the others, most may go another way.
    fn begin_trial(
        &mut self,
        to_send: u64,
        make_worker: &mut MakeWorker<'_>,
    ) -> Result<Option<usize>, StopReason> {
        let Some(control) = &mut self.control else {
            let planned = self.record.planned(None, [None; 2], None);
            return planned.map(|()| None).map_err(StopReason::Fatal);
        };
        let mut first = None;
        if to_send > 0 && self.attached == 0 {
            let worker = make_worker().map_err(StopReason::Fatal)?;
            drop(control.employs(worker, None));
            first = control.begin_trial(to_send);
        }
        let planned = self.record.planned(
            Some(control.plan()),
            control.paces(),
            Some(control.course()),
        );
        planned.map(|()| first).map_err(StopReason::Fatal)
    }

    /// Submits what a trial has left, or the items of another trial.
    fn end_trial(&mut self, controls: Option<&Controls>) -> Result<(), StopReason> {
        let to_send = self.checkpoint.plan().to_send.unwrap_or(0);
        let rest = to_send.saturating_sub(self.submitted);
        let mut next = None;
        if let Some(control) = &mut self.control {
            next = control.begin_trial(rest);
            if let Some(controls) = controls {
                control.apply(controls);
            }
            self.unsaved_plan = true;
        }
        // A passing error of the store does not lose the rest.
        self.owed = Some(next);
        self.save_plan().map_err(StopReason::Fatal)?;
        self.submit_owed()
    }

    /// Submits what could not be submitted when a trial ended.
    fn submit_owed(&mut self) -> Result<(), StopReason> {
        match self.owed {
            Some(most) => self.submit(most),
            None => Ok(()),
        }
    }

    /// Stores the plan if it has changed.
    fn save_plan(&mut self) -> Result<(), Error> {
        if let Some(control) = self.control.as_ref().filter(|_| self.unsaved_plan) {
            let (paces, course) = (control.paces(), control.course());
            self.record
                .planned(Some(control.plan()), paces, Some(course))?;
            self.unsaved_plan = false;
        }
        Ok(())
    }

    /// Has it decided how to go on to meet the deadline. Returns why nothing more can be done now.
    fn steer(&mut self, controls: &Controls) -> Result<Option<StopReason>, StopReason> {
        if self.control.is_none() {
            return Ok(None);
        }
        let found = self.queue.process(self.process);
        let Some(found) = found.map_err(StopReason::Fatal)? else {
            return Ok(None);
        };
        self.submit_owed()?;
        if !found.sealed {
            self.queue.seal(self.process).map_err(StopReason::Fatal)?;
        }
        let counts = found.counts;
        let has_ended = counts.pending + counts.in_progress == 0;
        let trial = self
            .control
            .as_ref()
            .and_then(|control| control.trial(has_ended));
        if trial == Some(true) {
            self.end_trial(Some(controls))?;
        }
        let Some(control) = &mut self.control else {
            return Ok(None);
        };
        self.unsaved_plan |= control.steer(&counts, controls);
        let stuck = control.is_stuck(&counts, controls);
        self.save_plan().map_err(StopReason::Fatal)?;
        let stop = stuck.map(|why| Error::new(ErrorKind::Transient, why));
        Ok(stop.map(StopReason::Fatal))
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
    fn note_spent(&self) -> Result<(), Error> {
        let Some(budget) = &self.budget else {
            return Ok(());
        };
        let process = self.queue.process(self.process)?;
        let Some(known) = process.and_then(|process| process.budget) else {
            return Ok(());
        };
        let refused = match known.pause {
            Some(BudgetPause::UsedUp(needed)) => Some(needed),
            _ => None,
        };
        budget.replace(known.used, refused)
    }

    fn attach(&mut self) -> Result<Attached, Error> {
        attach::compare(&self.queue, self.process, self.checkpoint.by_id(), true)
    }

    /// Puts what nobody has in hand on the queue. None of it starts before all is there.
    pub(super) fn submit(&mut self, most: Option<usize>) -> Result<(), StopReason> {
        let ctx = &self.ctx;
        let pilots = std::cell::RefCell::new(&mut self.pilots);
        let is_pilot = std::cell::Cell::new(false);
        let mut decide = |prefix: Option<&PromptPrefix>| {
            let decision = pilots.borrow().decide(prefix);
            is_pilot.set(decision == Decision::Pilot);
            match decision {
                Decision::Submit(lifetime) => Submit::Now(lifetime),
                Decision::Pilot => Submit::Now(Some(CacheLifetime::Hour)),
                Decision::Hold => Submit::Later,
            }
        };
        let unsent = self.checkpoint.unsent(&mut decide);
        let jobs = unsent.take(most.unwrap_or(usize::MAX)).map(|request| {
            let (request, prefix) = request?;
            if let (true, Some(prefix)) = (is_pilot.get(), prefix) {
                let id = request.id.as_deref().unwrap_or_default();
                pilots.borrow_mut().sent(&prefix, id, SystemClock.now());
            }
            if ctx.is_cancelled() {
                Err(Error::cancelled())
            } else {
                Ok(Job::from(&request))
            }
        });
        if let Some(budget) = &self.budget {
            let limited = ProcessBudget::new(budget.limit(), budget.spent());
            self.record.limited(limited);
        }
        let queue = self.record.described();
        let submitted = queue.try_enqueue_iter(self.process, jobs);
        self.submitted += submitted.map_err(|error| match error {
            EnqueueError::Source(error) if error.kind() == ErrorKind::Cancelled => {
                StopReason::Cancelled
            }
            EnqueueError::Source(error) | EnqueueError::Queue(error) => StopReason::Fatal(error),
        })?;
        if let (true, Some(to_send)) = (self.control.is_some(), self.checkpoint.plan().to_send) {
            let rest = most.map_or(0, |_| to_send.saturating_sub(self.submitted));
            self.unsubmitted.store(rest, Ordering::Relaxed);
        }
        self.owed = None;
        // An earlier run was killed when all that is to be done was on the queue.
        let found = self.queue.process(self.process);
        match found.map_err(StopReason::Fatal)? {
            Some(process) if !process.sealed => {
                self.queue.seal(self.process).map_err(StopReason::Fatal)
            }
            _ => Ok(()),
        }
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
            return Ok(());
        }
        loop {
            let stop = self.employ(make_worker)?;
            self.note_spent().map_err(StopReason::Fatal)?;
            // The last result stays, because without it the process would be gone.
            if stop.is_none() && self.is_in_trial() {
                // Items of the next trial may have come when the worker was ending.
                let found = self.queue.process(self.process);
                let counts = found.map_err(StopReason::Fatal)?.map(|now| now.counts);
                if counts.is_none_or(|counts| counts.pending + counts.in_progress == 0) {
                    self.begin_next()?;
                }
                continue;
            }
            if stop.is_none() && self.waiting > 0 {
                self.go_on_with_pilots()?;
                continue;
            }
            self.collect_all()?;
            let found = self.queue.process(self.process);
            let Some(process) = found.map_err(StopReason::Fatal)? else {
                return Ok(());
            };
            if let Some(stop) = stop {
                return Err(stop);
            }
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

    /// After a trial, however long a passing error of the store makes it wait.
    fn begin_next(&mut self) -> Result<(), StopReason> {
        let mut trouble = WarnOnce::default();
        let mut ended = match self.owed {
            Some(_) => self.submit_owed(),
            None => self.end_trial(None),
        };
        loop {
            match ended.map_err(passing) {
                Ok(()) => return Ok(()),
                Err(Trouble::Lasting(reason)) => return Err(reason),
                Err(Trouble::Passing(error)) => trouble.warn(unsteered(&error)),
            }
            self.pause()?;
            ended = self.submit_owed();
        }
    }

    fn is_in_trial(&self) -> bool {
        let control = self.control.as_ref();
        let in_trial = control.is_some_and(|control| control.trial(false).is_some());
        in_trial || self.owed.is_some()
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
        let failed = counts.map_or(0, |counts| counts.failed);
        let in_trial = self.is_in_trial();
        let plan = self.checkpoint.plan();
        // A trial submits only some of them.
        let to_send = plan.to_send.filter(|_| self.control.is_some()).unwrap_or(0);
        let goal = plan
            .total
            .unwrap_or(0)
            .min(plan.done + self.attached + (self.submitted + self.waiting).max(to_send));
        let watch = Watch {
            process: self.process,
            goal,
            unsubmitted: self.unsubmitted.clone(),
            failed,
            notifier: self.notifier.clone(),
            wake,
        };
        let worker = make_worker().map_err(StopReason::Fatal)?;
        let worker = match &mut self.control {
            Some(control) => {
                let worker = control.employs(worker, counts.filter(|_| !in_trial).as_ref());
                self.unsaved_plan = true;
                worker
            }
            None => worker,
        };
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
        let interval = self
            .control
            .as_ref()
            .map_or(STATUS_INTERVAL, |_| STEER_INTERVAL);
        let mut stop = None;
        let (mut trouble, mut untold) = (WarnOnce::default(), WarnOnce::default());
        let report = loop {
            select! {
                recv(ended) -> report => break report,
                recv(woken) -> _ => {}
                default(interval) => {}
            }
            match self.steer(&controls).map_err(passing) {
                Ok(None) => untold.clear(),
                Ok(Some(reason)) | Err(Trouble::Lasting(reason)) => {
                    stop = stop.or(Some(reason));
                    ctx.cancel();
                }
                // The next time, all is decided again.
                Err(Trouble::Passing(error)) => untold.warn(unsteered(&error)),
            }
            match self
                .advance_pilots(false)
                .and_then(|()| self.release())
                .and_then(|()| self.collect(true))
            {
                Ok(()) => trouble.clear(),
                Err(Trouble::Passing(error)) => trouble.warn(waiting(&error)),
                Err(Trouble::Lasting(reason)) => {
                    stop = stop.or(Some(reason));
                    ctx.cancel();
                }
            }
        };
        let _ = worker.join();
        let panicked = || Error::new(ErrorKind::Panic, "the worker panicked");
        let report = report.unwrap_or_else(|_| Err(panicked()));
        let report = report.map_err(StopReason::Fatal)?;
        add(&mut self.sum, &report);
        match stop {
            Some(stop) => Err(stop),
            None => Ok(report.stop),
        }
    }

    /// Cancels what has come back to the queue, from an expired batch say, and is not asked for.
    fn release(&self) -> Result<(), Trouble> {
        if self.unwanted.is_empty() {
            return Ok(());
        }
        let counts = self.queue.process(self.process)?.map(|now| now.counts);
        if counts.is_some_and(|counts| counts.pending > 0) {
            self.queue.cancel_jobs(&self.unwanted)?;
        }
        Ok(())
    }

    /// Saves all that has come back, however long a full disk makes it wait.
    fn collect_all(&mut self) -> Result<(), StopReason> {
        let mut trouble = WarnOnce::default();
        loop {
            match self.collect(false) {
                Ok(()) => return Ok(()),
                Err(Trouble::Lasting(reason)) => return Err(reason),
                Err(Trouble::Passing(error)) => trouble.warn(waiting(&error)),
            }
            self.pause()?;
        }
    }

    /// Saves what has come back and then deletes it from the queue. The last result stays while a worker runs or a batch
    /// is open: without it the process would be gone, and its batches would belong to no process.
    pub(super) fn collect(&mut self, keep_last: bool) -> Result<(), Trouble> {
        if self.queue.peek(self.process, 1)?.is_empty() {
            return Ok(());
        }
        let _alone = self
            .queue
            .lock_results(self.process, "a run, to its output")?;
        loop {
            let mut chunk = self.queue.peek(self.process, CHUNK)?;
            let counts = self.queue.process(self.process)?.map(|now| now.counts);
            let left = counts.map_or(0, |counts| counts.total - counts.consumed);
            if self.waiting > 0 {
                // Also of the result that stays.
                self.note_pilots(&chunk);
            }
            if chunk.len() as u64 >= left
                && (keep_last || !self.queue.batches(Some(self.process))?.is_empty())
            {
                chunk.pop();
            }
            if chunk.is_empty() {
                return Ok(());
            }
            let line = |delivery| line(delivery, &self.record);
            let lines: Vec<Line> = chunk.iter().filter_map(line).collect();
            let saved = self.checkpoint.save(lines)?;
            if !saved.is_empty() {
                self.record.saved(saved)?;
            }
            if chunk.len() as u64 >= left {
                self.note_spent()?;
            }
            let receipts: Vec<_> = chunk.iter().map(|delivery| delivery.receipt).collect();
            self.queue.ack(&receipts)?;
        }
    }
}

/// The result line of a job; none of a cancelled one, which was never sent.
pub(super) fn line(delivery: &DeliveredResult, record: &Record) -> Option<Line> {
    let result = &delivery.result;
    (result.status != JobStatus::Cancelled).then(|| Line {
        id: result.item_id.clone().unwrap_or_default(),
        request_hash: result.request_hash.clone(),
        success: result.is_success(),
        text: result.line(),
        settings: record.settings_of(result.job_id).cloned(),
    })
}

/// Why nothing could be collected.
pub(super) enum Trouble {
    Passing(Error),
    Lasting(StopReason),
}

/// What can be tried again.
fn passing(reason: StopReason) -> Trouble {
    match reason {
        StopReason::Fatal(error) => error.into(),
        reason => Trouble::Lasting(reason),
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Transient => Self::Passing(error),
            _ => Self::Lasting(StopReason::Fatal(error)),
        }
    }
}

impl From<Unsaved> for Trouble {
    fn from(unsaved: Unsaved) -> Self {
        match unsaved {
            Unsaved::Now(error) => Self::Passing(error),
            Unsaved::Ever(error) => Self::Lasting(StopReason::Fatal(error)),
            Unsaved::ReaderGone => Self::Lasting(StopReason::SinkClosed),
        }
    }
}

fn unsteered(error: &Error) -> String {
    format!("the plan for the deadline waits: {error}")
}

pub(super) fn waiting(error: &Error) -> String {
    format!("results wait in the queue: {error}")
}

fn add(sum: &mut WorkerReport, report: &WorkerReport) {
    sum.calls += report.calls;
    sum.batches += report.batches;
    sum.retries += report.retries;
    sum.rate_limited += report.rate_limited;
    sum.possibly_paid_twice += report.possibly_paid_twice;
    sum.unsaved.extend_from_slice(&report.unsaved);
}

/// Passes on where the run stands, made of where its process stands.
struct Watch {
    process: ProcessId,
    /// Items that will have their outcome at the end.
    goal: u64,
    /// The part of them that is not on the queue yet.
    unsubmitted: Arc<AtomicU64>,
    /// Failures of the process in earlier runs.
    failed: u64,
    notifier: Option<Arc<dyn ProgressNotifier>>,
    wake: Sender<()>,
}

impl ProgressNotifier for Watch {
    fn on_progress(&self, progress: &Progress) {
        if progress.process_id != Some(self.process) {
            return;
        }
        let _ = self.wake.try_send(());
        let Some(notifier) = &self.notifier else {
            return;
        };
        let ended = progress.completed + progress.failed + progress.cancelled;
        let left = progress
            .total
            .map_or(0, |total| total.saturating_sub(ended));
        let left = left + self.unsubmitted.load(Ordering::Relaxed);
        let settled = self.goal.saturating_sub(left);
        let failed = progress.failed.saturating_sub(self.failed).min(settled);
        notifier.on_progress(&Progress {
            // The run has not ended before its output is whole.
            phase: match progress.phase {
                Phase::Finished | Phase::Deleted => Phase::Running,
                phase => phase,
            },
            total: Some(self.goal),
            percent: (self.goal > 0).then(|| settled as f64 * 100.0 / self.goal as f64),
            completed: settled - failed,
            failed,
            cancelled: 0,
            ..progress.clone()
        });
    }
}

#[cfg(test)]
#[path = "execution_tests.rs"]
mod tests;
