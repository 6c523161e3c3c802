//! The arguments of commands about processes and their queue: `status`, `results`, `cancel`, `retry` and `doctor`.

use std::path::PathBuf;
use std::time::Duration;

use batchwright::Usd;
use clap::Args;

use super::shared::{BatchProviderArgs, DataArgs, MORE};
use super::values::{dollars, seconds};

/// Show what is queued, running, done and failed
#[derive(Debug, Args)]
#[command(after_long_help = include_str!("../../data/help/status.txt"))]
pub struct StatusArgs {
    /// Id of a process, or its first or last characters [default: all]
    pub process: Option<String>,

    /// Continue until everything is finished
    ///
    /// On a terminal the view is redrawn; otherwise it is printed again after each change.
    #[arg(short, long)]
    pub watch: bool,

    #[command(flatten)]
    pub data: DataArgs,
}

/// Move the results of a process from the queue to a file
///
/// Only results that were written are deleted from the queue. Jobs without an outcome stay in the queue; run the
/// same command later to fetch theirs. On a terminal or in a pipe, results are only shown, because nothing confirms
/// that they were read.
#[derive(Debug, Args)]
#[command(after_help = MORE, after_long_help = include_str!("../../data/help/results.txt"))]
pub struct ResultsArgs {
    /// Id of the process, or its first or last characters
    ///
    /// [default: the only one in the file of --queue]
    #[arg(required_unless_present = "queue")]
    pub process: Option<String>,

    /// File to append the results to, each once
    ///
    /// Each result is added once, even if the command is killed and run again. Without this flag, results go to
    /// standard output, and stay in the queue unless that is a file.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Only show the results; delete nothing
    #[arg(long, conflicts_with = "take")]
    pub keep: bool,

    /// Also delete results written to a pipe or terminal
    ///
    /// They are deleted from the queue even if nothing read them.
    #[arg(long)]
    pub take: bool,

    #[command(flatten)]
    pub data: DataArgs,
}

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

/// Check the queue and its environment, and say what to do
#[derive(Debug, Args)]
#[command(after_long_help = include_str!("../../data/help/doctor.txt"))]
pub struct DoctorArgs {
    #[command(flatten)]
    pub data: DataArgs,
}
