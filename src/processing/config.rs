//! Settings for processing files.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::base::memory::DEFAULT_CEILING;
use crate::engine::dispatch::ErrorPolicy;
use crate::engine::route::RetryPolicy;

/// How many files are in progress at once, and the order of their results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParallelConfig {
    pub(super) max_workers: usize,
    pub(super) chunk_size: usize,
    pub(super) keep_order: bool,
}

impl Default for ParallelConfig {
    fn default() -> Self {
        Self {
            max_workers: thread::available_parallelism().map_or(1, usize::from),
            chunk_size: 50,
            keep_order: true,
        }
    }
}

impl ParallelConfig {
    /// One worker per core, chunks of 50, results in the order of the files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of files that are processed at once, each on its own thread. Default: the number of cores.
    pub fn max_workers(mut self, workers: usize) -> Self {
        self.max_workers = workers;
        self
    }

    /// Maximum number of files in progress: waiting to be read, being processed, or with a result that was not taken
    /// yet. It limits the memory of a stream. It shrinks when memory runs short, but never below one per worker.
    /// Default: 50.
    pub fn chunk_size(mut self, files: usize) -> Self {
        self.chunk_size = files;
        self
    }

    /// Whether results come in the order of the files, or as soon as they are ready, so that a slow file does not delay
    /// others. Default: in order.
    pub fn keep_order(mut self, yes: bool) -> Self {
        self.keep_order = yes;
        self
    }
}

/// Which files are processed, and the effect of failures.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessingConfig {
    pub(super) pattern: String,
    pub(super) max_file_size: u64,
    pub(super) max_memory: u64,
    pub(super) retry: RetryPolicy,
    pub(super) on_error: ErrorPolicy,
    pub(super) checkpoint: Option<PathBuf>,
}

impl Default for ProcessingConfig {
    fn default() -> Self {
        Self {
            pattern: "**/*.py".to_owned(),
            max_file_size: 10 << 20,
            max_memory: DEFAULT_CEILING,
            // A disk recovers faster than a provider.
            retry: RetryPolicy::default().base_delay(Duration::from_millis(100)),
            on_error: ErrorPolicy::default(),
            checkpoint: None,
        }
    }
}

impl ProcessingConfig {
    /// Python files up to 10 MiB in at most 500 MiB of memory, without a checkpoint.
    pub fn new() -> Self {
        Self::default()
    }

    /// Pattern for the files of a folder, in the format of
    /// [`FileScanner::pattern`](crate::sources::FileScanner::pattern). Default: `**/*.py`.
    pub fn pattern(mut self, pattern: impl Into<String>) -> Self {
        self.pattern = pattern.into();
        self
    }

    /// Maximum size of a file in bytes; larger ones fail without being read. Default: 10 MiB.
    pub fn max_file_size(mut self, bytes: u64) -> Self {
        self.max_file_size = bytes;
        self
    }

    /// Memory limit of the OS process in bytes, see [`MemoryManager`](crate::progress::MemoryManager). Default: 500
    /// MiB.
    pub fn max_memory(mut self, bytes: u64) -> Self {
        self.max_memory = bytes;
        self
    }

    /// Number and delay of retries after a failure that may be temporary ([`ErrorRecovery`](super::ErrorRecovery) has
    /// the table). Default: 3 retries, after 0.1 s, 0.2 s and 0.4 s.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// How a failed file affects the others. Default: [`ErrorPolicy::ContinueOnError`].
    pub fn on_error(mut self, policy: ErrorPolicy) -> Self {
        self.on_error = policy;
        self
    }

    /// A file that records which files are done, so that the next run resumes where this one ended, for whatever
    /// reason. Default: none.
    pub fn checkpoint(mut self, path: impl AsRef<Path>) -> Self {
        self.checkpoint = Some(path.as_ref().to_owned());
        self
    }
}
