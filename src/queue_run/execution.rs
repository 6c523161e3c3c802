//! A run under way: hands over what is new, has it worked on, and takes what has ended into the output.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, select};

use crate::base::cancel::Context;
use crate::base::clock::{Clock, SystemClock};
use crate::base::error::{Error, ErrorKind};
use crate::base::id::{JobId, ProcessId};
use crate::base::thread::spawn;
use crate::base::usage::Usage;
use crate::base::warn_once::WarnOnce;
use crate::bulk::checkpoint::{Checkpoint, Line, Submit, Unsaved};
use crate::bulk::run_settings::RunSettings;
use crate::engine::dispatch::{ErrorPolicy, StopReason};
use crate::llm::outcome::Outcome;
use crate::llm::params::CacheLifetime;
use crate::llm::prompt_cache::PromptPrefix;
use crate::observe::progress::{Phase, Progress, ProgressNotifier};
use crate::queue::host::{EnqueueError, JobQueue};
use crate::queue::job::{Job, JobStatus, ProcessState};
use crate::queue::store::DeliveredResult;
use crate::queue::worker::Worker;
use crate::queue::worker_run::WorkerReport;

use super::attach::{self, Attached};
use super::pilot::{Decision, Pilots, Rule, Sharing};
use super::record::Record;

/// Results that are saved at once.
const CHUNK: usize = 500;
/// How often it is looked for results that another worker has brought, and for what it left.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

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
    /// The settings of this run.
    pub settings: RunSettings,
    /// Which beginnings of prompts are cached.
    pub caching: Option<Rule>,
    pub pilots: Pilots,
    /// Items that wait for the pilot of their beginning.
    pub waiting: u64,
    /// A pilot has ended since it was looked last.
    pub has_pilot_ended: bool,
    pub submitted: u64,
    pub attached: u64,
    /// Jobs that were under way at the beginning although the input does not ask for them.
    pub unwanted: Vec<JobId>,
    pub sum: WorkerReport,
}

/// Makes the workers of a run.
pub(super) type MakeWorker<'h> = dyn FnMut() -> Result<Worker, Error> + 'h;

impl Execution {
    pub(super) fn carry_out(&mut self, make_worker: &mut MakeWorker<'_>) -> Result<(), StopReason> {
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
        if let Some(rule) = &self.caching {
            let beginnings = self.checkpoint.beginnings().into_iter();
            let sharing =
                beginnings.map(|(prefix, (model, requests))| (prefix, Sharing { model, requests }));
            self.pilots = Pilots::choose(rule, &sharing.collect(), SystemClock.wall());
        }
        let to_submit = self.checkpoint.count_unsent();
        self.submit()?;
        self.checkpoint.will_take(self.attached + to_submit);
        self.waiting = to_submit - self.submitted.min(to_submit);
        self.work(make_worker)?;
        // The worker ended before what waited for a pilot was submitted.
        while self.waiting > 0 {
            self.pilots.give_up(true, SystemClock.now());
            self.submit_waiting()?;
            self.work(make_worker)?;
        }
        Ok(())
    }

    /// Submits what need not wait for a pilot any more.
    fn submit_waiting(&mut self) -> Result<(), StopReason> {
        let found = self.queue.process(self.process);
        let found = found.map_err(StopReason::Fatal)?;
        if found.is_some_and(|process| process.cancelled) {
            // It takes no more.
            self.waiting = 0;
            return Ok(());
        }
        let before = self.submitted;
        self.submit()?;
        self.waiting = self.waiting.saturating_sub(self.submitted - before);
        if self.submitted == before && !self.pilots.is_waiting() {
            self.waiting = 0;
        }
        Ok(())
    }

    /// Looks whether pilots have reached their batch, and which take too long.
    fn advance_pilots(&mut self) -> Result<(), StopReason> {
        if self.waiting == 0 {
            return Ok(());
        }
        let found = self.queue.process(self.process);
        let found = found.map_err(StopReason::Fatal)?;
        // Until then, other requests would get into the batch of the pilots.
        let taken = found.is_none_or(|process| process.counts.pending == 0);
        let mut is_free = std::mem::take(&mut self.has_pilot_ended);
        is_free |= taken && self.pilots.are_in_batch();
        is_free |= self.pilots.give_up(false, SystemClock.now());
        if is_free {
            self.submit_waiting()
        } else {
            Ok(())
        }
    }

    fn attach(&mut self) -> Result<Attached, Error> {
        attach::compare(&self.queue, self.process, self.checkpoint.by_id(), true)
    }

    /// Puts what nobody has in hand on the queue. None of it starts before all is there.
    fn submit(&mut self) -> Result<(), StopReason> {
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
        let jobs = self.checkpoint.unsent(&mut decide).map(|request| {
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
        let queue = self.record.described();
        let submitted = queue.try_enqueue_iter(self.process, jobs);
        self.submitted += submitted.map_err(|error| match error {
            EnqueueError::Source(error) if error.kind() == ErrorKind::Cancelled => {
                StopReason::Cancelled
            }
            EnqueueError::Source(error) | EnqueueError::Queue(error) => StopReason::Fatal(error),
        })?;
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
    fn pause(&self) -> Result<(), StopReason> {
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
        let failed = found
            .map_err(StopReason::Fatal)?
            .map_or(0, |now| now.counts.failed);
        let plan = self.checkpoint.plan();
        let goal = plan
            .total
            .unwrap_or(0)
            .min(plan.done + self.attached + self.submitted + self.waiting);
        let watch = Watch {
            process: self.process,
            goal,
            failed,
            notifier: self.notifier.clone(),
            wake,
        };
        let worker = make_worker().map_err(StopReason::Fatal)?;
        let worker = worker
            .processes([self.process])
            .until_empty(!self.until_submitted)
            .until_submitted(self.until_submitted)
            .multi_tenant(self.on_error != ErrorPolicy::StopOnCriticalError)
            .context(&ctx)
            .notifier(Arc::new(watch));
        let (done, ended) = bounded(1);
        let worker = spawn("batchwright-worker", move || {
            let _ = done.send(worker.run());
        });
        let worker = worker.map_err(StopReason::Fatal)?;
        let mut stop = None;
        let mut trouble = WarnOnce::default();
        let report = loop {
            select! {
                recv(ended) -> report => break report,
                recv(woken) -> _ => {}
                default(STATUS_INTERVAL) => {}
            }
            let advanced = self.advance_pilots().map_err(Trouble::Lasting);
            match advanced
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
    fn collect(&mut self, keep_last: bool) -> Result<(), Trouble> {
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
            for line in lines.iter().filter(|_| self.waiting > 0) {
                self.has_pilot_ended |= self.pilots.ended(&line.id, usage_of(line));
            }
            let saved = self.checkpoint.save(lines)?;
            if !saved.is_empty() {
                self.record.saved(saved)?;
            }
            let receipts: Vec<_> = chunk.iter().map(|delivery| delivery.receipt).collect();
            self.queue.ack(&receipts)?;
        }
    }
}

/// The result line of a job; none of a cancelled one, which was never sent.
fn line(delivery: &DeliveredResult, record: &Record) -> Option<Line> {
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
enum Trouble {
    Passing(Error),
    Lasting(StopReason),
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

fn waiting(error: &Error) -> String {
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

/// The tokens of a success.
fn usage_of(line: &Line) -> Option<Option<Usage>> {
    let outcome: Outcome = serde_json::from_str(&line.text).ok()?;
    line.success.then(|| outcome.usage())
}
