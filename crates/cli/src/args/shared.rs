//! Groups of arguments that several commands take.

use std::fmt;
use std::path::PathBuf;

use batchwright::progress::MemoryManager;
use clap::{Args, ValueEnum};

use super::values::{bytes, name, temperature, text_or_file};

/// What ends the short help.
pub const MORE: &str = "Rare flags, examples and exit codes are shown by --help.";

/// Where prompts go.
#[derive(Debug, Args)]
#[command(next_help_heading = "Provider")]
pub struct ProviderArgs {
    /// Who is asked; `batchwright providers` lists them
    ///
    /// [env: BATCHWRIGHT_PROVIDER] [config: llm.provider] [default: the first usable one]
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub provider: Option<String>,

    /// Model for prompts that name none
    ///
    /// Part of what makes two requests the same: naming another one runs them again.
    /// BATCHWRIGHT_MODEL and the setting llm.model are a default instead, which reruns nothing.
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub model: Option<String>,

    /// Address of the provider's API
    #[arg(long, value_name = "URL", value_parser = name)]
    pub base_url: Option<String>,

    /// Header for every call, as 'Name: value'
    ///
    /// May be repeated. Sent with calls, uploads and downloads of the provider that is named, and to no fallback. @FILE
    /// reads one a line, so that no other user of the machine sees it. One that says who pays
    /// (authorization, x-api-key, api-key) takes the place of the key in the environment. Values of 8
    /// characters and more are shown nowhere.
    #[arg(long, value_name = "HEADER")]
    pub header: Vec<String>,

    /// Who takes over what failed, as groq:MODEL,extract
    ///
    /// Providers that take over what the first one finally failed, separated by commas, each with
    /// a model of its own: groq:MODEL,extract; a blocked or refused answer does not move on, unless
    /// --fallback-blocked [env: BATCHWRIGHT_FALLBACK] [config: llm.fallback] [default: none]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub fallback: Option<Vec<String>>,

    /// Ask the next provider of --fallback also where one blocked the prompt or refused to answer
    #[arg(long, hide_short_help = true)]
    pub fallback_blocked: bool,
}

/// What is added to each prompt.
#[derive(Debug, Args)]
#[command(next_help_heading = "Prompts")]
pub struct PromptArgs {
    /// Makes a prompt of a row: 'Is this spam? {{text}}'
    ///
    /// {{column}} stands for a field of the row or line, {{file:column}} for the file whose path it holds;
    /// @FILE reads the template from a file. Blocks, comments and filters are those of Jinja:
    /// {% if lines > 40 %}Briefly: {% endif %}{{content|trim}}. Fields of CSV are texts there: stars|int > 3. A name with
    /// blanks is written {{row["Review Text"]}}
    #[arg(long, value_name = "TEXT", value_parser = text_or_file)]
    pub template: Option<String>,

    /// System text for prompts without their own
    ///
    /// @FILE reads it from a file.
    #[arg(long, value_name = "TEXT", value_parser = text_or_file)]
    pub system: Option<String>,

    /// Ask for answers that fit a JSON Schema
    ///
    /// FILE, @FILE, or the schema itself, which begins with `{`. An answer that does not fit is
    /// asked for again once, with what is wrong, and then fails. Lines that bring a
    /// `response_format` keep theirs.
    #[arg(long, value_name = "FILE", conflicts_with = "json_mode")]
    pub json_schema: Option<PathBuf>,

    /// The most tokens to answer with
    ///
    /// [default: the provider's; 4096 for Anthropic, which must be told one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,

    /// complete (the default), or embed for vectors
    ///
    /// What is asked for: `complete`, an answer to each prompt, or `embed`, its vector; many vectors
    /// share a call.
    #[arg(long, value_name = "TASK", value_enum, default_value_t = TaskArg::Complete,
        hide_default_value = true, hide_possible_values = true)]
    pub task: TaskArg,

    /// Ask for answers that are JSON objects, in the system text too where a prompt does not say so.
    /// Anything else is asked for again once and then fails
    #[arg(long, hide_short_help = true)]
    pub json_mode: bool,

    /// Keep the provider's whole reply in each result, as `reply`
    ///
    /// Whatever it holds beside what a result has a field for. What is finished does not run again for it.
    #[arg(help_heading = "Results", long, hide_short_help = true)]
    pub keep_reply: bool,

    /// Randomness, 0 to 2 [default: the provider's]
    #[arg(long, value_name = "X", value_parser = temperature, hide_short_help = true)]
    pub temperature: Option<f64>,

    /// Further fields of every request, as a JSON object
    ///
    /// Beneath those that a line brings itself; @FILE reads them from a file. Part of what makes two requests
    /// the same. What the provider has no place for is left out, with a warning.
    #[arg(long, value_name = "JSON", value_parser = text_or_file, hide_short_help = true)]
    pub extra: Option<String>,

    /// Tier of the provider's service, such as flex or priority
    ///
    /// The field `service_tier` of every request, in the words of the provider; one that it is known not to have
    /// is refused. What it costs is the provider's matter.
    #[arg(long, value_name = "TIER", value_parser = name, hide_short_help = true)]
    pub service_tier: Option<String>,

    /// Numbers in a vector, with --task embed [default: the model's own]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..),
        hide_short_help = true)]
    pub dimensions: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TaskArg {
    Complete,
    Embed,
}

/// What is shown.
#[derive(Debug, Args)]
#[command(next_help_heading = "Display")]
pub struct ShowArgs {
    /// How much is said, and how.
    #[command(flatten)]
    pub say: SayArgs,

    /// Progress on standard error: `auto` shows a bar on a terminal and a line now and then
    /// elsewhere
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = When::Auto,
        hide_short_help = true)]
    pub progress: When,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum When {
    Auto,
    Always,
    Never,
}

/// Where numbers are written for others.
#[derive(Debug, Args)]
pub struct MetricsArgs {
    /// Write counts and times to this file, for Prometheus
    ///
    /// Every five seconds and at the end, as a whole: named so, `metrics.prom` in the folder of node-exporter's textfile
    /// collector is scraped with the rest of the machine.
    #[arg(
        help_heading = "Display",
        long,
        value_name = "FILE",
        hide_short_help = true
    )]
    pub metrics_file: Option<PathBuf>,
}

/// What the program may have.
#[derive(Debug, Args)]
pub struct MemoryArgs {
    /// Memory that the program may have, as 500M or 2G
    ///
    /// It is measured. While there is no room, prompts of more than 256K and files that go out with prompts wait, and
    /// replies of more than 256K are set aside in temporary files. One at a time goes on in any case, with a warning. A
    /// prompt of more than a third of SIZE is refused with its line number. Small prompts and their answers never wait.
    #[arg(help_heading = "Pace", long, value_name = "SIZE", value_parser = bytes,
        default_value = "500M", hide_short_help = true)]
    pub max_memory: u64,
}

impl MemoryArgs {
    /// Holds the whole process to it.
    pub fn apply(&self) {
        MemoryManager::of_process().set_ceiling(self.max_memory);
    }
}

/// Where the queue is.
#[derive(Debug, Args)]
pub struct DataArgs {
    /// Folder of the queue
    ///
    /// The queue is the file `llm_jobs.db` in it [env: BATCHWRIGHT_HOME] [default: the platform's
    /// data folder]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    #[command(flatten)]
    pub store: StoreArgs,
}

/// The queue on a server, and the settings beside it.
#[derive(Args)]
pub struct StoreArgs {
    /// Database server of the queue, for example mysql://USER@HOST/DATABASE
    ///
    /// The queue and its settings are in MySQL 8 or MariaDB 10.6 and newer, and workers on many machines share them. The password comes from the
    /// address, from BATCHWRIGHT_STORE_PASSWORD, or from the file that BATCHWRIGHT_STORE_PASSWORD_FILE names. The connection
    /// is encrypted unless the server is on loopback: ?tls=off switches that off, ?ca=FILE names the authority of the server's
    /// certificate, ?tables=NAME the tables. `none` selects the file in the data folder, regardless of the settings.
    /// [env: BATCHWRIGHT_STORE] [config: queue.store, in the data folder] [default: the file `llm_jobs.db` in the data folder]
    #[arg(long, value_name = "ADDRESS", global = true, hide_short_help = true)]
    pub store: Option<String>,

    /// Redis or Valkey beside --store, for example redis://HOST:6379
    ///
    /// Commands on any machine wake idle workers through it within milliseconds, and the workers share one rate limit per provider, API
    /// key and model. Give it to every command that uses the queue. rediss:// encrypts the connection; ?ca=FILE names the
    /// authority of the server's certificate. The password comes from the address, from BATCHWRIGHT_REDIS_PASSWORD, or from the
    /// file that BATCHWRIGHT_REDIS_PASSWORD_FILE names. While Redis cannot be reached, work continues without it.
    /// [env: BATCHWRIGHT_REDIS] [config: queue.redis, in the settings of the queue's server] [default: none]
    #[arg(long, value_name = "ADDRESS", hide_short_help = true)]
    pub redis: Option<String>,

    /// Where the address of the server comes from.
    #[arg(skip)]
    pub source: StoreSource,
}

/// The source of the queue's address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum StoreSource {
    /// The default: the file in the data folder.
    #[default]
    Default,
    /// `--store`.
    Flag,
    /// BATCHWRIGHT_STORE.
    Variable,
    /// `queue.store` in this file of settings.
    Setting(PathBuf),
}

impl fmt::Debug for StoreArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Addresses may hold passwords.
        f.debug_struct("StoreArgs")
            .field("is_given", &self.store.is_some())
            .field("has_redis", &self.redis.is_some())
            .finish()
    }
}

/// How the provider of batches is reached, where that is in no variable.
#[derive(Debug, Args)]
pub struct BatchProviderArgs {
    /// Provider that --base-url and --header are for
    ///
    /// [env: BATCHWRIGHT_PROVIDER] [config: llm.provider]
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub provider: Option<String>,

    /// Address of its API, if the run named one
    ///
    /// Batches belong to the address that they were made at.
    #[arg(long, value_name = "URL", value_parser = name)]
    pub base_url: Option<String>,

    /// Header for every call, as 'Name: value'
    ///
    /// Of that provider, as with run and work: may be repeated, and @FILE reads one a line. Needed where a header says who
    /// pays, since batches are those of its account.
    #[arg(long, value_name = "HEADER")]
    pub header: Vec<String>,
}

impl BatchProviderArgs {
    /// True when nothing is said that variables do not say.
    pub fn is_empty(&self) -> bool {
        self.base_url.is_none() && self.header.is_empty()
    }
}

/// How much is said.
#[derive(Debug, Args)]
pub struct SayArgs {
    /// Say nothing but errors
    #[arg(short, long)]
    pub quiet: bool,

    /// Say more; -vv says much more
    ///
    /// Bodies and keys are never logged.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Log events of this level and worse; more than -q and -v, and than RUST_LOG
    #[arg(
        long,
        value_name = "LEVEL",
        value_enum,
        ignore_case = true,
        hide_short_help = true
    )]
    pub log_level: Option<LogLevel>,

    /// How standard error is written: for people, or with one JSON object a line
    ///
    /// JSON has the fields `timestamp`, `level`, `target` and `message`, and those of the event, under the names of
    /// OpenTelemetry where they have one there, such as `gen_ai.provider.name`.
    #[arg(long, value_name = "FORM", value_enum, default_value_t = LogFormat::Text, hide_short_help = true)]
    pub log_format: LogFormat,
}

/// How bad an event must be to be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// What the commands take that change a process.
#[derive(Debug, Args)]
pub struct ProcessArgs {
    #[command(flatten)]
    pub data: DataArgs,

    /// Print the numbers, or the error, as JSON
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub say: SayArgs,
}

impl ProcessArgs {
    /// Whether an error is printed as JSON, too, and whether that is all.
    pub fn error_form(&self) -> (bool, bool) {
        (self.json, self.say.quiet)
    }
}
