//! Bulk processing of files by a function, on all cores.
//!
//! Each file is read, passed to the function, and dropped from memory before its result is returned. If a file
//! cannot be read, changes meanwhile, or makes the function fail or panic, only this file fails.
//!
//! ```
//! use batchwright::processing::{BatchProcessor, SourceFile};
//! # use batchwright::Error;
//! # fn main() -> Result<(), Error> {
//! # let place = tempfile::tempdir().unwrap();
//! # let folder = place.path();
//! # std::fs::write(folder.join("a.py"), "def f():\n    return 1\n").unwrap();
//! let lines = |file: &SourceFile| Ok(file.text()?.lines().count());
//! let batch = BatchProcessor::default().process_directory(folder, lines)?;
//! for file in &batch.results {
//!     match &file.result {
//!         Ok(lines) => println!("{}: {lines} lines", file.source_id),
//!         Err(error) => println!("{}: {error}", file.source_id),
//!     }
//! }
//! assert_eq!((batch.stats.completed, batch.stats.failed), (1, 0));
//! # Ok(())
//! # }
//! ```
//!
//! | to | use |
//! |---|---|
//! | process a list of files, a stream of files, or a folder | [`BatchProcessor`], [`ProcessingConfig`], [`ParallelConfig`] |
//! | the same without folders and checkpoints | [`ParallelExecutor`] over [`ProcessTask`]s |
//! | read the argument of your function | [`SourceFile`] |
//! | read the result for one file, and for all files | [`ProcessResult`], [`BatchResult`], [`ProcessStream`] |
//! | measure throughput, bytes and success | [`StatsCollector`], [`ProcessingStats`] |
//! | store failures, retry them, resume after a crash | [`ErrorRecovery`], [`FailedFile`] |

mod config;
mod executor;
mod processor;
mod recovery;
mod result;
mod task;

pub use config::{ParallelConfig, ProcessingConfig};
pub use executor::{ParallelExecutor, ProcessStream};
pub use processor::BatchProcessor;
pub use recovery::{ErrorRecovery, FailedFile};
pub use result::{BatchResult, ProcessResult, ProcessingStats, StatsCollector};
pub use task::{ProcessTask, SourceFile};
