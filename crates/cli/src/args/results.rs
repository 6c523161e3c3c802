//! The arguments of `batchwright results`.

use std::path::PathBuf;

use clap::Args;

use super::shared::{DataArgs, MORE};

/// Move the results of a process from the queue to a file
///
/// Only results that were written are deleted from the queue. Jobs without an outcome stay in the queue; run the
/// same command later to fetch theirs. On a terminal or in a pipe, results are only shown, because nothing confirms
/// that they were read.
#[derive(Debug, Args)]
#[command(after_help = MORE, after_long_help = include_str!("../../data/help/results.txt"))]
pub struct ResultsArgs {
    /// Id of the process, or its first or last characters
    ///
    /// [default: the only one in the file of --queue]
    #[arg(required_unless_present = "queue")]
    pub process: Option<String>,

    /// File to append the results to, each once
    ///
    /// Each result is added once, even if the command is killed and run again. Without this flag, results go to
    /// standard output, and stay in the queue unless that is a file.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Only show the results; delete nothing
    #[arg(long, conflicts_with = "take")]
    pub keep: bool,

    /// Also delete results written to a pipe or terminal
    ///
    /// They are deleted from the queue even if nothing read them.
    #[arg(long)]
    pub take: bool,

    #[command(flatten)]
    pub data: DataArgs,
}
