//! The arguments of `batchwright status`.

use clap::Args;

use super::shared::DataArgs;

/// Show what is queued, running, done and failed
#[derive(Debug, Args)]
#[command(after_long_help = include_str!("../../data/help/status.txt"))]
pub struct StatusArgs {
    /// Id of a process, or its first or last characters [default: all]
    pub process: Option<String>,

    /// Continue until everything is finished
    ///
    /// On a terminal the view is redrawn; otherwise each change is one line, with --json of JSON.
    #[arg(short, long)]
    pub watch: bool,

    #[command(flatten)]
    pub data: DataArgs,
}
