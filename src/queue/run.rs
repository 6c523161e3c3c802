//! A run from prompts to result lines through a queue, which outlives the program.

use std::path::PathBuf;
use std::sync::Arc;

use crate::base::disk::resolved;
use crate::base::{Context, Error, ErrorKind, ProcessId};
use crate::bulk::checkpoint::Checkpoint;
use crate::bulk::file::FileRun;
use crate::bulk::options::{FileRunError, FileRunOptions, RunOutput, RunReport};
use crate::bulk::prompts::Prompts;
use crate::engine::budget::Budget;
use crate::engine::dispatch::Counters;
use crate::engine::dispatch::{ErrorPolicy, StopReason};
use crate::observe::progress::{Progress, ProgressNotifier};
use crate::queue::batch::BatchInfo;
use crate::queue::host::JobQueue;
use crate::queue::info::ProcessInfo;
use crate::queue::job::{JobCounts, ProcessState};
use crate::queue::store::sqlite::SqliteOptions;
use crate::queue::worker::Worker;

mod execution;
#[cfg(test)]
mod lost_tests;
mod store;

use derive_setters::Setters;
use execution::{Attached, Execution, compare};
use store::{OpenStore, refuse_another_output, refuse_moved_store};

/// A run from a file of prompts to result lines, whose items wait in a [`JobQueue`], such as those that
/// are handed over to a provider in batches. The same run attaches to them again after it was stopped or
/// killed, by id and fingerprint: what is under way is not sent again, however long ago that was.
///
/// As with [`FileRun`], the output is the checkpoint. Results leave the queue once they are in it. The run owns its
/// queue, a store beside the output at [`store_path`](crate::files::store_path). It makes the store if it is missing, and
/// removes it when nothing is left of the run: to move or copy a run, move or copy both files.
#[derive(Setters)]
#[setters(generate = false, strip_option)]
pub struct QueueRun {
    /// Closed before the lock of the output is given back.
    store: OpenStore,
    run: FileRun<'static>,
    ctx: Context,
    /// Receives the progress. Default: no notifier.
    #[setters(generate)]
    notifier: Option<Arc<dyn ProgressNotifier>>,
    /// Ends when all is handed over; the same run collects the results later. Default: it waits for them.
    #[setters(generate)]
    until_submitted: bool,
    /// With [`ErrorPolicy::StopOnCriticalError`] a worker that stops for critical errors also does when no
    /// model has the name, or when the first replies to calls are alike and no answers. With another
    /// policy these fail their items alone. Default: `StopOnCriticalError`.
    #[setters(generate)]
    on_error: ErrorPolicy,
    /// The description of its process, which is kept as long as the process. Default: its earlier description.
    #[setters(rename = "described", generate)]
    info: Option<ProcessInfo>,
    budget: Option<Budget>,
    /// The output, where a later run can come back to it.
    output: PathBuf,
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
    /// Answers to requests that changed while they were under way. They were paid for: as superseded ones they go to
    /// `OUTPUT.superseded.jsonl`.
    pub superseded: u64,
    /// Batches that were created at a provider.
    pub created: u64,
    /// Batches that are left: at their provider, or held.
    pub batches: Vec<BatchInfo>,
    /// Where the process stands; `None` when nothing of it is left.
    pub left: Option<ProcessState>,
}

impl QueueRun {
    /// Opens the output and compares it, and what is in the store, with the prompts. Nothing is changed yet; but a store of the run's own is made, which goes when this is dropped.
    ///
    /// # Errors
    /// When the output cannot be written, belongs to another run or to another store, or is no results file; when the
    /// store cannot be used.
    pub fn prepare(
        prompts: Prompts,
        output: RunOutput,
        options: FileRunOptions,
        sqlite: &SqliteOptions,
    ) -> Result<Self, FileRunError> {
        let usage = |why: &str| FileRunError::Usage(Error::new(ErrorKind::Invalid, why));
        let Some(path) = output.regular_file().map(ToOwned::to_owned) else {
            return Err(usage("nothing can lie beside an output that is not a file"));
        };
        // What is saved is deleted from the queue: after a power loss it must not be in neither.
        // Each of its jobs is a prompt of its own.
        let options = options.fsync(true).dedupe(false);
        let (mut attached, mut known, mut opened) = (Attached::default(), None, None);
        // The output is locked by now: an earlier run has ended.
        let prepared = FileRun::prepare_comparing(prompts, output, options, &mut |index| {
            let store = OpenStore::open(sqlite, &path, &options)?;
            attached = compare(store.queue(), store.process(), index, false)?;
            known = store.queue().process(store.process())?;
            opened = Some(store);
            Ok(())
        });
        let (mut run, store) = match (prepared, opened) {
            (Ok(run), Some(store)) => (run, store),
            (Ok(_), None) => return Err(usage("the input was not compared with the queue")),
            (Err(error), store) => {
                store.into_iter().for_each(OpenStore::leave);
                return Err(error);
            }
        };
        refuse_moved_store(&path, known.as_ref()).map_err(FileRunError::Usage)?;
        refuse_another_output(&path, &run, known.as_ref()).map_err(FileRunError::Usage)?;
        run.set_to_collect(attached.ended);
        run.add_differing(attached.differing);
        run.refuse_taken()?;
        Ok(Self {
            store,
            run,
            ctx: Context::new(),
            notifier: None,
            until_submitted: false,
            on_error: ErrorPolicy::StopOnCriticalError,
            info: None,
            budget: None,
            output: path,
        })
    }

    /// The queue that its items wait in.
    pub fn queue(&self) -> &JobQueue {
        self.store.queue()
    }

    /// The process of its items on that queue.
    pub fn process(&self) -> ProcessId {
        self.store.process()
    }

    /// The input compared with the output: [what is to be done](FileRun::plan), and which requests are to be sent.
    pub fn compared(&self) -> &FileRun<'static> {
        &self.run
    }

    /// Cancellation and grace. What is at a provider then stays there. Default: a context that nobody
    /// cancels.
    pub fn context(mut self, ctx: &Context) -> Self {
        self.ctx = ctx.clone();
        self
    }

    /// Limits what its process may cost, with what was spent on the output before. The queue counts what is spent, and this
    /// budget, with its [record](Budget::recorded_in), takes that over. Default: no limit, or the one that the process has.
    pub fn budget(mut self, budget: &Budget) -> Self {
        self.budget = Some(budget.clone());
        self
    }

    /// Puts what is new on the queue and has it carried out by workers of this making on that queue, which are told
    /// which process is theirs, and when to end. Others may take part.
    ///
    /// # Errors
    /// Only when the run could not begin; how it ended is in the report.
    pub fn run(
        self,
        mut worker: impl FnMut(&JobQueue) -> Result<Worker, Error>,
    ) -> Result<QueueRunReport, Error> {
        let (store, output) = (self.store, self.output);
        let (queue, process) = (store.queue(), store.process());
        // The description of its process, if that is there already, becomes what this run has.
        let known = queue.process(process)?.map(|known| known.info);
        let note = known.as_ref().and_then(|known| known.note.clone());
        let mut info = self.info.or(known).unwrap_or_default();
        let whole = resolved(&output, 0).unwrap_or(output);
        (info.output, info.note) = (Some(whole.to_string_lossy().into_owned()), note);
        queue.describe(process, &info)?;
        let checkpoint = match Checkpoint::open(self.run) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                store.leave();
                return Err(error);
            }
        };
        let mut execution = Execution {
            checkpoint,
            queue: queue.clone(),
            info,
            process,
            ctx: self.ctx,
            notifier: self.notifier,
            until_submitted: self.until_submitted,
            on_error: self.on_error,
            budget: self.budget,
            attached: 0,
            submitted: 0,
            unwanted: Vec::new(),
            counters: Counters::default(),
            created: 0,
            unsaved: Vec::new(),
        };
        let stop = execution.carry_out(&mut || worker(store.queue())).err();
        Ok(Self::end(execution, store, stop))
    }

    /// Closes the store and the output, and reports what became of the run.
    fn end(
        mut execution: Execution,
        store: OpenStore,
        mut stop: Option<StopReason>,
    ) -> QueueRunReport {
        let left = execution.queue.process(execution.process);
        let is_over = matches!(left, Ok(None));
        // What stopped it came too late to stop anything.
        if is_over
            && matches!(stop, Some(StopReason::Cancelled))
            && execution.checkpoint.is_settled()
        {
            stop = None;
        }
        let batches = execution.queue.batches(Some(execution.process));
        // Not before what could not be recorded is in the report.
        let failed = left.as_ref().err().or(batches.as_ref().err());
        stop = stop.or_else(|| failed.cloned().map(StopReason::Fatal));
        let counters = execution.counters;
        let under_way = match &left {
            Ok(Some(process)) => process.counts,
            _ => JobCounts::default(),
        };
        let progress = Progress {
            process_id: Some(execution.process),
            in_flight: under_way.in_progress,
            at_provider: under_way.at_provider,
            ..execution.checkpoint.finished(&counters)
        };
        let foreign = execution.checkpoint.foreign;
        let superseded = execution.checkpoint.superseded;
        let (mut report, locked) = execution.checkpoint.finish(stop, counters);
        // The next run of the output begins after this, and its store is not removed.
        drop(execution.queue);
        // Another run may have an output in the place of one that was moved away.
        if matches!(report.stop, Some(StopReason::OutputLost(_))) {
            store.leave();
        } else {
            drop(store);
        }
        drop(locked);
        if let Some(notifier) = &execution.notifier {
            notifier.on_progress(&progress);
        }
        let unsaved = execution.unsaved.into_iter();
        report.unsaved = unsaved.map(|line| (line + "\n").into_bytes()).collect();
        QueueRunReport {
            report,
            submitted: execution.submitted,
            attached: execution.attached,
            foreign,
            superseded,
            created: execution.created,
            batches: batches.unwrap_or_default(),
            left: left.unwrap_or_default(),
        }
    }
}
