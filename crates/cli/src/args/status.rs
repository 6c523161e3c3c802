//! The arguments of `batchwright status`.

use clap::Args;

use super::shared::{DataArgs, SayArgs};

/// Show what is queued, running, done and failed
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
pub struct StatusArgs {
    /// Id of a process, its beginning or end [default: all of them]
    pub process: Option<String>,

    /// Print JSON, also an error; with --watch a line a change
    #[arg(long)]
    pub json: bool,

    /// Show where the time went and what holds it up
    ///
    /// The parts add up to its time from its first job to its last outcome, or to now.
    #[arg(long, conflicts_with = "watch")]
    pub why: bool,

    /// Go on until all is finished
    ///
    /// Redrawn on a terminal, elsewhere a line a change.
    #[arg(short, long)]
    pub watch: bool,

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
In JSON always: total = pending + in_progress + at_provider + completed + failed + cancelled.

A process is shown until all its results have been taken. It is `unsealed` while it is \
being submitted, or when that was interrupted: none of its jobs is started then.";
