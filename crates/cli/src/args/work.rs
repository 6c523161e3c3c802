//! The arguments of `batchwright work`.

use clap::Args;

use super::shared::{MORE, QueueFileArg, ShowArgs};
use super::worker::WorkerArgs;

/// Run the queue's worker
///
/// It carries out the jobs that `batchwright submit` and other programs put on the queue, until you stop it. Ctrl-C
/// lets the calls in flight finish. Any number of workers share a queue; if one crashes, the others take over its
/// jobs at once. If a provider rejects the key or is unreachable, no job fails: the jobs wait, and the worker calls
/// the provider again. (A local server must answer when the worker starts.)
#[derive(Debug, Args)]
#[command(after_help = MORE, after_long_help = include_str!("../../data/help/work.txt"))]
pub struct WorkArgs {
    /// Exit when the queue is empty, for cron and scripts
    ///
    /// Also exit early if the provider rejects every call or is unreachable.
    #[arg(long)]
    pub until_empty: bool,

    /// Exit when all batches are submitted
    ///
    /// Submit all prompts in batches and exit without waiting for the results. Run all other jobs directly. With
    /// cron: use this flag in the evening and --until-empty in the morning.
    #[arg(long, conflicts_with = "until_empty")]
    pub until_submitted: bool,

    /// Only these processes, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub processes: Vec<String>,

    #[command(flatten, next_help_heading = "Queue")]
    pub file: QueueFileArg,

    #[command(flatten)]
    pub worker: WorkerArgs,

    #[command(flatten)]
    pub show: ShowArgs,
}

impl WorkArgs {
    /// True when it ends by itself.
    pub fn ends(&self) -> bool {
        self.until_empty || self.until_submitted
    }
}
