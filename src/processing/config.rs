//! How files are processed.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::base::memory::DEFAULT_CEILING;
use crate::engine::dispatch::ErrorPolicy;
use crate::engine::route::RetryPolicy;

/// How many files are under way at once, and what comes of their order.
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
    /// As many workers as there are cores, chunks of 50, results in the order of the files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Files that are processed at once, each on a thread of its own. Default: the cores of the machine.
    pub fn max_workers(mut self, workers: usize) -> Self {
        self.max_workers = workers;
        self
    }

    /// Files under way at most: waiting to be read, being processed, or with a result that nobody has taken yet.
    /// It bounds the memory of a stream, and shrinks as memory runs short, but never below one for each
    /// worker. Default: 50.
    pub fn chunk_size(mut self, files: usize) -> Self {
        self.chunk_size = files;
        self
    }

    /// Whether results come in the order of the files, or as they are ready: then a slow file holds up
    /// nobody. Default: in order.
    pub fn keep_order(mut self, yes: bool) -> Self {
        self.keep_order = yes;
        self
    }
}

/// Which files are processed, and what their failures lead to.
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
            // A disk is back sooner than a provider.
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

    /// Which files of a folder, as [`FileScanner::pattern`](crate::sources::FileScanner::pattern) takes it.
    /// Default: `**/*.py`.
    pub fn pattern(mut self, pattern: impl Into<String>) -> Self {
        self.pattern = pattern.into();
        self
    }

    /// The most bytes of a file; larger ones fail unread. Default: 10 MiB.
    pub fn max_file_size(mut self, bytes: u64) -> Self {
        self.max_file_size = bytes;
        self
    }

    /// What the process may have of memory, in bytes, see
    /// [`MemoryManager`](crate::progress::MemoryManager). Default: 500 MiB.
    pub fn max_memory(mut self, bytes: u64) -> Self {
        self.max_memory = bytes;
        self
    }

    /// How often and how patiently a file is tried again after a failure that may pass
    /// ([`ErrorRecovery`](super::ErrorRecovery) has the table). Default: 3 times, after 0.1 s, 0.2 s and 0.4 s.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// What a failed file means for the others. Default: [`ErrorPolicy::ContinueOnError`].
    pub fn on_error(mut self, policy: ErrorPolicy) -> Self {
        self.on_error = policy;
        self
    }

    /// A file that says what is done, so that the next run goes on where this one was ended, by whatever.
    /// Default: none.
    pub fn checkpoint(mut self, path: impl AsRef<Path>) -> Self {
        self.checkpoint = Some(path.as_ref().to_owned());
        self
    }
}
