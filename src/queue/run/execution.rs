//! A run under way: hands over what is new, has it worked on, and takes what has ended into the output.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};

use crate::base::thread::spawn;
use crate::base::{Context, Error, ErrorKind, JobId, ProcessId, WarnOnce};
use crate::bulk::checkpoint::{Checkpoint, Line};
use crate::engine::budget::Budget;
use crate::engine::dispatch::{ErrorPolicy, StopReason};
use crate::observe::progress::{Phase, Progress, ProgressNotifier};
use crate::queue::host::{EnqueueError, JobQueue};
use crate::queue::info::ProcessBudget;
use crate::queue::job::{Job, JobStatus, ProcessState};
use crate::queue::store::DeliveredResult;
use crate::queue::work::WorkerReport;
use crate::queue::worker::Worker;

use super::attach;
use super::attach::Attached;
use super::store::Record;

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
    /// What the process may cost.
    pub budget: Option<Budget>,
    /// Items that were on the queue at the beginning.
    pub attached: u64,
    /// Items that this run has put on the queue.
    pub submitted: u64,
    /// Jobs that were under way at the beginning although the input does not ask for them.
    pub unwanted: Vec<JobId>,
    pub sum: WorkerReport,
}

/// Makes the workers of a run.
pub(super) type MakeWorker<'h> = dyn FnMut() -> Result<Worker, Error> + 'h;

impl Execution {
    pub(super) fn carry_out(&mut self, make_worker: &mut MakeWorker<'_>) -> Result<(), StopReason> {
        self.limit()?;
        // First what has ended: it may be all, and a process that was cancelled takes no more.
        self.collect_all()?;
        let before = self.queue.process(self.process)?;
        if before.is_some_and(|process| process.cancelled) {
            self.work(make_worker)?;
        }
        let mut attached = self.attach()?;
        if !attached.unwanted.is_empty() {
            // What is in a batch of which nothing was sent need not be bought.
            self.queue.dissolve_unsent(self.process)?;
            attached = self.attach()?;
        }
        (self.attached, self.unwanted) = (attached.items, attached.unwanted);
        self.submit()?;
        self.checkpoint.will_take(self.attached + self.submitted);
        self.work(make_worker)
    }

    /// Gives the process of an earlier run its new limit.
    fn limit(&self) -> Result<(), StopReason> {
        let Some(budget) = &self.budget else {
            return Ok(());
        };
        let Some(process) = self.queue.process(self.process)? else {
            return Ok(());
        };
        if process.budget.is_none() {
            let why = "an earlier run of this output without a budget is under way: finish it without one";
            return Err(StopReason::Misuse(why.to_owned()));
        }
        let set = self.queue.set_budget(self.process, budget.limit());
        set.map_err(|error| StopReason::Misuse(error.message().to_owned()))?;
        Ok(self.note_spent()?)
    }

    /// Takes over what the process has spent, before it is gone with its last result.
    pub(super) fn note_spent(&self) -> Result<(), Error> {
        let Some(budget) = &self.budget else {
            return Ok(());
        };
        self.queue.note_spent(self.process, budget, None)
    }

    /// Compares the input with the queue. Waiting jobs that the input does not ask for are cancelled.
    fn attach(&mut self) -> Result<Attached, Error> {
        let items = self.checkpoint.by_id();
        attach::compare(&self.queue, self.process, items, true)
    }

    /// Puts what is new on the queue. The items start when all of them are there.
    fn submit(&mut self) -> Result<(), StopReason> {
        self.submitted = self.enqueue()?;
        // An earlier run may have been killed when all its items were on the queue.
        let found = self.queue.process(self.process)?;
        if found.is_some_and(|process| !process.sealed) {
            self.queue.seal(self.process)?;
        }
        Ok(())
    }

    fn enqueue(&mut self) -> Result<u64, StopReason> {
        let ctx = &self.ctx;
        let jobs = self.checkpoint.unsent().map(|request| {
            let request = request?;
            if ctx.is_cancelled() {
                Err(Error::cancelled())
            } else {
                Ok(Job::from(&request))
            }
        });
        if let Some(budget) = &self.budget {
            let limited = ProcessBudget::new(budget.limit(), budget.used());
            self.record.limited(limited);
        }
        let queue = self.record.described();
        let submitted = queue.try_enqueue_iter(self.process, jobs);
        submitted.map_err(|error| match error {
            EnqueueError::Source(error) if error.kind() == ErrorKind::Cancelled => {
                StopReason::Cancelled
            }
            EnqueueError::Source(error) | EnqueueError::Queue(error) => StopReason::Fatal(error),
        })
    }

    /// Works and collects until nothing is left of the process, or nothing but what cannot be helped.
    fn work(&mut self, make_worker: &mut MakeWorker<'_>) -> Result<(), StopReason> {
        let mut stuck = None;
        if self.queue.process(self.process)?.is_none() {
            return Ok(());
        }
        loop {
            let stop = self.employ(make_worker)?;
            self.note_spent()?;
            self.collect_all()?;
            let found = self.queue.process(self.process);
            if let Some(stop) = stop {
                return Err(stop);
            }
            let Some(process) = found? else {
                return Ok(());
            };
            if self.until_submitted {
                return Ok(());
            }
            let now = self.stuck(&process)?;
            // Whoever attended a batch may just have died: then the next worker has it.
            if now.is_some() && now == stuck {
                let why = "the rest is in batches that cannot be collected now";
                return Err(Error::new(ErrorKind::Transient, why).into());
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
        let counts = self.queue.process(self.process)?.map(|now| now.counts);
        let watch = self.watch(counts.map_or(0, |counts| counts.failed), wake);
        let worker = make_worker()?
            .processes([self.process])
            .until_empty(!self.until_submitted)
            .until_submitted(self.until_submitted)
            .multi_tenant(self.on_error != ErrorPolicy::StopOnCriticalError)
            .context(&ctx)
            .notifier(Arc::new(watch));
        let (done, ended) = bounded(1);
        let worker = spawn("batchwright-worker", move || {
            let _ = done.send(worker.run());
        })?;
        let (report, stop) = self.attend(&ctx, &ended, &woken);
        let _ = worker.join();
        let panicked = || Error::new(ErrorKind::Panic, "the worker panicked");
        let report = report.unwrap_or_else(|| Err(panicked()))?;
        add(&mut self.sum, &report);
        Ok(stop.or(report.stop))
    }

    /// Collects while a worker runs. Returns its report, and why it was stopped.
    fn attend(
        &mut self,
        ctx: &Context,
        ended: &Receiver<Result<WorkerReport, Error>>,
        woken: &Receiver<()>,
    ) -> (Option<Result<WorkerReport, Error>>, Option<StopReason>) {
        let mut stop = None;
        let mut trouble = WarnOnce::default();
        loop {
            select! {
                recv(ended) -> report => return (report.ok(), stop),
                recv(woken) -> _ => {}
                default(STATUS_INTERVAL) => {}
            }
            // A step that fails does not keep the others from what they save.
            let steps = [self.release(), self.collect(true)];
            if steps.iter().all(Result::is_ok) {
                trouble.clear();
            }
            for failed in steps.into_iter().filter_map(Result::err) {
                if failed.kind() == ErrorKind::Transient {
                    trouble.warn(waiting(&failed));
                } else {
                    stop = stop.or(Some(StopReason::Fatal(failed)));
                    ctx.cancel();
                }
            }
        }
    }

    /// Passes on where the run stands, made of where its process stands, which had `failed_before` failures of earlier runs.
    fn watch(&self, failed_before: u64, wake: Sender<()>) -> impl ProgressNotifier + use<> {
        let (process, notifier) = (self.process, self.notifier.clone());
        let plan = self.checkpoint.plan();
        // Items that will have their outcome at the end.
        let goal = (plan.total).min(plan.done + self.attached + self.submitted);
        move |progress: &Progress| {
            if progress.process_id != Some(process) {
                return;
            }
            let _ = wake.try_send(());
            let Some(notifier) = &notifier else {
                return;
            };
            let ended = progress.completed + progress.failed + progress.cancelled;
            let left = |total: u64| total.saturating_sub(ended);
            let settled = goal.saturating_sub(progress.total.map_or(0, left));
            let failed = progress.failed.saturating_sub(failed_before).min(settled);
            notifier.on_progress(&Progress {
                // The run has not ended before its output is whole.
                phase: match progress.phase {
                    Phase::Finished | Phase::Deleted => Phase::Running,
                    phase => phase,
                },
                total: Some(goal),
                percent: (goal > 0).then(|| settled as f64 * 100.0 / goal as f64),
                completed: settled - failed,
                failed,
                cancelled: 0,
                ..progress.clone()
            });
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

pub(super) fn waiting(error: &Error) -> String {
    format!("results wait in the queue: {error}")
}

// The part of a run that takes results from the queue into its output.

/// Results that are saved at once.
const CHUNK: usize = 500;

impl Execution {
    /// Cancels what has come back to the queue, from an expired batch say, and is not asked for.
    pub(super) fn release(&self) -> Result<(), Error> {
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
    pub(super) fn collect_all(&mut self) -> Result<(), StopReason> {
        let mut trouble = WarnOnce::default();
        loop {
            match self.collect(false) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Transient => {
                    trouble.warn(waiting(&error));
                }
                Err(error) => return Err(StopReason::Fatal(error)),
            }
            self.pause()?;
        }
    }

    /// Saves what has come back and then deletes it from the queue. The last result stays while a worker runs or a batch
    /// is open: without it the process would be gone, and its batches would belong to no process.
    pub(super) fn collect(&mut self, keep_last: bool) -> Result<(), Error> {
        if self.queue.peek(self.process, 1)?.is_empty() {
            return Ok(());
        }
        let _alone = self.queue.lock_results(self.process)?;
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

/// The result line of a job; `None` if it was cancelled, because it was never sent.
fn line(delivery: &DeliveredResult) -> Option<Line> {
    let result = &delivery.result;
    (result.status != JobStatus::Cancelled).then(|| Line {
        id: result.item_id.clone().unwrap_or_default(),
        request_hash: result.request_hash.clone(),
        success: result.is_success(),
        text: result.line(),
    })
}
