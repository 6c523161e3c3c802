//! Runs from a file of prompts to a file of results that they resume from.
//!
//! [`Prompts`](crate::Prompts) reads the input, [`FileRun`](crate::FileRun) carries it out. The output is
//! the checkpoint: what is answered there is not asked again.
//!
//! | to | use |
//! |---|---|
//! | say how an input is read, and what is filled in where a line says nothing | [`PromptSettings`], [`InputFormat`] |
//! | take the requests of an input one by one | [`Requests`] |
//! | say where results go | [`Output`] |
//! | know what a run will do, did, or why it could not begin | [`Plan`], [`Report`], [`FileRunError`] |
//! | add results of a queue to a file, each once | [`ResultsAppender`] |
//! | find the file that says which queue has items of an output | [`sidecar_path`] |
#![cfg_attr(
    feature = "queue",
    doc = "| read that file | [`Sidecar`], [`Taken`], [`file_id`] |
| run a file through a queue, as batches want it | [`QueuedRun`], [`QueuedReport`] |"
)]

pub use crate::base::sidecar_path::sidecar_path;
pub use crate::bulk::appender::ResultsAppender;
pub use crate::bulk::options::{FileRunError, Output, Plan, Report};
pub use crate::bulk::prompts::{InputFormat, PromptSettings};
pub use crate::bulk::requests::Requests;
#[cfg(feature = "queue")]
pub use crate::queue_run::{QueuedReport, QueuedRun, Sidecar, Taken, file_id};
