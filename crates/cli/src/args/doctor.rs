//! The arguments of `batchwright doctor`.

use clap::Args;

use super::shared::{BatchProviderArgs, DataArgs, QueueFileArg, SayArgs};

/// Check the queue and its environment, and say what to do
#[derive(Debug, Args)]
#[command(after_long_help = include_str!("../../data/help/doctor.txt"))]
pub struct DoctorArgs {
    /// Adopt batches of an earlier API key
    ///
    /// For example after you rotated a key. The provider is asked whether it shows the batches with the current
    /// key, at the address that created them. A batch that it does not show stays unchanged, and the reason is
    /// printed.
    #[arg(long)]
    pub adopt_batches: bool,

    #[command(flatten)]
    pub at: BatchProviderArgs,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub file: QueueFileArg,

    #[command(flatten)]
    pub data: DataArgs,

    #[command(flatten)]
    pub say: SayArgs,
}
