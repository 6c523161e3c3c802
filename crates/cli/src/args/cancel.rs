//! The arguments of `batchwright cancel`.

use std::time::Duration;

use clap::Args;

use super::shared::{BatchProviderArgs, DataArgs};
use super::values::seconds;

/// Cancel the waiting jobs of a process; running jobs finish
///
/// Running jobs keep their results.
#[derive(Debug, Args)]
#[command(after_long_help = include_str!("../../data/help/cancel.txt"))]
pub struct CancelArgs {
    /// Id of the process, or its first or last characters
    ///
    /// [default: the only one in the file of --queue]
    #[arg(required_unless_present = "queue")]
    pub process: Option<String>,

    /// Delete the process with all its jobs and results
    ///
    /// Jobs in every state are deleted.
    #[arg(long)]
    pub delete: bool,

    /// Time to wait for its batches
    ///
    /// The command cancels them at the provider.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = seconds)]
    pub wait: Duration,

    #[command(flatten)]
    pub at: BatchProviderArgs,

    #[command(flatten)]
    pub data: DataArgs,
}
