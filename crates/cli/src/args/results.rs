//! The arguments of `batchwright results`.

use std::path::PathBuf;

use clap::Args;

use super::shared::{DataArgs, MORE, QueueFileArg, SayArgs};

/// Move the results of a process from the queue to a file
///
/// Only results that were written are deleted from the queue. Jobs without an outcome stay in the queue; run the
/// same command later to fetch theirs. On a terminal or in a pipe, results are only shown, because nothing confirms
/// that they were read.
#[derive(Debug, Args)]
#[command(after_help = MORE, after_long_help = HELP)]
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
    pub file: QueueFileArg,

    #[command(flatten)]
    pub data: DataArgs,

    #[command(flatten)]
    pub say: SayArgs,
}

const HELP: &str = "\
One JSON line per job, as `batchwright run` writes them, in the order of the input:
  batchwright results 019aa0f4-5b7c-7d1e-8f00-0123456789ab -o results.jsonl
To see the failures so far without changing the queue:
  batchwright results 019aa0f4 --keep | jq 'select(.success | not) | .error.message'

Results of a run belong to its output: its own command takes them, and this one shows them:
  batchwright results --queue out.jsonl.batchwright --keep

Exit codes:
  0 all of them succeeded
  1 could not be fetched
  2 bad usage
  3 some items failed or were cancelled
  4 the reader closed the pipe; results that it did not get stay in the queue
  130, 143 interrupted; results that were not written stay in the queue";
