//! A run from prompts to result lines through a queue, which outlives the program.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, select};

use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind};
use crate::base::id::{JobId, ProcessId};
use crate::base::sidecar_path::resolved;
use crate::base::thread::spawn;
use crate::base::warn_once::WarnOnce;
use crate::bulk::checkpoint::{Checkpoint, Line, Unsaved};
use crate::bulk::file::FileRun;
use crate::bulk::options::{FileRunError, FileRunOptions, RunOutput, RunPlan, RunReport};
use crate::bulk::prompts::Prompts;
use crate::engine::counters::Counters;
use crate::engine::dispatch::{ErrorPolicy, StopReason};
use crate::observe::progress::{Phase, Progress, ProgressNotifier};
use crate::queue::batch::BatchInfo;
use crate::queue::host::{EnqueueError, JobQueue};
use crate::queue::info::ProcessInfo;
use crate::queue::job::{Job, JobStatus, ProcessState};
use crate::queue::store::DeliveredResult;
use crate::queue::worker::Worker;
use crate::queue::worker_run::WorkerReport;

mod attach;
mod keeper;
#[cfg(test)]
mod lost_tests;
mod sidecar;
mod taken;

use keeper::{KnownState, SidecarKeeper};
pub use sidecar::{Sidecar, TakenResults, file_id};

/// A run from a file of prompts to result lines, whose items wait in a [`JobQueue`], such as those that
/// are handed over to a provider in batches. The same run attaches to them again after it was stopped or
/// killed, by id and fingerprint: what is under way is not sent again, however long ago that was.
///
/// As with [`FileRun`], the output is the checkpoint. Results leave the queue once they are in it.
pub struct QueueRun {
    run: FileRun<'static>,
    queue: JobQueue,
    process: ProcessId,
    ctx: Context,
    notifier: Option<Arc<dyn ProgressNotifier>>,
    until_handed_over: bool,
    on_error: ErrorPolicy,
    info: Option<ProcessInfo>,
    /// The output, where a later run can come back to it.
    output: Option<PathBuf>,
    taken: Vec<TakenResults>,
}

/// What a [`QueueRun`] did.
#[derive(Debug)]
#[non_exhaustive]
pub struct QueueRunReport {
    /// The numbers, and how it ended.
    pub report: RunReport,
    /// Items that were put on the queue.
    pub submitted: u64,
    /// Items that were there already, from earlier runs.
    pub attached: u64,
    /// Results of items that the input no longer has; they were paid for, and are kept.
    pub foreign: u64,
    /// Batches that were created at a provider.
    pub created: u64,
    /// Batches that are left: at their provider, or held.
    pub batches: Vec<BatchInfo>,
    /// Where the process stands; `None` when nothing of it is left.
    pub left: Option<ProcessState>,
}

/// Results that are saved at once.
const CHUNK: usize = 500;
/// How often it is looked for results that another worker has brought, and for what it left.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

impl QueueRun {
    /// The id of the process that belongs to an output file: the one that its [`Sidecar`] names, else one
    /// that is made of its path; links and relative paths are resolved. The file itself need not be there
    /// yet.
    ///
    /// # Errors
    /// When its folder is not there, or its sidecar cannot be read.
    pub fn process_of(output: &Path) -> io::Result<ProcessId> {
        if let Some((sidecar, _)) = Sidecar::find(output, None).map_err(io::Error::other)? {
            return Ok(sidecar.process_id);
        }
        let path = resolved(output, 0)?;
        Ok(ProcessId::named(path.as_os_str().as_encoded_bytes()))
    }

    /// Opens the output and compares it, and what the process has on the queue, with the prompts, which
    /// must not be a stream: see [`Prompts::spool`]. Nothing is changed yet.
    ///
    /// # Errors
    /// When the output cannot be written, belongs to another run, or is no results file; when the queue
    /// cannot be read.
    pub fn prepare(
        prompts: Prompts,
        output: RunOutput,
        options: FileRunOptions,
        queue: &JobQueue,
        process: ProcessId,
    ) -> Result<Self, FileRunError> {
        if prompts.items().is_none() {
            let why = "a stream cannot be compared with a queue: spool it";
            return Err(FileRunError::Usage(Error::new(ErrorKind::Invalid, why)));
        }
        // What is saved is deleted from the queue: after a power loss it must not be in neither.
        let options = options.fsync(true);
        let path = output.regular_file().map(Path::to_owned);
        let mut known = KnownState::default();
        let mut broken = None;
        let mut ended = 0;
        let mut run = FileRun::prepare_comparing(prompts, output, options, &mut |index| {
            ended = attach::compare(queue, process, index, false)?.ended;
            if let Some(path) = &path {
                known = keeper::known(path, queue, process)?;
            }
            match taken::hold(&known.taken, index) {
                Ok(held) => {
                    ended += held.now;
                    known.lost = held.short.or(known.lost.take());
                }
                Err(error) => broken = Some(error.message().to_owned()),
            }
            Ok(())
        })?;
        // Where nothing is sent nothing is bought again.
        let sends = run.plan().to_send.is_some_and(|items| items > 0);
        if let (Some(path), Some(why)) = (&path, broken.or(known.lost.filter(|_| sends))) {
            let state = queue.process(process).map_err(FileRunError::Output)?;
            let refused = keeper::unsent(path, state.as_ref(), &why);
            return Err(FileRunError::Usage(refused));
        }
        run.set_to_collect(ended);
        Ok(Self {
            run,
            queue: queue.clone(),
            process,
            ctx: Context::new(),
            notifier: None,
            until_handed_over: false,
            on_error: ErrorPolicy::StopOnCriticalError,
            info: None,
            output: path,
            taken: known.taken,
        })
    }

    /// What is to be done.
    pub fn plan(&self) -> &RunPlan {
        self.run.plan()
    }

    /// Cancellation and grace. What is at a provider then stays there. Default: a context that nobody
    /// cancels.
    pub fn context(mut self, ctx: &Context) -> Self {
        self.ctx = ctx.clone();
        self
    }

    /// Who is told about progress. Default: nobody.
    pub fn notifier(mut self, notifier: Arc<dyn ProgressNotifier>) -> Self {
        self.notifier = Some(notifier);
        self
    }

    /// What is told of its process, for as long as that lasts. Default: what was told before.
    pub fn described(mut self, info: ProcessInfo) -> Self {
        self.info = Some(info);
        self
    }

    /// Ends when all is handed over; the same run collects the results later. Default: it waits for them.
    pub fn until_handed_over(mut self, yes: bool) -> Self {
        self.until_handed_over = yes;
        self
    }

    /// With [`ErrorPolicy::StopOnCriticalError`] a worker that stops for critical errors also does when no
    /// model has the name, or when the first replies to calls are alike and no answers. With another
    /// policy these fail their items alone. Default: `StopOnCriticalError`.
    pub fn on_error(mut self, policy: ErrorPolicy) -> Self {
        self.on_error = policy;
        self
    }

    /// Puts what is new on the queue and has it carried out by workers of this making, which are told
    /// which process is theirs, and when to end. Others may take part.
    ///
    /// # Errors
    /// Only when the run could not begin; how it ended is in the report.
    pub fn run(
        self,
        mut worker: impl FnMut() -> Result<Worker, Error>,
    ) -> Result<QueueRunReport, Error> {
        let checkpoint = Checkpoint::open(self.run)?;
        let checkpoint =
            checkpoint.ok_or_else(|| Error::new(ErrorKind::Invalid, "the input is a stream"))?;
        let mut keeper = SidecarKeeper::new(&self.queue, self.process, self.info, self.output)?;
        keeper.begin(checkpoint.plan().to_send.unwrap_or(0))?;
        let mut turn = Turn {
            checkpoint,
            queue: keeper.described(),
            keeper,
            taken: self.taken,
            process: self.process,
            ctx: self.ctx,
            notifier: self.notifier,
            until_handed_over: self.until_handed_over,
            on_error: self.on_error,
            submitted: 0,
            attached: 0,
            unwanted: Vec::new(),
            sum: WorkerReport::default(),
        };
        let mut stop = turn.carry_out(&mut worker).err();
        // Nobody could come back to what never began.
        if !turn.checkpoint.plan().resumable
            && turn.submitted == 0
            && stop.is_some()
            && let Err(error) = turn.queue.delete(turn.process)
        {
            log::warn!("{error}");
        }
        let left = turn.queue.process(turn.process);
        let is_over = matches!(left, Ok(None));
        // What stopped it came too late to stop anything.
        if is_over && matches!(stop, Some(StopReason::Cancelled)) && turn.checkpoint.is_settled() {
            stop = None;
        }
        let batches = turn.queue.batches(Some(turn.process));
        // Not before what could not be recorded is in the report.
        let failed = left.as_ref().err().or(batches.as_ref().err());
        stop = stop.or_else(|| failed.cloned().map(StopReason::Fatal));
        let sum = turn.sum;
        let counters = Counters {
            calls: sum.calls,
            retries: sum.retries,
            rate_limited: sum.rate_limited,
            possibly_paid_twice: sum.possibly_paid_twice,
            ..Counters::default()
        };
        let foreign = turn.checkpoint.foreign();
        let (mut report, locked) = turn.checkpoint.finish(stop, counters);
        // The next run of the output begins after this: its sidecar is not removed.
        if let Err(error) = turn.keeper.end(!is_over) {
            log::warn!("{error}");
        }
        drop(locked);
        let unsaved = sum.unsaved.into_iter();
        report.unsaved = unsaved.map(|line| (line + "\n").into_bytes()).collect();
        Ok(QueueRunReport {
            report,
            submitted: turn.submitted,
            attached: turn.attached,
            foreign,
            created: sum.batches,
            batches: batches.unwrap_or_default(),
            left: left.unwrap_or_default(),
        })
    }
}

/// A run under way.
struct Turn {
    checkpoint: Checkpoint,
    queue: JobQueue,
    keeper: SidecarKeeper,
    /// Results that lie elsewhere and come back from there.
    taken: Vec<TakenResults>,
    process: ProcessId,
    ctx: Context,
    notifier: Option<Arc<dyn ProgressNotifier>>,
    until_handed_over: bool,
    on_error: ErrorPolicy,
    submitted: u64,
    attached: u64,
    /// Jobs that were under way at the beginning although the input does not ask for them.
    unwanted: Vec<JobId>,
    sum: WorkerReport,
}

/// Makes the workers of a run.
type MakeWorker<'h> = dyn FnMut() -> Result<Worker, Error> + 'h;

impl Turn {
    fn carry_out(&mut self, make_worker: &mut MakeWorker<'_>) -> Result<(), StopReason> {
        self.take_in().map_err(StopReason::Fatal)?;
        // First what has ended: it may be all, and a process that was cancelled takes no more.
        self.collect_all()?;
        let before = self
            .queue
            .process(self.process)
            .map_err(StopReason::Fatal)?;
        if before.is_some_and(|process| process.cancelled) {
            self.work(make_worker)?;
        }
        let index = self.checkpoint.by_id();
        let attached = attach::compare(&self.queue, self.process, index, true);
        let attached = attached.map_err(StopReason::Fatal)?;
        (self.attached, self.unwanted) = (attached.items, attached.unwanted);
        self.submit()?;
        self.work(make_worker)
    }

    /// Saves what was taken elsewhere and is wanted here.
    fn take_in(&mut self) -> Result<(), Error> {
        let taken = std::mem::take(&mut self.taken);
        if taken.is_empty() {
            return Ok(());
        }
        let mut chunk = Vec::new();
        let checkpoint = &mut self.checkpoint;
        let mut save = |mut lines: Vec<Line>| {
            let index = checkpoint.by_id();
            lines.retain(|line| taken::is_wanted(index, line));
            checkpoint.save(lines).map_err(|unsaved| match unsaved {
                Unsaved::Now(error) | Unsaved::Ever(error) => error,
                Unsaved::ReaderGone => Error::new(ErrorKind::Invalid, "the output takes no more"),
            })
        };
        taken::each(&taken, &mut |line| {
            chunk.push(line);
            match chunk.len() >= CHUNK {
                true => save(std::mem::take(&mut chunk)),
                false => Ok(()),
            }
        })?;
        save(chunk)?;
        self.keeper.has_taken_in()
    }

    /// Puts what nobody has in hand on the queue. None of it starts before all is there.
    fn submit(&mut self) -> Result<(), StopReason> {
        let ctx = &self.ctx;
        let jobs = self
            .checkpoint
            .unsent()
            .map(|request| match ctx.is_cancelled() {
                true => Err(Error::cancelled()),
                false => request.map(|request| Job::from(&request)),
            });
        let submitted = self.queue.try_enqueue_iter(self.process, jobs);
        self.submitted = submitted.map_err(|error| match error {
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
            if self.until_handed_over {
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
        match self.ctx.is_cancelled() {
            false => Ok(()),
            true => Err(StopReason::Cancelled),
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
            .min(plan.done + self.attached + self.submitted);
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
            .until_empty(!self.until_handed_over)
            .until_handed_over(self.until_handed_over)
            .of_many(self.on_error != ErrorPolicy::StopOnCriticalError)
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
            if let Err(error) = self.keeper.refresh() {
                log::debug!("{error}");
            }
            match self.let_go().and_then(|()| self.collect(true)) {
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
    fn let_go(&self) -> Result<(), Trouble> {
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

    /// Saves what has come back and then deletes it from the queue. While a worker runs the last result
    /// stays: without it the process would be gone, and its batches be nobody's.
    fn collect(&mut self, keep_last: bool) -> Result<(), Trouble> {
        if self.queue.peek(self.process, 1)?.is_empty() {
            return Ok(());
        }
        let _alone = self
            .queue
            .lock_results(self.process, "a run, to its output")?;
        loop {
            let mut chunk = self.queue.peek(self.process, CHUNK)?;
            if keep_last {
                let counts = self.queue.process(self.process)?.map(|now| now.counts);
                let left = counts.map_or(0, |counts| counts.total - counts.consumed);
                if chunk.len() as u64 >= left {
                    chunk.pop();
                }
            }
            if chunk.is_empty() {
                return Ok(());
            }
            let lines = chunk.iter().filter_map(line).collect();
            self.checkpoint.save(lines)?;
            let receipts: Vec<_> = chunk.iter().map(|delivery| delivery.receipt).collect();
            self.queue.ack(&receipts)?;
        }
    }
}

/// The result line of a job; none of a cancelled one, which was never sent.
fn line(delivery: &DeliveredResult) -> Option<Line> {
    let result = &delivery.result;
    (result.status != JobStatus::Cancelled).then(|| Line {
        id: result.item_id.clone().unwrap_or_default(),
        request_hash: result.request_hash.clone(),
        success: result.is_success(),
        text: result.line(),
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
