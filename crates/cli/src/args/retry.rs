//! The arguments of `batchwright retry`.

use clap::Args;

use super::shared::{ProcessArgs, QueueFileArg};

/// Requeue the failed and cancelled jobs of a process
///
/// Each job gets its full number of retries.
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
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

const HELP: &str = "\
Requeued jobs are sent and billed again. Failed jobs whose results were fetched are no longer in the queue. To see them first:
  batchwright results 019aa0f4-5b7c-7d1e-8f00-0123456789ab --keep
  batchwright retry 019aa0f4-5b7c-7d1e-8f00-0123456789ab";
