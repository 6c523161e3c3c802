//! A run under way: hands over what is new, has it worked on, and takes what has ended into the output.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};

use crate::base::thread::spawn;
use crate::base::{Context, Error, ErrorKind, JobId, ProcessId, WarnOnce};
use crate::bulk::checkpoint::{Checkpoint, Line};
use crate::bulk::input::{FileIndex, Fit, State, hash_prefix, is_automatic};
use crate::engine::budget::Budget;
use crate::engine::dispatch::{Counters, ErrorPolicy, StopReason};
use crate::observe::progress::{Phase, Progress, ProgressNotifier};
use crate::queue::host::{EnqueueError, JobQueue};
use crate::queue::info::{ProcessBudget, ProcessInfo};
use crate::queue::job::{Job, JobStatus};
use crate::queue::store::DeliveredResult;
use crate::queue::work::WorkerReport;
use crate::queue::worker::Worker;

use super::store::note_saved;

/// How often it is looked for results that another worker has brought, and for what it left.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// A run under way.
pub(super) struct Execution {
    pub checkpoint: Checkpoint,
    pub queue: JobQueue,
    /// What its process is described with: what people see, and what the run needs when it comes back.
    pub info: ProcessInfo,
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
    /// What its workers have done.
    pub counters: Counters,
    /// Batches that they have created at a provider.
    pub created: u64,
    /// Lines that they could not record.
    pub unsaved: Vec<String>,
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
        compare(&self.queue, self.process, items, true)
    }

    /// Puts what is new on the queue. The items start when all of them are there.
    fn submit(&mut self) -> Result<(), StopReason> {
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
            self.info.budget = Some(ProcessBudget::new(budget.limit(), budget.used()));
        }
        let queue = self.queue.described(self.info.clone());
        let submitted = queue.try_enqueue_iter(self.process, jobs);
        self.submitted = submitted.map_err(|error| match error {
            EnqueueError::Source(error) if error.kind() == ErrorKind::Cancelled => {
                StopReason::Cancelled
            }
            EnqueueError::Source(error) | EnqueueError::Queue(error) => StopReason::Fatal(error),
        })?;
        // An earlier run may have been killed when all its items were on the queue.
        let found = self.queue.process(self.process)?;
        if found.is_some_and(|process| !process.sealed) {
            self.queue.seal(self.process)?;
        }
        Ok(())
    }

    /// Works and collects until nothing is left of the process, or nothing but what cannot be helped.
    fn work(&mut self, make_worker: &mut MakeWorker<'_>) -> Result<(), StopReason> {
        if self.queue.process(self.process)?.is_none() {
            return Ok(());
        }
        let mut was_stuck = false;
        loop {
            let stop = self.employ(make_worker)?;
            self.note_spent()?;
            self.collect_all()?;
            let found = self.queue.process(self.process);
            if let Some(stop) = stop {
                return Err(stop);
            }
            if found?.is_none() || self.until_submitted {
                return Ok(());
            }
            let is_stuck = self.is_stuck()?;
            // The worker of a batch may just have crashed: then the next worker has it.
            if is_stuck && was_stuck {
                let why = "the rest is in batches that cannot be collected now";
                return Err(Error::new(ErrorKind::Transient, why).into());
            }
            was_stuck = is_stuck;
            self.pause()?;
        }
    }

    /// Whether nothing is left but batches that no worker attends. They are read first: what ends meanwhile is not there.
    fn is_stuck(&self) -> Result<bool, Error> {
        let batches = self.queue.batches(Some(self.process))?;
        let counts = self.queue.process(self.process)?.map(|now| now.counts);
        let waits = counts.is_none_or(|counts| counts.pending > 0 || counts.in_progress > 0);
        Ok(!waits && !batches.is_empty() && batches.iter().all(|batch| !batch.attended))
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
        self.counters.calls += report.calls;
        self.counters.retries += report.retries;
        self.counters.rate_limited += report.rate_limited;
        self.counters.possibly_paid_twice += report.possibly_paid_twice;
        self.created += report.batches;
        self.unsaved.extend(report.unsaved);
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
        let plan = &self.checkpoint.plan;
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
                note_saved(&mut self.info, saved);
                self.queue.describe(self.process, &self.info)?;
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

// What a process has on the queue, compared with what an input asks.

/// Jobs that are compared at a time.
const COMPARED: usize = 1000;

/// What a process has for an input.
#[derive(Default)]
pub(super) struct Attached {
    /// Items that it has a job for.
    pub items: u64,
    /// Of these, those whose outcome is there.
    pub ended: u64,
    /// Jobs under way that the input does not ask for (any more). They are paid for; but should they come
    /// back to the queue, they are not to be bought again.
    pub unwanted: Vec<JobId>,
    /// Items that have an answer to another request and no other, and answers to items without an id of their own, which
    /// are others when their requests change.
    pub differing: u64,
}

/// Holds every item of the input that the process has a job for. With `cancel` jobs that wait although
/// the input does not ask for them (any more) are cancelled.
pub(super) fn compare(
    queue: &JobQueue,
    process: ProcessId,
    index: &mut FileIndex,
    cancel: bool,
) -> Result<Attached, Error> {
    index.release_all();
    let batches = queue.batches(Some(process))?;
    // Which batch a job is in is not told here.
    let all_unsent = batches.iter().all(|batch| batch.unsent);
    let (mut attached, mut last) = (Attached::default(), None);
    let mut replaced: HashSet<usize> = HashSet::new();
    loop {
        let items = queue.items(process, last, COMPARED)?;
        let Some(end) = items.last() else {
            // Items that another job of the process answers are not sent again.
            let is_new = |at: &usize| index[*at].state() == State::New && !index[*at].is_held();
            replaced.retain(is_new);
            attached.differing += replaced.len() as u64;
            return Ok(attached);
        };
        last = Some(end.job_id);
        let mut waiting = Vec::new();
        for item in items {
            let hash = item.request_hash.as_deref().and_then(hash_prefix);
            let known = item.item_id.as_deref().zip(hash);
            // It has an answer, or may get one that is paid for.
            let is_answered = matches!(item.status, JobStatus::InProgress | JobStatus::Completed);
            if is_answered
                && !(item.at_provider && all_unsent)
                && let Some((id, hash)) = known
            {
                match index.fit(id, hash) {
                    // Another request of the item at this place.
                    Fit::Other => replaced.extend(index.find(id)),
                    // An item whose id was made of its request.
                    Fit::Unknown => attached.differing += u64::from(is_automatic(id)),
                    Fit::Same(_) => {}
                }
            }
            match known.filter(|(id, hash)| attaches(index.fit(id, *hash), item.status)) {
                Some((id, _)) => {
                    index.hold_id(id);
                    attached.items += 1;
                    attached.ended += u64::from(item.status.is_final());
                }
                None if item.status == JobStatus::Pending => waiting.push(item.job_id),
                None if !item.status.is_final() => attached.unwanted.push(item.job_id),
                None => {}
            }
        }
        if cancel && !waiting.is_empty() {
            queue.cancel_jobs(&waiting)?;
        }
    }
}

/// Whether the result of the job is one that the output waits for.
fn attaches(fit: Fit, status: JobStatus) -> bool {
    let Fit::Same(item) = fit else {
        return false;
    };
    match (item.state(), status) {
        _ if item.is_taken() => false,
        (State::Done, _) | (_, JobStatus::Cancelled) => false,
        // Its line is there: a run was killed before it could delete the job.
        (State::Failed | State::Unusable, JobStatus::Failed) => false,
        _ => true,
    }
}
