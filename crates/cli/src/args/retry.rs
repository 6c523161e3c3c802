//! The arguments of `batchwright retry`.

use clap::Args;

use super::shared::{ProcessArgs, QueueFileArg};

/// Requeue the failed and cancelled jobs of a process
///
/// Each job gets its full number of retries.
#[derive(Debug, Args)]
#[command(after_long_help = include_str!("../../data/help/retry.txt"))]
pub struct RetryArgs {
    /// Id of the process, or its first or last characters
    ///
    /// [default: the only one in the file of --queue]
    #[arg(required_unless_present = "queue")]
    pub process: Option<String>,

    #[command(flatten)]
    pub file: QueueFileArg,

    #[command(flatten)]
    pub common: ProcessArgs,
}
