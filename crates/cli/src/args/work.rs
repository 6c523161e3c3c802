//! The arguments of `batchwright work`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::shared::{MORE, MemoryArgs, MetricsArgs, ProviderArgs, ShowArgs};
use super::values::{seconds, words_for};

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
    pub provider: ProviderArgs,

    /// sync, or batch: half the price, within a day
    ///
    /// How prompts are carried out: `sync`, each a call of its own, or `batch`, handed over to the
    /// provider's Batch API, at half the price within a day; a provider without one runs `sync` [env:
    /// BATCHWRIGHT_BULK_STRATEGY] [config: llm.bulk_strategy] [default: sync]
    #[arg(long, value_name = "NAME", value_parser = words_for("llm.bulk_strategy"))]
    pub strategy: Option<String>,

    /// Jobs at once, exactly
    ///
    /// [default: as the machine's load allows from queue.min_workers to
    /// queue.max_workers, of one provider at most llm.sync_concurrency]
    #[arg(help_heading = "Pace", short = 'j', long, value_name = "N", value_parser = words_for("llm.sync_concurrency"))]
    pub concurrency: Option<String>,

    /// Requests per minute
    ///
    /// [env: RATE_LIMIT_REQUESTS_PER_MINUTE] [config: llm.requests_per_minute]
    /// [default: learned from the provider's replies, 100 until then]
    #[arg(help_heading = "Pace", long, value_name = "N", value_parser = words_for("llm.requests_per_minute"))]
    pub rpm: Option<String>,

    /// Tokens per minute [env: RATE_LIMIT_TOKENS_PER_MINUTE] [config: llm.tokens_per_minute]
    /// [default: learned]
    #[arg(help_heading = "Pace", long, value_name = "N", value_parser = words_for("llm.tokens_per_minute"),
        hide_short_help = true)]
    pub tpm: Option<String>,

    /// Retries of a job at each provider, unless it brings a number of its own [env:
    /// JOB_QUEUE_MAX_RETRIES] [config: queue.max_retries] [default: 3]
    #[arg(help_heading = "Pace", long, value_name = "N", value_parser = words_for("queue.max_retries"),
        hide_short_help = true)]
    pub max_retries: Option<String>,

    /// The longest wait for one call [env: AI_REQUEST_TIMEOUT] [config: llm.request_timeout]
    /// [default: 600s]
    #[arg(help_heading = "Pace", long, value_name = "TIME", value_parser = words_for("llm.request_timeout"),
        hide_short_help = true)]
    pub timeout: Option<String>,

    /// Folder of the queue and the settings
    ///
    /// [env: BATCHWRIGHT_HOME] [default: the platform's data folder]
    #[arg(help_heading = "Queue", long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Folder that podcasts are written to, the same for all workers of a queue
    ///
    /// For jobs of the type generate_podcast; their results name the file [default: audio, in the folder of the queue]
    #[arg(
        help_heading = "Queue",
        long,
        value_name = "DIR",
        hide_short_help = true
    )]
    pub audio_dir: Option<PathBuf>,

    /// How long calls in flight may go on after Ctrl-C
    #[arg(help_heading = "Queue", long, value_name = "TIME", default_value = "30s", value_parser = seconds,
        hide_short_help = true)]
    pub grace: Duration,

    /// Sync every result to the disk, so that it survives a power loss too
    #[arg(help_heading = "Queue", long, hide_short_help = true)]
    pub fsync: bool,

    /// Print what was done, or the error, as JSON
    ///
    /// One JSON object on standard output, at the end.
    #[arg(help_heading = "Queue", long)]
    pub json: bool,

    #[command(flatten)]
    pub memory: MemoryArgs,

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
