//! Tasks on the pool: read, processed, and passed to the sink, or to a stream in the background.

use std::collections::BTreeMap;
use std::iter::{FusedIterator, from_fn};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::config::{ParallelConfig, ProcessingConfig};
use super::recovery::ErrorRecovery;
use super::result::{
    BatchResult, Ended, ProcessResult, ProcessingEnd, ProcessingStats, Sink, StatsCollector,
};
use super::task::{ProcessTask, SourceFile, Stamp};
use crate::base::thread::Background;
use crate::base::{Context, Error, ErrorKind, MemoryManager};
use crate::engine::dispatch::StopReason;
use crate::engine::route::RetryPolicy;
use crate::engine::run::panicked;
use crate::observe::drive::RunOptions;
use crate::pool::{Pool, PoolEnd, TaskEnd};

/// Runs tasks on the threads of one pool, with the memory limit, retries and error policy that [`ProcessingConfig`] has by
/// default; a [`BatchProcessor`](super::BatchProcessor) has settings for them.
///
/// ```
/// use batchwright::processing::{ParallelConfig, ParallelExecutor, ProcessTask};
/// # let place = tempfile::tempdir().unwrap();
/// # let path = place.path().join("a.txt");
/// # std::fs::write(&path, "text").unwrap();
/// let executor = ParallelExecutor::new(ParallelConfig::new().max_workers(2));
/// let tasks = vec![ProcessTask::new(&path), ProcessTask::new("/nowhere")];
/// let batch = executor.execute_batch(tasks, |file| Ok(file.bytes().len()));
/// assert_eq!(*batch.results[0].result.as_ref().unwrap(), 4);
/// assert!(batch.results[1].result.is_err());
/// ```
#[derive(Clone, derive_more::Debug)]
pub struct ParallelExecutor {
    config: ParallelConfig,
    pub(super) memory: MemoryManager,
    #[debug(skip)]
    pub(super) retry: RetryPolicy,
    #[debug(skip)]
    pub(super) options: RunOptions<'static>,
}

/// A task in progress, with the state of its file at the first check.
struct Queued {
    task: ProcessTask,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    stamp: Option<Stamp>,
    bytes: u64,
    took: Duration,
}

impl ParallelExecutor {
    /// An executor with this number of workers.
    pub fn new(config: ParallelConfig) -> Self {
        let processing = ProcessingConfig::default();
        Self {
            options: RunOptions::new(config.max_workers),
            config,
            memory: MemoryManager::new(processing.max_memory),
            retry: processing.retry,
        }
    }

    /// Runs all tasks and returns one result for each, in their order.
    pub fn execute_batch<R: Send>(
        &self,
        tasks: Vec<ProcessTask>,
        function: impl Fn(&SourceFile<'_>) -> Result<R, Error> + Sync,
    ) -> BatchResult<R> {
        BatchResult::collect(|sink| self.execute(tasks.into_iter(), function, sink))
    }

    /// Runs tasks in the background while results are taken. The list of tasks may be endless: at most
    /// [`ParallelConfig::chunk_size`] tasks are in progress.
    pub fn execute_streaming<R: Send + 'static>(
        &self,
        tasks: impl Iterator<Item = ProcessTask> + Send + 'static,
        function: impl Fn(&SourceFile<'_>) -> Result<R, Error> + Send + Sync + 'static,
    ) -> ProcessStream<R> {
        self.stream(tasks, function, None)
    }

    /// The same, with records of the results that were taken.
    pub(super) fn stream<R: Send + 'static>(
        &self,
        tasks: impl Iterator<Item = ProcessTask> + Send + 'static,
        function: impl Fn(&SourceFile<'_>) -> Result<R, Error> + Send + Sync + 'static,
        notes: Option<Notes>,
    ) -> ProcessStream<R> {
        // Dropping the stream must end only this run, not other work of the caller's context.
        let mut own = self.clone();
        own.options.ctx = own.options.ctx.child();
        let ctx = own.options.ctx.clone();
        ProcessStream::spawn(ctx, notes, move |sink| {
            let (enter, leave) = own.places();
            let source = source(tasks, enter);
            let call = |queued: &Queued, _: u32, ctx: &Context| own.call(queued, &function, ctx);
            own.run(leave, sink, |pool, sink| {
                pool.run_detached(source, call, sink)
            })
        })
    }

    /// Runs tasks and passes each result to `sink` on this thread, in the configured order.
    pub(super) fn execute<R: Send>(
        &self,
        tasks: impl Iterator<Item = ProcessTask> + Send,
        function: impl Fn(&SourceFile<'_>) -> Result<R, Error> + Sync,
        sink: impl FnMut(ProcessResult<R>) -> ControlFlow<()>,
    ) -> ProcessingEnd {
        let (low, high) = tasks.size_hint();
        let total = (Some(low) == high).then_some(low as u64);
        let (enter, leave) = self.places();
        let source = source(tasks, enter);
        let call = |queued: &Queued, _: u32, ctx: &Context| self.call(queued, &function, ctx);
        self.run(leave, sink, |pool, sink| {
            pool.total(total).run(source, call, sink)
        })
    }

    /// The places of the files in progress: the reader of the list waits until one is free.
    fn places(&self) -> (Sender<()>, Receiver<()>) {
        bounded(self.config.chunk_size.max(self.config.max_workers))
    }

    fn run<R>(
        &self,
        leave: Receiver<()>,
        mut sink: impl FnMut(ProcessResult<R>) -> ControlFlow<()>,
        go: impl FnOnce(Pool<'_>, &mut dyn FnMut(TaskEnd<Queued, R>) -> ControlFlow<()>) -> PoolEnd,
    ) -> ProcessingEnd {
        // Waking the reader for every single file would take longer than many files do.
        let spare = leave.capacity().unwrap_or(1) - self.config.max_workers;
        let (at_once, mut passed_on) = ((spare / 2).max(1), 0);
        let leave = Mutex::new(Some(leave));
        let close = || drop(leave.lock().take());
        let pool = Pool::with(self.options.clone())
            .on_end(&close)
            .retry(self.retry);
        let mut stats = StatsCollector::new();
        let mut early = BTreeMap::new();
        let mut next = 0;
        let mut hand_out = |end| {
            // Without the places the source ends, also if the sink panics.
            let places = leave.lock().take();
            let result = ended(end);
            if result.attempts > 0 {
                stats.record(result.size, result.took, result.result.is_ok());
            }
            early.insert(result.index, result);
            while let Some(first) = early.first_entry()
                && (!self.config.keep_order || *first.key() == next)
            {
                let result = first.remove();
                next += 1;
                passed_on += 1;
                if passed_on >= at_once {
                    let free = places.iter().flat_map(Receiver::try_iter);
                    passed_on -= free.take(passed_on).count();
                }
                if sink(result).is_break() {
                    return ControlFlow::Break(());
                }
            }
            *leave.lock() = places;
            ControlFlow::Continue(())
        };
        let stop = go(pool, &mut hand_out).stop;
        (stats.stats(), stop)
    }

    fn call<R>(
        &self,
        queued: &Queued,
        function: &impl Fn(&SourceFile<'_>) -> Result<R, Error>,
        ctx: &Context,
    ) -> Result<R, Error> {
        let task = &queued.task;
        let stamp = task.look()?;
        let mut room = self.memory.wait_for_memory(stamp.size, ctx)?;
        let started = Instant::now();
        let read = task.read(stamp);
        room.filled();
        let bytes = read.as_ref().map_or(0, Vec::len) as u64;
        let result = read.and_then(|bytes| {
            let file = SourceFile { task, bytes };
            catch_unwind(AssertUnwindSafe(|| function(&file)))
                .unwrap_or_else(|panic| Err(panicked("the function that processes it", panic)))
        });
        let mut seen = queued.seen.lock();
        seen.stamp = Some(stamp);
        seen.bytes = bytes;
        seen.took += started.elapsed();
        result
    }
}

/// The tasks, each when it has a place.
fn source(
    mut tasks: impl Iterator<Item = ProcessTask>,
    enter: Sender<()>,
) -> impl Iterator<Item = Result<Queued, Error>> {
    from_fn(move || {
        enter.send(()).ok()?;
        let task = tasks.next()?;
        let seen = Mutex::default();
        Some(Ok(Queued { task, seen }))
    })
}

/// The result of a task, which is also logged.
fn ended<R>(end: TaskEnd<Queued, R>) -> ProcessResult<R> {
    let Queued { task, seen } = end.task;
    let Seen { stamp, bytes, took } = seen.into_inner();
    let kind = end.result.as_ref().err().map(Error::kind);
    let (path, outcome) = (&task.file_path, kind.map_or("done", ErrorKind::as_str));
    log::debug!("{path:?}: {bytes} bytes in {took:.1?}, {outcome}");
    ProcessResult {
        index: end.index,
        file_path: task.file_path,
        source_id: task.source_id,
        size: bytes,
        took,
        attempts: end.attempts,
        result: end.result,
        stamp,
    }
}

/// Results of files, see [`process_files_streaming`](super::BatchProcessor::process_files_streaming). Dropping it
/// cancels the run and waits for its threads, which finish the files in progress. Only a thread that is blocked in
/// the `next()` of the files may be left behind.
pub struct ProcessStream<R> {
    run: Background<ProcessResult<R>, ProcessingEnd>,
    /// Dropped after the run.
    notes: Option<Notes>,
    /// The result that was returned last. When the next one is requested, it has been dealt with.
    last: Option<Ended>,
}

pub(super) struct Notes {
    /// Records the results that were taken.
    pub recovery: ErrorRecovery,
    /// Number of files that were skipped because they are done.
    pub passed: Arc<AtomicU64>,
}

impl<R: Send + 'static> ProcessStream<R> {
    pub(super) fn spawn(
        ctx: Context,
        notes: Option<Notes>,
        run: impl FnOnce(Sink<'_, R>) -> ProcessingEnd + Send + 'static,
    ) -> Self {
        let run = Background::start("batchwright-files", ctx, 1, move |tx| {
            run(&mut |result| match tx.send(result) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            })
        });
        Self {
            run,
            notes,
            last: None,
        }
    }

    /// Waits for the end and returns the results that were not taken yet.
    pub fn finish(mut self) -> BatchResult<R> {
        let results = self.by_ref().collect();
        let mut end = self.run.join().unwrap_or_else(|| {
            let why = "the run's thread could not be started".to_owned();
            (ProcessingStats::default(), Some(StopReason::Misuse(why)))
        });
        if let Some(notes) = &self.notes {
            end.0.skipped = notes.passed.load(Ordering::Relaxed);
            if let Err(error) = notes.recovery.save_checkpoint() {
                log::warn!("{error}");
            }
        }
        BatchResult::new(results, end)
    }
}

impl<R> Iterator for ProcessStream<R> {
    type Item = ProcessResult<R>;

    fn next(&mut self) -> Option<ProcessResult<R>> {
        if let (Some(notes), Some(last)) = (&self.notes, self.last.take()) {
            notes.recovery.note(last);
        }
        let result = self.run.next()?;
        if self.notes.is_some() {
            self.last = Some(result.ended());
        }
        Some(result)
    }
}

impl<R> FusedIterator for ProcessStream<R> {}
