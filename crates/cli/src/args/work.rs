//! The arguments of `batchwright work`.

use clap::Args;

use super::shared::{MORE, MetricsArgs, ShowArgs};
use super::worker::WorkerArgs;

/// Run the queue's worker
///
/// It carries out the jobs that `batchwright submit` and other programs put on the queue, until it is
/// stopped: Ctrl-C lets the calls in flight end. Any number of workers share a queue; when one dies the
/// others take over its jobs at once. A provider that refuses the key or cannot be reached fails no
/// job: they wait, and it is asked again. (A local server must answer when the worker starts.)
#[derive(Debug, Args)]
#[command(after_help = MORE, after_long_help = HELP)]
pub struct WorkArgs {
    /// End when nothing is left to do, for cron and scripts
    ///
    /// End early, too, when the provider refuses everybody or cannot be reached.
    #[arg(long)]
    pub until_empty: bool,

    /// End once all batches are handed over
    ///
    /// All prompts are handed over to the provider, without waiting for their batches; what is no
    /// batch is carried out. For cron: in the evening this, in the morning --until-empty.
    #[arg(long, conflicts_with = "until_empty")]
    pub until_submitted: bool,

    /// Only these processes, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub processes: Vec<String>,

    #[command(flatten)]
    pub worker: WorkerArgs,

    /// Print what was done, or the error, as JSON
    ///
    /// One JSON object on standard output, at the end.
    #[arg(help_heading = "Queue", long)]
    pub json: bool,

    #[command(flatten)]
    pub metrics: MetricsArgs,

    #[command(flatten)]
    pub show: ShowArgs,
}

const HELP: &str = "\
In one terminal, or as a service:
  batchwright work --provider openai --model gpt-5-mini
In another:
  id=$(batchwright submit prompts.jsonl)
  batchwright status $id --watch
  batchwright results $id -o results.jsonl
From cron, doing what is there and no more:
  batchwright work --until-empty --quiet
At half the price: handed over in the evening, collected in the morning:
  batchwright work --strategy batch --until-submitted
  batchwright work --strategy batch --until-empty

Settings (`batchwright config list`) that change are followed at once, without a restart.

Every flag has an environment variable, for example BATCHWRIGHT_DATA_DIR for --data-dir.

Exit codes:
  0 stopped, or nothing left (--until-empty, --until-submitted)
  1 could not run, or could not record
  2 bad usage
  3 nothing left, some jobs failed (--until-empty)
  4 ended early; or a batch is held until you decide, or does not give out results that were paid \
for: the jobs stay on the queue, and the next worker asks at once
  130, 143 interrupted (--until-empty)";

impl WorkArgs {
    /// True when it ends by itself.
    pub fn ends(&self) -> bool {
        self.until_empty || self.until_submitted
    }
}
