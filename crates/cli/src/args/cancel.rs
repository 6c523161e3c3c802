//! The arguments of `batchwright cancel`.

use std::time::Duration;

use clap::Args;

use super::shared::{BatchProviderArgs, ProcessArgs};
use super::values::seconds;

/// Cancel what waits of a process; what runs keeps its result
///
/// What runs ends by itself.
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
pub struct CancelArgs {
    /// Id of the process, its beginning or end
    pub process: String,

    /// Delete it with all its jobs and results
    ///
    /// Whatever their state.
    #[arg(long)]
    pub delete: bool,

    /// How long to wait for its batches to end
    ///
    /// They are cancelled at the provider.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = seconds)]
    pub wait: Duration,

    #[command(flatten)]
    pub at: BatchProviderArgs,

    #[command(flatten)]
    pub common: ProcessArgs,
}

const HELP: &str = "\
What was paid for is kept: results that are there stay until they are taken by `batchwright \
results`, and a call that is in flight ends and is kept. Cancelled jobs can be put back:
  batchwright cancel 019aa0f4-5b7c-7d1e-8f00-0123456789ab
  batchwright retry 019aa0f4-5b7c-7d1e-8f00-0123456789ab
Its batches are cancelled at the provider, by the worker that attends them or else by this command, \
which needs their key for that; what they had finished is kept. Of \
a batch whose results are known to be missing (`batchwright status`) they are asked for once more, and \
then given up, although they were paid for.
To give up a process with its results:
  batchwright cancel 019aa0f4-5b7c-7d1e-8f00-0123456789ab --delete";
