//! The results of files.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::Error;
use crate::engine::dispatch::StopReason;
use crate::sources::FileInfo;

use super::stats::ProcessingStats;
use super::task::Stamp;

/// The result of one file.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProcessResult<R> {
    /// Its position among the files, from 0.
    pub index: u64,
    /// Its path.
    pub file_path: PathBuf,
    /// Its name in results.
    pub source_id: String,
    /// Number of bytes that were read.
    pub size: u64,
    /// Time on its thread for all attempts together, without the waits between them.
    pub took: Duration,
    /// Number of attempts; 0 if the run ended before the first.
    pub attempts: u32,
    /// The result of the function, or the reason for a failure. [`NotFound`](crate::ErrorKind::NotFound) and
    /// [`Changed`](crate::ErrorKind::Changed) mean that the file is no longer the one that was found;
    /// [`Panic`](crate::ErrorKind::Panic) means that the function panicked.
    pub result: Result<R, Error>,
    /// The version that was read.
    pub(super) stamp: Option<Stamp>,
}

impl<R> ProcessResult<R> {
    /// The same without the result of the function.
    pub(super) fn outline(&self) -> ProcessResult<()> {
        let result = self.result.as_ref().map(|_| ()).map_err(Error::clone);
        ProcessResult {
            index: self.index,
            file_path: self.file_path.clone(),
            source_id: String::new(),
            size: self.size,
            took: self.took,
            attempts: self.attempts,
            result,
            stamp: self.stamp,
        }
    }
}

/// Receives results as they arrive; returning `Break` ends the run.
pub(super) type Sink<'s, R> = &'s mut dyn FnMut(ProcessResult<R>) -> ControlFlow<()>;

/// The numbers of a run, and the reason if it ended before all files were done.
pub(super) type ProcessingEnd = (ProcessingStats, Option<StopReason>);

/// The results of a list of files.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BatchResult<R> {
    /// One result per file, in their order, except for files that earlier runs have finished according to the
    /// checkpoint.
    pub results: Vec<ProcessResult<R>>,
    /// For a folder, the skipped files with the reasons.
    pub left_out: Vec<FileInfo>,
    /// The numbers of all results.
    pub stats: ProcessingStats,
    /// The reason if it ended before all files were done; then the other files that were already listed are
    /// [`Cancelled`](crate::ErrorKind::Cancelled).
    pub stop: Option<StopReason>,
}

impl<R> BatchResult<R> {
    pub(super) fn new(results: Vec<ProcessResult<R>>, (stats, stop): ProcessingEnd) -> Self {
        Self {
            results,
            left_out: Vec::new(),
            stats,
            stop,
        }
    }

    /// Collects the results that `run` passes to its sink, in the order of the files.
    pub(super) fn collect(run: impl FnOnce(Sink<'_, R>) -> ProcessingEnd) -> Self {
        let mut results = Vec::new();
        let end = run(&mut |result| {
            results.push(result);
            ControlFlow::Continue(())
        });
        results.sort_by_key(|result| result.index);
        Self::new(results, end)
    }

    /// The successful files.
    pub fn successes(&self) -> impl Iterator<Item = (&ProcessResult<R>, &R)> {
        let results = self.results.iter();
        results.filter_map(|one| Some((one, one.result.as_ref().ok()?)))
    }

    /// The failed files.
    pub fn failures(&self) -> impl Iterator<Item = (&ProcessResult<R>, &Error)> {
        let results = self.results.iter();
        results.filter_map(|one| Some((one, one.result.as_ref().err()?)))
    }
}
