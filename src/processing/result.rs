//! What becomes of files.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::error::Error;
use crate::engine::dispatch::StopReason;
use crate::sources::FileInfo;

use super::stats::ProcessingStats;
use super::task::Stamp;

/// What became of a file.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProcessResult<R> {
    /// Its place among the files, from 0.
    pub index: u64,
    /// Where it is.
    pub file_path: PathBuf,
    /// What it is called.
    pub source_id: String,
    /// Bytes that were read of it.
    pub size: u64,
    /// How long it took on its thread, all attempts together, without the waits between them.
    pub took: Duration,
    /// How often it was tried; 0 if the run ended before.
    pub attempts: u32,
    /// What the function made of it, or why there is nothing.
    /// [`NotFound`](crate::ErrorKind::NotFound) and [`Changed`](crate::ErrorKind::Changed) are files that
    /// are no longer what was found, [`Panic`](crate::ErrorKind::Panic) is the function's.
    pub result: Result<R, Error>,
    /// As what it was read.
    pub(super) stamp: Option<Stamp>,
}

impl<R> ProcessResult<R> {
    /// The same without what was made of it.
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

    /// The same with something else made of it.
    pub(super) fn with<S>(self, result: Result<S, Error>) -> ProcessResult<S> {
        ProcessResult {
            index: self.index,
            file_path: self.file_path,
            source_id: self.source_id,
            size: self.size,
            took: self.took,
            attempts: self.attempts,
            result,
            stamp: self.stamp,
        }
    }
}

/// Receives results as they come; breaking ends the run.
pub(super) type Sink<'s, R> = &'s mut dyn FnMut(ProcessResult<R>) -> ControlFlow<()>;

/// How the processing of files ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProcessingEnd {
    /// What was done, in numbers.
    pub stats: ProcessingStats,
    /// Why it ended before all were done.
    pub stop: Option<StopReason>,
}

/// What became of a list of files.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BatchResult<R> {
    /// One for each file, in their order. With a checkpoint, none for what earlier runs have done.
    pub results: Vec<ProcessResult<R>>,
    /// Of a folder, what is left out, with the reasons.
    pub left_out: Vec<FileInfo>,
    /// All results in numbers.
    pub stats: ProcessingStats,
    /// Why it ended before all were done; then the rest is [`Cancelled`](crate::ErrorKind::Cancelled), as far as
    /// it was listed by then.
    pub stop: Option<StopReason>,
}

impl<R> BatchResult<R> {
    pub(super) fn new(results: Vec<ProcessResult<R>>, end: ProcessingEnd) -> Self {
        Self {
            results,
            left_out: Vec::new(),
            stats: end.stats,
            stop: end.stop,
        }
    }

    /// Keeps what `run` hands to its sink, in the order of the files.
    pub(super) fn collect(run: impl FnOnce(Sink<'_, R>) -> ProcessingEnd) -> Self {
        let mut results = Vec::new();
        let end = run(&mut |result| {
            results.push(result);
            ControlFlow::Continue(())
        });
        results.sort_by_key(|result| result.index);
        Self::new(results, end)
    }

    /// Those that succeeded.
    pub fn successes(&self) -> impl Iterator<Item = (&ProcessResult<R>, &R)> {
        let results = self.results.iter();
        results.filter_map(|one| Some((one, one.result.as_ref().ok()?)))
    }

    /// Those that failed.
    pub fn failures(&self) -> impl Iterator<Item = (&ProcessResult<R>, &Error)> {
        let results = self.results.iter();
        results.filter_map(|one| Some((one, one.result.as_ref().err()?)))
    }
}
