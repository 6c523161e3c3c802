//! The arguments of `batchwright doctor`.

use clap::Args;

use super::shared::DataArgs;

/// Check the queue and its environment, and say what to do
#[derive(Debug, Args)]
#[command(after_long_help = include_str!("../../data/help/doctor.txt"))]
pub struct DoctorArgs {
    #[command(flatten)]
    pub data: DataArgs,
}
