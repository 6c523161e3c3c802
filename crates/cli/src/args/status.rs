//! The arguments of `batchwright status`.

use clap::Args;

use super::shared::{DataArgs, QueueFileArg, SayArgs};

/// Show what is queued, running, done and failed
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
pub struct StatusArgs {
    /// Id of a process, or its first or last characters [default: all]
    pub process: Option<String>,

    /// Print JSON, errors too; with --watch a line per change
    #[arg(long)]
    pub json: bool,

    /// Show where the time went and what limits progress
    ///
    /// The parts add up to the time from the first job of the process to its last outcome, or to now.
    #[arg(long, conflicts_with = "watch")]
    pub why: bool,

    /// Continue until everything is finished
    ///
    /// On a terminal the view is redrawn; otherwise each change is one line.
    #[arg(short, long)]
    pub watch: bool,

    #[command(flatten)]
    pub file: QueueFileArg,

    #[command(flatten)]
    pub data: DataArgs,

    #[command(flatten)]
    pub say: SayArgs,
}

const HELP: &str = "\
  batchwright status
  batchwright status 019aa0f4-5b7c-7d1e-8f00-0123456789ab --watch
  batchwright status --why
  batchwright status --json | jq '.processes[] | {process_id, pending, failed}'
In JSON, always: total = pending + in_progress + at_provider + completed + failed + cancelled.

A process is shown until all its results are fetched. It is `unsealed` while its submission \
is running or if that was interrupted; its jobs do not start until then.";
