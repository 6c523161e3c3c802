//! The arguments of `batchwright run`.

use std::path::PathBuf;
use std::time::Duration;

use batchwright::ErrorPolicy;
use clap::{Args, ValueEnum};

use super::input::InputArgs;
use super::shared::{MORE, MemoryArgs, MetricsArgs, PromptArgs, ProviderArgs, ShowArgs};
use super::values::{at_least_one, seconds, words_for};

/// Run prompts to completion; run the same command again to resume
///
/// INPUT is checked whole before anything is sent. Results are written as they come, one JSON line
/// an item; the output file is the checkpoint: a second run skips what is finished and runs what
/// failed, changed or was never sent.
#[derive(Debug, Args)]
#[command(after_help = MORE, after_long_help = HELP)]
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

    /// Ask equal prompts once, whatever their temperature
    ///
    /// Each gets the answer in a line of its own, which names the item that was asked under `answered_by`; answers that the
    /// output has already are used too. Standard input is read to its end first; --dry-run says how many calls are saved. Without the flag it is done for prompts of temperature 0 and for vectors. Samples of a prompt are never equal
    /// [env: BATCHWRIGHT_DEDUPE] [config: llm.dedupe] [default: auto]
    #[arg(
        help_heading = "Prompts",
        long,
        hide_short_help = true,
        overrides_with = "no_dedupe"
    )]
    pub dedupe: bool,

    /// Ask each prompt, also where an equal one has an answer
    #[arg(
        help_heading = "Prompts",
        long,
        hide_short_help = true,
        overrides_with = "dedupe"
    )]
    pub no_dedupe: bool,

    /// Take answers of earlier runs, and keep those of this one for later ones
    ///
    /// Whatever their outputs: answers to the same request, of the same provider and model. They are kept in the file reuse.db of
    /// the data folder, up to 1 GiB [config: reuse.max_mib]; lines that are taken from there say "reused": true. As without the flag,
    /// prompts share answers where their temperature is 0, with --dedupe all do
    #[arg(
        help_heading = "Prompts",
        long,
        hide_short_help = true,
        conflicts_with = "no_dedupe"
    )]
    pub reuse: bool,

    #[command(flatten)]
    pub pace: PaceArgs,

    /// Send nothing; say what would be done
    ///
    /// The input is checked as before a real run. No key is needed.
    #[arg(help_heading = "Results", long)]
    pub dry_run: bool,

    /// With --dry-run: print this many complete requests
    ///
    /// Each is a line of JSON on standard output, with its id, URL and body; with --json they are in `requests`. No key is
    /// printed
    #[arg(help_heading = "Results", long = "show", value_name = "N", requires = "dry_run",
        value_parser = at_least_one, hide_short_help = true)]
    pub shown_requests: Option<usize>,

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
    /// a picture without a text; each is paid for again
    #[arg(help_heading = "Results", long, hide_short_help = true)]
    pub ask_again: bool,

    /// Delete answers that new ones replace
    ///
    /// Delete the earlier answers of items whose request changed, once new ones are there. Without the flag they
    /// are moved to OUTPUT.superseded.jsonl, with the time and the reason
    #[arg(help_heading = "Results", long, hide_short_help = true)]
    pub drop_superseded: bool,

    /// Buy changed items again without asking
    ///
    /// On a terminal, a run asks before it buys more than 20 answers again because their requests changed. Without a
    /// terminal it does not ask
    #[arg(help_heading = "Results", long, short = 'y', hide_short_help = true)]
    pub yes: bool,

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
    pub memory: MemoryArgs,

    #[command(flatten)]
    pub metrics: MetricsArgs,

    #[command(flatten)]
    pub show: ShowArgs,
}

const HELP: &str = "\
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

Every flag has an environment variable, for example BATCHWRIGHT_DATA_DIR for --data-dir.

Exit codes:
  0 all succeeded            3 finished, some items failed
  1 could not run            4 stopped early, can be resumed
  2 bad usage or input       130, 143 interrupted, what finished is saved";

/// How fast, and how patiently.
#[derive(Debug, Args)]
#[command(next_help_heading = "Pace")]
pub struct PaceArgs {
    /// Calls in flight; auto finds how many help
    ///
    /// It begins with 5, and makes up to 256 as long as they bring more answers and are not refused [env:
    /// BATCHWRIGHT_SYNC_CONCURRENCY] [config: llm.sync_concurrency] [default: a local server's slots or
    /// 1, else auto]
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnError {
    Continue,
    Stop,
    StopCritical,
}

impl OnError {
    /// The name, as settings have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Continue => "continue",
            Self::Stop => "stop",
            Self::StopCritical => "stop-critical",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::Continue, Self::Stop, Self::StopCritical];
        all.into_iter().find(|one| one.name() == name)
    }

    pub fn policy(self) -> ErrorPolicy {
        match self {
            Self::Continue => ErrorPolicy::ContinueOnError,
            Self::Stop => ErrorPolicy::StopOnError,
            Self::StopCritical => ErrorPolicy::StopOnCriticalError,
        }
    }
}
