//! What can be typed, and the help that teaches it.

pub mod simulate_batches;
pub mod values;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::args::values::{at_least_one, name, seconds, temperature, text_or_file};
use crate::commands::cancel::{CancelArgs, RetryArgs};
use crate::commands::doctor::DoctorArgs;
use crate::commands::results::ResultsArgs;
use crate::commands::shell::{CompletionsArgs, ManArgs};
use crate::commands::simulate::SimulateArgs;
use crate::commands::status::StatusArgs;
use crate::commands::submit::SubmitArgs;
use crate::commands::work::WorkArgs;
use crate::input::InputArgs;
use crate::settings::words_for;

/// Takes thousands of LLM prompts to completion, loses none, and pays for each once
#[derive(Debug, Parser)]
#[command(name = "batchwright", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Run(Box<RunArgs>),
    Submit(Box<SubmitArgs>),
    Work(Box<WorkArgs>),
    Status(StatusArgs),
    Results(ResultsArgs),
    Cancel(CancelArgs),
    Retry(RetryArgs),
    Doctor(DoctorArgs),
    Providers(ProvidersArgs),
    Config(ConfigArgs),
    Simulate(Box<SimulateArgs>),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Run prompts to completion; run the same command again to resume
///
/// INPUT is checked whole before anything is sent. Results are written as they come, one JSON line
/// an item; the output file is the checkpoint: a second run skips what is finished and runs what
/// failed, changed or was never sent.
#[derive(Debug, Args)]
#[command(after_help = MORE, after_long_help = RUN_HELP)]
pub struct RunArgs {
    #[command(flatten)]
    pub input: InputArgs,

    /// File for the results; run the same again to resume
    ///
    /// Without it they go to standard output, which cannot be resumed from.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    #[command(flatten)]
    pub provider: ProviderArgs,

    /// sync, or batch: half the price, within a day
    ///
    /// How prompts are carried out: `sync`, each a call of its own, or `batch`, handed over to the
    /// provider's Batch API, at half the price within a day; a provider without one runs `sync` [env:
    /// BATCHWRIGHT_BULK_STRATEGY] [config: llm.bulk_strategy] [default: sync]
    #[arg(help_heading = "Provider", long, value_name = "NAME", value_parser = words_for("llm.bulk_strategy"))]
    pub strategy: Option<String>,

    #[command(flatten)]
    pub prompt: PromptArgs,

    #[command(flatten)]
    pub pace: PaceArgs,

    /// Send nothing; say what would be done
    ///
    /// The input is checked as before a real run.
    #[arg(help_heading = "Results", long)]
    pub dry_run: bool,

    /// Send at most this many items in this run
    ///
    /// If they succeed the exit code is 0, whatever is left.
    #[arg(help_heading = "Results", long, value_name = "N", value_parser = at_least_one)]
    pub max_items: Option<usize>,

    /// continue, stop, or stop-critical (the default)
    ///
    /// What a failed item means for the others: `stop-critical` stops for errors that all share
    /// (a refused key, an empty account, an unknown model, a wrong address); whatever the policy, a
    /// provider that refuses the key is not called again.
    #[arg(help_heading = "Results", long, value_name = "POLICY", value_enum,
        default_value_t = OnError::StopCritical, hide_default_value = true,
        hide_possible_values = true)]
    pub on_error: OnError,

    /// Print the summary, or the error, as JSON (with -o)
    ///
    /// The summary goes to standard output as one JSON object; so does an error that prevents the
    /// run: {"error": {"kind": …, "message": …}, "exit_code": N}.
    #[arg(help_heading = "Results", long, requires = "output")]
    pub json: bool,

    /// Keep the failed items of earlier runs as they are instead of trying them again
    #[arg(help_heading = "Results", long, hide_short_help = true)]
    pub keep_failed: bool,

    /// Pay again where a reply could not be used
    ///
    /// Send items again that earlier runs got a reply for that was paid for and cannot be used, such as
    /// a tool call without a text; each is paid for again
    #[arg(help_heading = "Results", long, hide_short_help = true)]
    pub ask_again: bool,

    /// With `--strategy batch`: end as soon as all is handed over; the same command collects the results
    /// later
    #[arg(help_heading = "Results", long, hide_short_help = true)]
    pub no_wait: bool,

    /// Put the results into the order of the input when all is done
    #[arg(help_heading = "Results", long, hide_short_help = true)]
    pub ordered: bool,

    /// Sync every write to the disk, so that finished results survive a power loss too
    #[arg(help_heading = "Results", long, hide_short_help = true)]
    pub fsync: bool,

    #[command(flatten)]
    pub show: ShowArgs,
}

/// What ends the short help.
pub const MORE: &str = "Rare flags, examples and exit codes are shown by --help.";

const RUN_HELP: &str = "\
Input lines (.jsonl; the forms may be mixed):
  {\"id\": \"a-1\", \"prompt\": \"Name a prime.\"}
  {\"id\": \"a-2\", \"messages\": [{\"role\": \"user\", \"content\": \"Name a prime.\"}]}
  {\"custom_id\": \"a-3\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": {…}}
A .json file holds one list of such objects, a .txt file one prompt a line. A .csv or .tsv file makes
one prompt a row:
  batchwright run mails.csv --template 'Is this spam? {{subject}} {{text}}' -o out.jsonl
The vector of each text instead of an answer (also from batch lines for /v1/embeddings):
  batchwright run texts.txt --task embed --model text-embedding-3-small -o vectors.jsonl

At half the price, within a day:
  batchwright run prompts.jsonl -o out.jsonl --strategy batch
It waits, and may be stopped or killed: what is handed over goes on at the provider. The same command
attaches to it again, from any folder and also when INPUT was edited: only what is new or changed is
submitted. With --no-wait it ends once all is handed over. The prompts wait in the queue of the data
folder meanwhile; `batchwright status` shows them, `batchwright cancel ID` gives them up.

Exit codes:
  0 all succeeded            3 finished, some items failed
  1 could not run            4 stopped early, can be resumed
  2 bad usage or input       130, 143 interrupted, what finished is saved";

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
    /// {{column}} stands for a field of the row or line; @FILE reads the template from a file.
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

    /// Randomness, 0 to 2 [default: the provider's]
    #[arg(long, value_name = "X", value_parser = temperature, hide_short_help = true)]
    pub temperature: Option<f64>,

    /// Numbers in a vector, with --task embed [default: the model's own]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..),
        hide_short_help = true)]
    pub dimensions: Option<u32>,
}

/// How fast, and how patiently.
#[derive(Debug, Args)]
#[command(next_help_heading = "Pace")]
pub struct PaceArgs {
    /// Calls in flight
    ///
    /// [env: BATCHWRIGHT_SYNC_CONCURRENCY] [config: llm.sync_concurrency] [default:
    /// the provider's: a local server's slots or 1, else 5]
    #[arg(short = 'j', long, value_name = "N", value_parser = words_for("llm.sync_concurrency"))]
    pub concurrency: Option<String>,

    /// Requests per minute
    ///
    /// [env: RATE_LIMIT_REQUESTS_PER_MINUTE] [config: llm.requests_per_minute]
    /// [default: learned from the provider's replies]
    #[arg(long, value_name = "N", value_parser = words_for("llm.requests_per_minute"))]
    pub rpm: Option<String>,

    /// Tokens per minute [env: RATE_LIMIT_TOKENS_PER_MINUTE] [config: llm.tokens_per_minute]
    /// [default: learned]
    #[arg(long, value_name = "N", value_parser = words_for("llm.tokens_per_minute"),
        hide_short_help = true)]
    pub tpm: Option<String>,

    /// Retries of an item at each provider
    #[arg(long, value_name = "N", default_value_t = 3, hide_short_help = true)]
    pub max_retries: u8,

    /// The longest wait for one call [env: AI_REQUEST_TIMEOUT] [config: llm.request_timeout]
    /// [default: 600s]
    #[arg(long, value_name = "TIME", value_parser = words_for("llm.request_timeout"),
        hide_short_help = true)]
    pub timeout: Option<String>,

    /// Folder for what several runs share: settings (see `batchwright config`), and the limits and
    /// pauses of the same provider, key and model, which hold for all of them together [env:
    /// BATCHWRIGHT_HOME] [default: the platform's data folder]
    #[arg(long, value_name = "DIR", hide_short_help = true)]
    pub data_dir: Option<PathBuf>,

    /// How long calls in flight may go on after Ctrl-C
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = seconds,
        hide_short_help = true)]
    pub grace: Duration,
}

/// What is shown.
#[derive(Debug, Args)]
#[command(next_help_heading = "Display")]
pub struct ShowArgs {
    /// Say nothing but errors
    #[arg(short, long)]
    pub quiet: bool,

    /// Say more; -vv says much more
    ///
    /// Bodies and keys are never logged.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Progress on standard error: `auto` shows a bar on a terminal and a line now and then
    /// elsewhere
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = When::Auto,
        hide_short_help = true)]
    pub progress: When,
}

/// Show each provider: usable or why not, model, address, calls
#[derive(Debug, Args)]
pub struct ProvidersArgs {
    /// Model to assume for prompts that name none
    ///
    /// [env: BATCHWRIGHT_MODEL] [config: llm.model]
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub model: Option<String>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Folder whose settings are looked at
    ///
    /// [env: BATCHWRIGHT_HOME] [default: the platform's data folder]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// Show and change stored settings: provider, model, limits and more
///
/// What is stored holds for every run and worker of this data folder, unless the environment or a
/// flag says otherwise.
#[derive(Debug, Args)]
#[command(after_help = MORE, after_long_help = crate::commands::config::help(), arg_required_else_help = true)]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub action: ConfigAction,

    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,

    /// Folder of the settings
    ///
    /// [env: BATCHWRIGHT_HOME] [default: the platform's data folder]
    #[arg(long, value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum ConfigAction {
    /// Show every setting: its value, and where that comes from
    ///
    /// And what it overrides.
    List,
    /// Print the value that holds
    Get {
        /// Its name, such as llm.model
        key: String,
    },
    /// Store a value
    Set {
        /// Its name, such as llm.model; `batchwright config --help` lists them all
        key: String,
        /// The value
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Forget a stored value
    Unset {
        /// Its name, such as llm.model
        key: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TaskArg {
    Complete,
    Embed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnError {
    Continue,
    Stop,
    StopCritical,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum When {
    Auto,
    Always,
    Never,
}
