//! The arguments of `batchwright retry`.

use batchwright::Usd;
use clap::Args;

use super::shared::DataArgs;
use super::values::dollars;

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

    /// New maximum cost of the process in US dollars
    ///
    /// It includes what the process has spent before. Jobs that the old budget held back can start
    #[arg(long, value_name = "USD", value_parser = dollars)]
    pub budget: Option<Usd>,

    #[command(flatten)]
    pub data: DataArgs,
}
