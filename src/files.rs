//! Runs from a file of prompts to a file of results that they resume from.
//!
//! [`Prompts`](crate::Prompts) reads the input, [`FileRun`](crate::FileRun) carries it out. The output is
//! the checkpoint: what is answered there is not asked again.
//!
//! | to | use |
//! |---|---|
//! | say how an input is read, and what is filled in where a line says nothing | [`PromptSettings`], [`InputFormat`] |
//! | take the requests of an input one by one | [`PromptRequests`] |
//! | say where results go | [`RunOutput`] |
//! | say what happens to rows with a null | [`Nulls`] |
//! | say which equal requests are sent once | [`Dedupe`] |
//! | use answers of earlier runs | [`AnswerStore`], [`AnswerKey`] |
//! | know what a run will do, did, or why it could not begin | [`RunPlan`], [`RunReport`], [`FileRunError`] |
//! | make a table of results: CSV, Parquet, `.xlsx`, SQLite | [`Export`], [`ExportFormat`], [`ExportReport`] |
//! | add results of a queue to a file, each once | [`ResultsAppender`] |
//! | find the store of an earlier run of an output | [`store_path`] |
#![cfg_attr(
    feature = "queue",
    doc = "| keep such answers in a file | [`SqliteAnswers`] |
| run a file through a queue, as batches want it | [`QueueRun`], [`RunStore`], [`QueueRunReport`] |"
)]

pub use crate::base::store_path::store_path;
pub use crate::bulk::appender::ResultsAppender;
pub use crate::bulk::options::{FileRunError, RunOutput, RunPlan, RunReport};
pub use crate::bulk::prompts::{InputFormat, Nulls, PromptSettings};
pub use crate::bulk::requests::PromptRequests;
pub use crate::bulk::reuse::{AnswerKey, AnswerStore};
#[cfg(feature = "queue")]
pub use crate::bulk::reuse_db::SqliteAnswers;
pub use crate::config::choices::Dedupe;
pub use crate::export::{Export, ExportFormat, ExportReport};
#[cfg(feature = "queue")]
pub use crate::queue_run::{QueueRun, QueueRunReport, RunStore};
