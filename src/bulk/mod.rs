//! Bulk runs of prompts: from a slice, from an iterator, or from a file whose results are its checkpoint.

pub mod appender;
mod backlog;
pub(crate) mod checkpoint;
mod convert;
mod copies;
pub(crate) mod export;
pub mod file;
mod file_turn;
pub(crate) mod input;
mod list;
pub(crate) mod open_output;
pub mod options;
#[cfg(test)]
mod pack_simulation;
pub mod prompts;
mod replies;
pub(crate) mod results;
pub mod run;
mod spool;
mod tidy;
mod work;

#[cfg(not(feature = "tables"))]
pub(crate) use convert::NOT_BUILT;
