//! The arguments of `batchwright retry`.

use clap::Args;

use super::shared::ProcessArgs;

/// Put the failed and cancelled jobs of a process back
///
/// They get all their retries again.
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
pub struct RetryArgs {
    /// Id of the process, its beginning or end
    pub process: String,

    #[command(flatten)]
    pub common: ProcessArgs,
}

const HELP: &str = "\
What is put back is sent again, and paid for as any other. Failures whose results were taken are no longer in the queue. To look before deciding:
  batchwright results 019aa0f4-5b7c-7d1e-8f00-0123456789ab --keep
  batchwright retry 019aa0f4-5b7c-7d1e-8f00-0123456789ab";
