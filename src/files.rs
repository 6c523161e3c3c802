//! Runs from a file of prompts to a file of results that they resume from.
//!
//! [`Prompts`](crate::Prompts) reads the input, [`FileRun`](crate::FileRun) carries it out. The output is
//! the checkpoint: what is answered there is not asked again.
//!
//! | to | use |
//! |---|---|
//! | set how an input is read, and defaults for its lines | [`PromptSettings`], [`InputFormat`], [`ColumnRole`] |
//! | set where results go | [`RunOutput`] |
//! | set which prompts use the provider's prompt cache | [`CachePrompt`] |
//! | see what a run will do, what it did, or why it could not start | [`RunPlan`], [`RunReport`], [`FileRunError`] |
//! | make a table of results: CSV, Parquet, `.xlsx` | [`Export`], [`ExportFormat`], [`ExportReport`] |
//! | append results of a queue to a file, each once | [`ResultsAppender`] |
//! | find the store of an output's earlier run | [`store_path`] |
#![cfg_attr(
    feature = "queue",
    doc = "| run a file through a queue, for batches | [`QueueRun`], [`QueueRunReport`] |"
)]

pub use crate::base::disk::store_path;
pub use crate::bulk::appender::ResultsAppender;
pub use crate::bulk::export::{Export, ExportFormat, ExportReport};
pub use crate::bulk::options::{FileRunError, RunOutput, RunPlan, RunReport};
pub use crate::bulk::prompts::{ColumnRole, InputFormat, PromptSettings};
pub use crate::config::choices::CachePrompt;
#[cfg(feature = "queue")]
pub use crate::queue::run::{QueueRun, QueueRunReport};
