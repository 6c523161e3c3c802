//! Processes lists, streams and folders of files.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::config::{ParallelConfig, ProcessingConfig};
use super::executor::{Notes, ParallelExecutor, ProcessStream};
use super::recovery::ErrorRecovery;
use super::result::{BatchResult, ProcessResult};
use super::task::{ProcessTask, SourceFile};
use crate::base::{Context, Error, MemoryManager};
use crate::observe::progress::ProgressNotifier;
use crate::sources::{FileScanner, shown_path};

/// Processes files with a function, on all cores.
///
/// The function receives a [`SourceFile`] and returns its result. It may be called again for a file after an error
/// of kind [`Transient`](crate::ErrorKind::Transient), including its own. If it panics, the file fails.
///
/// With a [checkpoint](ProcessingConfig::checkpoint), files that an earlier run has finished are skipped unless
/// they have changed since. A file counts as done when the function has returned, or in a stream, when the next
/// result is requested. So the function should have saved by then what must survive a crash.
#[derive(derive_more::Debug)]
pub struct BatchProcessor {
    config: ProcessingConfig,
    executor: ParallelExecutor,
    #[debug(skip)]
    recovery: Mutex<Option<ErrorRecovery>>,
}

impl Default for BatchProcessor {
    fn default() -> Self {
        Self::new(ProcessingConfig::default(), ParallelConfig::default())
    }
}

impl BatchProcessor {
    /// A processor with these settings.
    pub fn new(config: ProcessingConfig, parallel: ParallelConfig) -> Self {
        let mut executor = ParallelExecutor::new(parallel);
        executor.memory = MemoryManager::new(config.max_memory);
        executor.retry = config.retry;
        executor.options.on_error = config.on_error;
        Self {
            config,
            executor,
            recovery: Mutex::default(),
        }
    }

    /// Cancellation, deadline and grace period. Default: a context that is never cancelled.
    pub fn context(mut self, ctx: &Context) -> Self {
        self.executor.options.ctx = ctx.clone();
        self
    }

    /// Receives the progress. Default: no notifier.
    pub fn notifier(mut self, notifier: Arc<dyn ProgressNotifier>) -> Self {
        self.executor.options.notifier = Some(notifier);
        self
    }

    /// The failed files, and with a checkpoint the finished ones. Opens the checkpoint if it is not open yet. A stream
    /// without a checkpoint records nothing there, because it may be endless.
    ///
    /// # Errors
    /// As [`ErrorRecovery::resume_from_checkpoint`].
    pub fn recovery(&self) -> Result<ErrorRecovery, Error> {
        let mut recovery = self.recovery.lock();
        if let Some(open) = &*recovery {
            return Ok(open.clone());
        }
        let opened = match &self.config.checkpoint {
            Some(path) => ErrorRecovery::resume_from_checkpoint(path)?,
            None => ErrorRecovery::new(),
        };
        Ok(recovery.insert(opened).clone())
    }

    /// Processes a list of files: paths, or entries that a [`FileScanner`] found. All results are in memory at the end.
    ///
    /// # Errors
    /// If the checkpoint cannot be used. Failures of files are in the results.
    pub fn process_files<T, R>(
        &self,
        files: impl IntoIterator<Item = T, IntoIter: Send>,
        function: impl Fn(&SourceFile<'_>) -> Result<R, Error> + Sync,
    ) -> Result<BatchResult<R>, Error>
    where
        T: Into<ProcessTask>,
        R: Send,
    {
        let recovery = self.recovery()?;
        let tasks = self.tasks(files.into_iter());
        let passed = AtomicU64::new(0);
        let mut batch = BatchResult::collect(|sink| {
            let note = |result: ProcessResult<R>| {
                recovery.note(result.ended());
                sink(result)
            };
            let known = self.config.checkpoint.is_some().then(|| recovery.clone());
            let tasks = unfinished(tasks, known, &passed);
            self.executor.execute(tasks, function, note)
        });
        batch.stats.skipped = passed.into_inner();
        recovery.save_checkpoint()?;
        Ok(batch)
    }

    fn tasks<T: Into<ProcessTask>, I: Iterator<Item = T>>(
        &self,
        files: I,
    ) -> impl Iterator<Item = ProcessTask> + use<T, I> {
        let most = self.config.max_file_size;
        files.map(move |file| {
            let mut task = file.into();
            task.max_file_size = task.max_file_size.min(most);
            task
        })
    }

    /// Processes files while their results are taken. The list of files may be endless: at most
    /// [`ParallelConfig::chunk_size`] files are in progress. Dropping the stream ends it.
    ///
    /// ```
    /// use batchwright::processing::BatchProcessor;
    /// # let place = tempfile::tempdir().unwrap();
    /// # let path = place.path().join("a.txt");
    /// # std::fs::write(&path, "text").unwrap();
    /// let for_ever = std::iter::repeat(path);
    /// let stream = BatchProcessor::default()
    ///     .process_files_streaming(for_ever, |file| Ok(file.bytes().len()))?;
    /// assert_eq!(stream.take(100).filter_map(|file| file.result.ok()).sum::<usize>(), 400);
    /// # Ok::<(), batchwright::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the checkpoint cannot be used.
    pub fn process_files_streaming<T, R>(
        &self,
        files: impl IntoIterator<Item = T, IntoIter: Send + 'static>,
        function: impl Fn(&SourceFile<'_>) -> Result<R, Error> + Send + Sync + 'static,
    ) -> Result<ProcessStream<R>, Error>
    where
        T: Into<ProcessTask> + 'static,
        R: Send + 'static,
    {
        let tasks = self.tasks(files.into_iter());
        if self.config.checkpoint.is_none() {
            return Ok(self.executor.execute_streaming(tasks, function));
        }
        let recovery = self.recovery()?;
        let passed = Arc::new(AtomicU64::new(0));
        let tasks = unfinished(tasks, Some(recovery.clone()), passed.clone());
        let notes = Some(Notes { recovery, passed });
        Ok(self.executor.stream(tasks, function, notes))
    }

    /// Processes the files of a folder that match the [pattern](ProcessingConfig::pattern), in the order of their
    /// paths. Hidden and ignored files are not considered, as in a [`FileScanner`]; files that cannot be used are in
    /// [`BatchResult::left_out`]. The results have the paths below the folder as their names.
    ///
    /// # Errors
    /// If the folder does not exist, the pattern is invalid, or the checkpoint cannot be used.
    pub fn process_directory<R: Send>(
        &self,
        folder: impl AsRef<Path>,
        function: impl Fn(&SourceFile<'_>) -> Result<R, Error> + Sync,
    ) -> Result<BatchResult<R>, Error> {
        let folder = folder.as_ref();
        let scanner = FileScanner::new()
            .pattern(&self.config.pattern)
            .max_file_size(self.config.max_file_size)
            // Each file is read only once, when it is processed.
            .check_contents(false);
        let found = scanner.scan_directory(folder, &self.executor.options.ctx)?;
        let (files, left_out): (Vec<_>, _) = found.into_iter().partition(|file| file.is_valid);
        let tasks = files.iter().map(|file| {
            let below = file.path.strip_prefix(folder).unwrap_or(&file.path);
            ProcessTask::from(file).with_source_id(shown_path(below))
        });
        let mut batch = self.process_files(tasks, function)?;
        batch.left_out = left_out;
        Ok(batch)
    }

    /// Processes the failed files again.
    ///
    /// # Errors
    /// If the checkpoint cannot be used.
    pub fn retry_failed<R: Send>(
        &self,
        function: impl Fn(&SourceFile<'_>) -> Result<R, Error> + Sync,
    ) -> Result<BatchResult<R>, Error> {
        let failed = self.recovery()?.retry_failed();
        self.process_files(failed, function)
    }
}

/// The files that are not in the checkpoint, if there is one, in their present version.
fn unfinished<I: Iterator<Item = ProcessTask>>(
    mut tasks: I,
    known: Option<ErrorRecovery>,
    passed: impl std::ops::Deref<Target = AtomicU64>,
) -> impl Iterator<Item = ProcessTask> {
    std::iter::from_fn(move || {
        tasks.by_ref().find(|task| {
            let is_done = |known: &ErrorRecovery| {
                let stamp = task.expected.map_or_else(|| task.look(), Ok);
                stamp.is_ok_and(|stamp| known.knows(&task.file_path, stamp))
            };
            let done = known.as_ref().is_some_and(is_done);
            passed.fetch_add(done.into(), Ordering::Relaxed);
            !done
        })
    })
}
