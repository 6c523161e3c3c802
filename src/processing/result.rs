//! Results of files: one by one, of a whole run, and their throughput.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::task::Stamp;
use crate::base::Error;
use crate::engine::dispatch::StopReason;
use crate::sources::FileInfo;

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

/// How a file ended: its path, the version that was read, its failure, and the number of attempts.
pub(super) type Ended = (PathBuf, Option<Stamp>, Option<Error>, u32);

impl<R> ProcessResult<R> {
    pub(super) fn ended(&self) -> Ended {
        let error = self.result.as_ref().err().cloned();
        (self.file_path.clone(), self.stamp, error, self.attempts)
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

/// Adds up the results of files.
///
/// ```
/// use std::time::Duration;
/// use batchwright::processing::StatsCollector;
/// let mut stats = StatsCollector::new();
/// stats.record(2048, Duration::from_millis(3), true);
/// assert_eq!((stats.stats().completed, stats.stats().bytes), (1, 2048));
/// ```
#[derive(Debug, Clone)]
pub struct StatsCollector {
    started: Instant,
    busy: Duration,
    /// What is counted, without what follows from it.
    counted: ProcessingStats,
}

impl Default for StatsCollector {
    fn default() -> Self {
        Self::new()
    }
}

impl StatsCollector {
    /// A collector that starts now.
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            busy: Duration::ZERO,
            counted: ProcessingStats::default(),
        }
    }

    /// Adds a file: the number of bytes read, its time, and whether it succeeded.
    pub fn record(&mut self, bytes: u64, took: Duration, success: bool) {
        let counted = &mut self.counted;
        counted.completed += u64::from(success);
        counted.failed += u64::from(!success);
        counted.bytes = counted.bytes.saturating_add(bytes);
        counted.longest_time = counted.longest_time.max(took);
        self.busy = self.busy.saturating_add(took);
    }

    /// The numbers up to now.
    pub fn stats(&self) -> ProcessingStats {
        self.after(self.started.elapsed())
    }

    fn after(&self, elapsed: Duration) -> ProcessingStats {
        let counted = self.counted.clone();
        let files = (counted.completed + counted.failed) as f64;
        let seconds = elapsed.as_secs_f64().max(1e-9);
        ProcessingStats {
            elapsed,
            files_per_second: files / seconds,
            bytes_per_second: counted.bytes as f64 / seconds,
            success_rate: (files > 0.0).then(|| counted.completed as f64 / files),
            mean_time: self.busy.div_f64(files.max(1.0)),
            ..counted
        }
    }
}

/// The numbers of a [`StatsCollector`].
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ProcessingStats {
    /// Files that succeeded.
    pub completed: u64,
    /// Files that failed.
    pub failed: u64,
    /// Files that an earlier run has finished, according to the checkpoint.
    pub skipped: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Time from the start until now, or to the end.
    pub elapsed: Duration,
    /// Files per second of that time.
    pub files_per_second: f64,
    /// Bytes per second of that time.
    pub bytes_per_second: f64,
    /// Successful part of the files, 0 to 1; `None` without files.
    pub success_rate: Option<f64>,
    /// Average time of a file on its thread.
    pub mean_time: Duration,
    /// Longest time of a file.
    pub longest_time: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throughput_success_and_bytes_include_all_files() {
        let mut stats = StatsCollector::new();
        assert_eq!(stats.after(Duration::ZERO), ProcessingStats::default());
        stats.record(3000, Duration::from_millis(10), true);
        stats.record(1000, Duration::from_millis(30), true);
        stats.record(0, Duration::from_millis(20), false);
        let expected = ProcessingStats {
            completed: 2,
            failed: 1,
            skipped: 0,
            bytes: 4000,
            elapsed: Duration::from_secs(2),
            files_per_second: 1.5,
            bytes_per_second: 2000.0,
            success_rate: Some(2.0 / 3.0),
            mean_time: Duration::from_millis(20),
            longest_time: Duration::from_millis(30),
        };
        assert_eq!(stats.after(expected.elapsed), expected);
    }
}
