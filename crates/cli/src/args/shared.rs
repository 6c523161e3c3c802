//! Groups of arguments that several commands take.

use std::path::PathBuf;

use batchwright::client::RequestTask;
use batchwright::progress::MemoryManager;
use clap::{Args, ValueEnum};

use super::values::{bytes, name, one_of, temperature, text_or_file, words_for};

/// Flags that select the provider.
#[derive(Debug, Args)]
#[command(next_help_heading = "Provider")]
pub struct ProviderArgs {
    /// Provider to use; `batchwright providers` lists them
    ///
    /// [env: BATCHWRIGHT_PROVIDER] [config: llm.provider] [default: the first usable one]
    #[arg(help_heading = None::<&str>, long, value_name = "NAME", value_parser = name)]
    pub provider: Option<String>,

    /// Model for prompts that name none
    ///
    /// It is part of the request hash: with another model, items run again. BATCHWRIGHT_MODEL and the setting
    /// llm.model set a default instead; changing it runs nothing again.
    #[arg(help_heading = None::<&str>, long, value_name = "NAME", value_parser = name)]
    pub model: Option<String>,

    /// Address of the provider's API
    #[arg(help_heading = None::<&str>, long, value_name = "URL", value_parser = name, env = "BATCHWRIGHT_BASE_URL",
        hide_env = true)]
    pub base_url: Option<String>,

    /// File with the API key
    ///
    /// Of the first provider, and not of a fallback. Without the flag, the key comes from the provider's variable, such
    /// as OPENAI_API_KEY, from the file that OPENAI_API_KEY_FILE names, or from systemd's credential OPENAI_API_KEY.
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub api_key_file: Option<PathBuf>,

    /// Header for every call, as 'Name: value'
    ///
    /// Repeatable. Sent to the first provider, but not to a fallback. @FILE reads one header per line, so that other
    /// users of the machine do not see it. An authentication header (authorization, x-api-key, api-key) replaces the
    /// key of the environment. Values of 8 or more characters are never displayed.
    #[arg(long, value_name = "HEADER", hide_short_help = true)]
    pub header: Vec<String>,

    /// Next providers for failed items: groq:MODEL,extract
    ///
    /// Called in turn when the first provider fails an item permanently. Blocked prompts and refused answers do not
    /// fail over
    /// [env: BATCHWRIGHT_FALLBACK] [config: llm.fallback] [default: none]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    #[arg(hide_short_help = true)]
    pub fallback: Option<Vec<String>>,

    /// File with prices of models
    ///
    /// docs/input-output.md shows its form. They come before those of the table in the program. A cost that the provider
    /// reports comes first [env: BATCHWRIGHT_PRICES] [config: llm.prices] [default: none]
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub prices: Option<String>,
}

/// How prompts are sent, and how fast.
#[derive(Debug, Args)]
#[command(next_help_heading = "Pace")]
pub struct PaceArgs {
    /// sync, or batch: half the price within a day
    ///
    /// `sync` sends each prompt as a call; `batch` submits them to the provider's Batch API. If the provider has none,
    /// the flag is rejected, and the setting means `sync`; so for `local` and `extract` [env:
    /// BATCHWRIGHT_BULK_STRATEGY] [config: llm.bulk_strategy] [default: sync]
    #[arg(help_heading = None::<&str>, long, value_name = "NAME", value_parser = words_for("llm.bulk_strategy"))]
    pub strategy: Option<String>,

    /// Maximum calls in flight, or auto
    ///
    /// `auto`, the default of `run`, starts at 5 and increases up to 256 while throughput grows and the provider does not
    /// reject calls. A worker starts by default at JOB_QUEUE_WORKER_COUNT (5) jobs and stays between 1 and
    /// AI_MAX_CONCURRENT_REQUESTS (10), by the load of the machine. A local server gets by default as many calls as it has
    /// slots, or 1 [env: BATCHWRIGHT_SYNC_CONCURRENCY] [config: llm.sync_concurrency]
    #[arg(help_heading = None::<&str>, short = 'j', long, value_name = "N", value_parser = words_for("llm.sync_concurrency"))]
    pub concurrency: Option<String>,

    /// Requests per minute
    ///
    /// [env: RATE_LIMIT_REQUESTS_PER_MINUTE] [config: llm.requests_per_minute] [default: detected from the
    /// provider's replies]
    #[arg(long, value_name = "N", value_parser = words_for("llm.requests_per_minute"), hide_short_help = true)]
    pub rpm: Option<String>,

    /// Tokens per minute [env: RATE_LIMIT_TOKENS_PER_MINUTE] [config: llm.tokens_per_minute] [default: detected]
    #[arg(long, value_name = "N", value_parser = words_for("llm.tokens_per_minute"), hide_short_help = true)]
    pub tpm: Option<String>,

    /// Time limit of one call [env: AI_REQUEST_TIMEOUT] [config: llm.request_timeout] [default: 600s]
    #[arg(long, value_name = "TIME", value_parser = words_for("llm.request_timeout"), hide_short_help = true)]
    pub timeout: Option<String>,
}

/// Flags that apply to each prompt.
#[derive(Debug, Args)]
#[command(next_help_heading = "Prompts")]
pub struct PromptArgs {
    /// Prompt for each row: 'Is this spam? {{text}}'
    ///
    /// {{column}} inserts a field of the row or line, {{file:column}} the file whose path is in that field; @FILE
    /// reads the template from a file. Conditions, loops and filters are those of Jinja: {% if lines > 40
    /// %}Briefly: {% endif %}{{content|trim}}. Fields of CSV are strings there: stars|int > 3. Write a name with
    /// blanks as {{row["Review Text"]}}
    #[arg(help_heading = None::<&str>, long, value_name = "TEXT", value_parser = text_or_file)]
    pub template: Option<String>,

    /// System text for prompts without their own
    ///
    /// @FILE reads it from a file.
    #[arg(long, value_name = "TEXT", value_parser = text_or_file, hide_short_help = true)]
    pub system: Option<String>,

    /// Request answers that fit a JSON Schema
    ///
    /// FILE, @FILE, or the schema itself, which begins with `{`; `object` for any JSON object. If an answer does not
    /// fit, it is requested once more with a description of the error, and then fails. Lines with a `response_format`
    /// keep theirs.
    #[arg(help_heading = None::<&str>, long, value_name = "FILE")]
    pub json_schema: Option<PathBuf>,

    /// Maximum number of tokens of an answer
    ///
    /// [default: the provider's; 4096 for Anthropic, which requires one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), hide_short_help = true)]
    pub max_tokens: Option<u32>,

    /// complete (the default), or embed
    ///
    /// What to request: `complete`, an answer to each prompt, or `embed`, its embedding; many embeddings share a
    /// call.
    #[arg(long, value_name = "TASK", value_parser = one_of(&TASKS), default_value = "complete",
        hide_default_value = true, hide_possible_values = true, hide_short_help = true)]
    pub task: RequestTask,

    /// Randomness, 0 to 2 [default: the provider's]
    #[arg(long, value_name = "X", value_parser = temperature, hide_short_help = true)]
    pub temperature: Option<f64>,

    /// Further fields of every request, as a JSON object
    ///
    /// Fields in an input line take precedence. @FILE reads the object from a file. The provider gets the fields
    /// unchanged; they are part of the request hash.
    #[arg(long, value_name = "JSON", value_parser = text_or_file, hide_short_help = true)]
    pub extra: Option<String>,

    /// Service tier of the provider, for example flex or priority
    ///
    /// The field `service_tier` of every request. The provider rejects a tier that it does not have.
    #[arg(long, value_name = "TIER", value_parser = name, hide_short_help = true)]
    pub service_tier: Option<String>,
}

const TASKS: [(&str, RequestTask); 2] = [
    ("complete", RequestTask::Complete),
    ("embed", RequestTask::Embed),
];

/// Flags for what is shown.
#[derive(Debug, Args)]
#[command(next_help_heading = "Display")]
pub struct ShowArgs {
    /// Progress on standard error: `auto` shows a bar on a terminal, and otherwise a line from time to time
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = When::Auto, hide_short_help = true,
        env = "BATCHWRIGHT_PROGRESS", hide_env = true)]
    pub progress: When,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum When {
    Auto,
    Always,
    Never,
}

/// Flags that limit the program.
#[derive(Debug, Args)]
pub struct MemoryArgs {
    /// Memory limit of the program, for example 500M or 2G
    ///
    /// At the limit, attached files, and prompts and replies of more than 256K, wait; one of them is always processed,
    /// with a warning. A prompt of more than a third of SIZE is rejected with its line number.
    #[arg(help_heading = "Pace", long, value_name = "SIZE", value_parser = bytes,
        default_value = "500M", hide_short_help = true)]
    pub max_memory: u64,
}

impl MemoryArgs {
    /// Applies the limit to the whole OS process.
    pub fn apply(&self) {
        MemoryManager::of_process().set_ceiling(self.max_memory);
    }
}

/// Flags that select the queue.
#[derive(Args)]
pub struct DataArgs {
    #[command(flatten)]
    pub file: QueueFileArg,

    #[command(flatten)]
    pub store: StoreArgs,
}

/// A queue in a file that the user names.
#[derive(Debug, Args)]
pub struct QueueFileArg {
    /// File of the queue, such as OUTPUT.batchwright
    ///
    /// Used instead of the queue in the data folder. `run --strategy batch` keeps its items in such a file next to its
    /// output.
    #[arg(long, value_name = "FILE")]
    pub queue: Option<PathBuf>,
}

/// Flags that select a queue on a server; its settings are there too.
#[derive(Args)]
pub struct StoreArgs {
    /// Database server of the queue, for example mysql://USER@HOST/DATABASE
    ///
    /// The queue is then in MySQL 8 or MariaDB 10.6 and newer, and workers on many machines share it. The password
    /// comes from the address, from BATCHWRIGHT_STORE_PASSWORD, or from the file that BATCHWRIGHT_STORE_PASSWORD_FILE
    /// names. docs/many-machines.md lists the parts of the address. `none` selects the file in the data folder,
    /// regardless of the settings. [env: BATCHWRIGHT_STORE] [config: queue.store] [default: the file `llm_jobs.db` in
    /// the data folder]
    #[arg(long, value_name = "ADDRESS", hide_short_help = true)]
    #[arg(env = "BATCHWRIGHT_STORE", hide_env = true)]
    pub store: Option<String>,

    /// Redis or Valkey in addition to --store, for example redis://HOST:6379
    ///
    /// Commands on any machine wake idle workers through it within milliseconds. Set it for every command that uses
    /// the queue. rediss:// encrypts the connection. The password comes from the address, from
    /// BATCHWRIGHT_REDIS_PASSWORD, or from the file that BATCHWRIGHT_REDIS_PASSWORD_FILE names. If Redis is
    /// unreachable, work continues without it. [env: BATCHWRIGHT_REDIS] [config: queue.redis] [default: none]
    #[arg(long, value_name = "ADDRESS", hide_short_help = true)]
    #[arg(env = "BATCHWRIGHT_REDIS", hide_env = true)]
    pub redis: Option<String>,

    /// The flags by which another command finds the queue, with a space before each: the environment and the settings
    /// are the same for it.
    #[arg(skip)]
    pub flags: String,

    /// Whether a queue of an earlier version stays in it.
    #[arg(skip)]
    pub as_it_is: bool,
}

/// Flags for messages, which every command has.
#[derive(Debug, Args)]
#[command(next_help_heading = "Display")]
pub struct SayArgs {
    /// Print only errors
    #[arg(short, long, global = true)]
    pub quiet: bool,

    /// Minimum log level: error, warn, info or debug
    ///
    /// Overrides -q and RUST_LOG. Bodies and keys are never logged.
    #[arg(long, value_name = "LEVEL", value_parser = one_of(&LEVELS), ignore_case = true, global = true,
        hide_possible_values = true, hide_short_help = true, env = "BATCHWRIGHT_LOG_LEVEL", hide_env = true)]
    pub log_level: Option<&'static str>,

    /// Print the result, or the error, as JSON
    ///
    /// One object on standard output, for scripts; an error is {"error": {"kind": …, "message": …}, "exit_code": N}.
    #[arg(long, global = true, hide_short_help = true)]
    pub json: bool,

    /// Folder of the settings, the queue and the data that runs share
    ///
    /// [env: BATCHWRIGHT_DATA_DIR, else BATCHWRIGHT_HOME] [default: the platform's data folder]
    #[arg(long, value_name = "DIR", global = true)]
    #[arg(hide_short_help = true, env = "BATCHWRIGHT_DATA_DIR")]
    #[arg(hide_env = true)]
    pub data_dir: Option<PathBuf>,
}

/// Each level with the filter of the log that it stands for.
const LEVELS: [(&str, &str); 4] = [
    ("error", "error"),
    ("warn", "warn"),
    ("info", "batchwright=info,warn"),
    ("debug", "batchwright=debug,info"),
];
