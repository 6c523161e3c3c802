//! Throughput, success rate and bytes of processed files.

use std::time::{Duration, Instant};

use serde::Serialize;

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
    completed: u64,
    failed: u64,
    bytes: u64,
    busy: Duration,
    longest: Duration,
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
            completed: 0,
            failed: 0,
            bytes: 0,
            busy: Duration::ZERO,
            longest: Duration::ZERO,
        }
    }

    /// Adds a file: the number of bytes read, its time, and whether it succeeded.
    pub fn record(&mut self, bytes: u64, took: Duration, success: bool) {
        if success {
            self.completed += 1
        } else {
            self.failed += 1
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.busy = self.busy.saturating_add(took);
        self.longest = self.longest.max(took);
    }

    /// The numbers up to now.
    pub fn stats(&self) -> ProcessingStats {
        self.after(self.started.elapsed())
    }

    fn after(&self, elapsed: Duration) -> ProcessingStats {
        let files = self.completed + self.failed;
        let per_second = |amount: u64| {
            if elapsed.is_zero() {
                0.0
            } else {
                amount as f64 / elapsed.as_secs_f64()
            }
        };
        ProcessingStats {
            completed: self.completed,
            failed: self.failed,
            skipped: 0,
            bytes: self.bytes,
            elapsed,
            files_per_second: per_second(files),
            bytes_per_second: per_second(self.bytes),
            success_rate: (files > 0).then(|| self.completed as f64 / files as f64),
            mean_time: self.busy.div_f64(files.max(1) as f64),
            longest_time: self.longest,
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
