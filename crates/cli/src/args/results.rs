//! The arguments of `batchwright results`.

use std::path::PathBuf;

use clap::Args;

use super::shared::{DataArgs, MORE, SayArgs};

/// Move the results of a process from the queue to a file
///
/// Only what has been written is deleted. Jobs that have no outcome yet stay in the queue: the same
/// command takes theirs later. On a terminal or in a pipe results are only shown: nobody can tell
/// whether they were read.
#[derive(Debug, Args)]
#[command(after_help = MORE, after_long_help = HELP)]
pub struct ResultsArgs {
    /// Id of the process, its beginning or end
    pub process: String,

    /// File to add the results to, each once
    ///
    /// Each once also when this is killed and called again; without it they go to standard output,
    /// and stay in the queue unless that is a file.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Only look: delete nothing from the queue
    #[arg(long, conflicts_with = "take")]
    pub keep: bool,

    /// Delete also what went to a pipe or a terminal
    ///
    /// It is deleted from the queue, whether it was read there or not. Of a run's process
    /// it takes what belongs to that run's output; the next such run takes it in from the file named here.
    #[arg(long)]
    pub take: bool,

    #[command(flatten)]
    pub data: DataArgs,

    #[command(flatten)]
    pub say: SayArgs,
}

const HELP: &str = "\
One JSON line a job, as `batchwright run` writes them, in the order of the input:
  batchwright results 019aa0f4-5b7c-7d1e-8f00-0123456789ab -o results.jsonl
To look at what has failed so far, and leave all as it is:
  batchwright results 019aa0f4 --keep | jq 'select(.success | not) | .error.message'

Exit codes:
  0 all of them succeeded
  1 could not be taken
  2 bad usage
  3 some items failed or were cancelled
  4 the reader went away; what it had not got stays in the queue
  130, 143 interrupted; what was not written stays in the queue";
