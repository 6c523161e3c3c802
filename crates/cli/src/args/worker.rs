//! The arguments of `work` and `serve` that configure a worker of the queue.

use std::path::PathBuf;

use clap::Args;

use super::shared::{MemoryArgs, ProviderArgs, StoreArgs};
use super::values::words_for;

#[derive(Debug, Args)]
pub struct WorkerArgs {
    #[command(flatten)]
    pub provider: ProviderArgs,

    /// sync, or batch: half the price within a day
    ///
    /// How to send prompts. `sync` sends each as an individual call. `batch` submits them to the provider's
    /// Batch API, at half the price within a day. If the provider has no such API, the flag is rejected, and the
    /// setting means `sync`. `local` and `extract` always use `sync` [env:
    /// BATCHWRIGHT_BULK_STRATEGY] [config: llm.bulk_strategy] [default: sync]
    #[arg(long, value_name = "NAME", value_parser = words_for("llm.bulk_strategy"))]
    pub strategy: Option<String>,

    /// Number of jobs at once, or auto
    ///
    /// A number is exact. `auto` grows while the providers answer well. By default a worker starts at
    /// JOB_QUEUE_WORKER_COUNT (5) and stays between 1 and AI_MAX_CONCURRENT_REQUESTS (10), by the load of the machine;
    /// a local server gets as many calls as it has slots, or 1 [env: BATCHWRIGHT_SYNC_CONCURRENCY] [config:
    /// llm.sync_concurrency]
    #[arg(help_heading = "Pace", short = 'j', long, value_name = "N", value_parser = words_for("llm.sync_concurrency"))]
    pub concurrency: Option<String>,

    /// Requests per minute
    ///
    /// [env: RATE_LIMIT_REQUESTS_PER_MINUTE] [config: llm.requests_per_minute] [default: learned from the
    /// provider's replies]
    #[arg(help_heading = "Pace", long, value_name = "N", value_parser = words_for("llm.requests_per_minute"))]
    pub rpm: Option<String>,

    /// Tokens per minute [env: RATE_LIMIT_TOKENS_PER_MINUTE] [config: llm.tokens_per_minute] [default: detected]
    #[arg(help_heading = "Pace", long, value_name = "N", value_parser = words_for("llm.tokens_per_minute"),
        hide_short_help = true)]
    pub tpm: Option<String>,

    /// Retries of a job at each provider, unless the job sets its own number [env: JOB_QUEUE_MAX_RETRIES] [config:
    /// queue.max_retries] [default: 3]
    #[arg(help_heading = "Pace", long, value_name = "N", value_parser = words_for("queue.max_retries"),
        hide_short_help = true)]
    pub max_retries: Option<String>,

    /// Time limit of one call [env: AI_REQUEST_TIMEOUT] [config: llm.request_timeout] [default: 600s]
    #[arg(help_heading = "Pace", long, value_name = "TIME", value_parser = words_for("llm.request_timeout"),
        hide_short_help = true)]
    pub timeout: Option<String>,

    #[command(flatten, next_help_heading = "Queue")]
    pub store: StoreArgs,

    /// Folder for podcasts, the same for all workers of a queue
    ///
    /// For jobs of the type generate_podcast; their results name the file [default: audio, in the folder of the
    /// queue]
    #[arg(
        help_heading = "Queue",
        long,
        value_name = "DIR",
        hide_short_help = true
    )]
    pub audio_dir: Option<PathBuf>,

    /// Sync every result to the disk, so that it survives a power failure
    #[arg(help_heading = "Queue", long, hide_short_help = true)]
    pub fsync: bool,

    #[command(flatten)]
    pub memory: MemoryArgs,
}
