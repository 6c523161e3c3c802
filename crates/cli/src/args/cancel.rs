//! The arguments of `batchwright cancel`.

use std::time::Duration;

use clap::Args;

use super::shared::{BatchProviderArgs, ProcessArgs, QueueFileArg};
use super::values::seconds;

/// Cancel the waiting jobs of a process; running jobs finish
///
/// Running jobs keep their results.
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
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

    /// Time to wait for the end of its batches
    ///
    /// The command cancels them at the provider.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = seconds)]
    pub wait: Duration,

    #[command(flatten)]
    pub at: BatchProviderArgs,

    #[command(flatten)]
    pub file: QueueFileArg,

    #[command(flatten)]
    pub common: ProcessArgs,
}

const HELP: &str = "\
Billed results are kept: existing results stay until `batchwright results` fetches them, and a call \
in flight finishes and keeps its result. To requeue cancelled jobs, use `retry`:
  batchwright cancel 019aa0f4-5b7c-7d1e-8f00-0123456789ab
  batchwright retry 019aa0f4-5b7c-7d1e-8f00-0123456789ab
The batches of the process are cancelled at the provider. If a worker owns a batch, that worker cancels \
it; otherwise this command does, with the API key of the batch. Finished results are kept. If results of a \
batch are known to be missing (`batchwright status`), they are requested once more and then abandoned, \
although they were billed.
To delete a process with its results:
  batchwright cancel 019aa0f4-5b7c-7d1e-8f00-0123456789ab --delete";
