//! Settings for processing files.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use derive_setters::Setters;

use crate::base::memory::DEFAULT_CEILING;
use crate::engine::dispatch::ErrorPolicy;
use crate::engine::route::RetryPolicy;

/// How many files are in progress at once, and the order of their results.
#[derive(Debug, Clone, PartialEq, Eq, Setters)]
pub struct ParallelConfig {
    /// Number of files that are processed at once, each on its own thread. Default: the number of cores.
    pub(super) max_workers: usize,
    /// Maximum number of files in progress: waiting to be read, being processed, or with a result that was not taken
    /// yet; at least one per worker. It limits the memory of a stream. Default: 50.
    pub(super) chunk_size: usize,
    /// Whether results come in the order of the files, or as soon as they are ready, so that a slow file does not delay
    /// others. Default: in order.
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
}

/// Which files are processed, and the effect of failures.
#[derive(Debug, Clone, PartialEq, Setters)]
pub struct ProcessingConfig {
    /// Pattern for the files of a folder, in the format of
    /// [`FileScanner::pattern`](crate::sources::FileScanner::pattern). Default: `**/*.py`.
    #[setters(into)]
    pub(super) pattern: String,
    /// Maximum size of a file in bytes; larger ones fail without being read. Default: 10 MiB.
    pub(super) max_file_size: u64,
    /// Memory limit of the OS process in bytes, see [`MemoryManager`](crate::progress::MemoryManager). Default: 500
    /// MiB.
    pub(super) max_memory: u64,
    /// Number and delay of retries after a failure that may be temporary ([`ErrorRecovery`](super::ErrorRecovery) has
    /// the table). Default: 3 retries, after 0.1 s, 0.2 s and 0.4 s.
    pub(super) retry: RetryPolicy,
    /// How a failed file affects the others. Default: [`ErrorPolicy::ContinueOnError`].
    pub(super) on_error: ErrorPolicy,
    #[setters(skip)]
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

    /// A file that records which files are done, so that the next run resumes where this one ended, for whatever
    /// reason. A file whose name is not UTF-8 is not recorded, so each run processes it. Default: none.
    pub fn checkpoint(mut self, path: impl AsRef<Path>) -> Self {
        self.checkpoint = Some(path.as_ref().to_owned());
        self
    }
}
