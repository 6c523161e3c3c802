//! The arguments of `batchwright run`.

use std::path::PathBuf;

use batchwright::{ErrorPolicy, Usd};
use clap::{Args, ValueEnum};

use super::input::InputArgs;
use super::shared::{MemoryArgs, PaceArgs, PromptArgs, ProviderArgs, ShowArgs};
use super::values::{at_least_one, dollars, one_of};

/// Run prompts to completion; run the same command again to resume
///
/// INPUT is checked completely before anything is sent. Each result is written when it arrives, as one JSON line.
/// The output file is the checkpoint: a second run skips finished items and sends failed, changed and new ones.
#[derive(Debug, Args)]
#[command(after_long_help = include_str!("../../data/help/run.txt"))]
pub struct RunArgs {
    #[command(flatten)]
    pub input: InputArgs,

    /// File for the results; run the same again to resume
    ///
    /// Without it, results go to standard output, and the run cannot be resumed.
    #[arg(help_heading = None::<&str>, short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    #[command(flatten)]
    pub provider: ProviderArgs,

    #[command(flatten)]
    pub pace: PaceArgs,

    #[command(flatten)]
    pub prompt: PromptArgs,

    /// Send identical requests once
    ///
    /// Each item gets a result line with the answer; `answered_by` names the item that was sent. Answers that are
    /// already in the output are used too; --dry-run reports how many calls are saved. Runs in batches send every prompt; they reject this flag
    #[arg(help_heading = "Prompts", long, hide_short_help = true)]
    pub dedupe: bool,

    /// Retries of an item at each provider
    #[arg(help_heading = "Pace", long, value_name = "N")]
    #[arg(default_value_t = 3, hide_short_help = true)]
    pub max_retries: u8,

    /// Send nothing; print what would be done
    ///
    /// The input is checked as before a real run, and its tokens and cost are estimated. No key is needed.
    #[arg(help_heading = None::<&str>, long)]
    pub dry_run: bool,

    /// Send at most this many items in this run
    ///
    /// If they all succeed, the exit code is 0 even if other items remain.
    #[arg(help_heading = "Results", long, value_name = "N", value_parser = at_least_one, hide_short_help = true)]
    pub max_items: Option<usize>,

    /// Maximum cost of this output in US dollars
    ///
    /// Before each call, the most that it can cost is reserved. The run stops when the next call could exceed the
    /// budget. What was spent is in OUTPUT.budget and counts when the run is resumed, also after a crash
    #[arg(help_heading = None::<&str>, long, alias = "max-cost", value_name = "USD", value_parser = dollars)]
    pub budget: Option<Usd>,

    /// continue, stop, or stop-critical (the default)
    ///
    /// What to do when an item fails. `stop-critical` stops only on errors that affect every item: a rejected key,
    /// no credit, an unknown model, a wrong address. Under every policy, a provider that rejects the key is not
    /// called again.
    #[arg(help_heading = "Results", long, value_name = "POLICY", value_parser = one_of(&ON_ERROR),
        default_value = "stop-critical", hide_default_value = true, hide_possible_values = true, hide_short_help = true)]
    pub on_error: ErrorPolicy,

    /// Items to send again: failed, none, changed or all
    ///
    /// `failed`: those that failed in earlier runs, but not those whose reply was paid for and has no usable answer, for
    /// example an image without text. `changed`: also answered items that an earlier version sent otherwise. `all`: all
    /// these; each is billed again. `none`: no failed item
    #[arg(help_heading = "Results", long, value_name = "WHAT", value_enum, default_value_t = Resend::Failed,
        hide_default_value = true, hide_possible_values = true, hide_short_help = true)]
    pub resend: Resend,

    /// With `--strategy batch`: exit when everything is submitted; run the same command later to collect the
    /// results
    #[arg(help_heading = "Results", long, hide_short_help = true)]
    pub no_wait: bool,

    /// Sort the results into the order of the input at the end
    #[arg(help_heading = "Results", long, hide_short_help = true)]
    pub ordered: bool,

    /// Sync every write to the disk, so that finished results survive a power failure
    #[arg(help_heading = "Results", long, hide_short_help = true)]
    pub fsync: bool,

    #[command(flatten)]
    pub memory: MemoryArgs,

    #[command(flatten)]
    pub show: ShowArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Resend {
    Failed,
    None,
    Changed,
    All,
}

/// What the failure of an item leads to, by name.
pub const ON_ERROR: [(&str, ErrorPolicy); 3] = [
    ("continue", ErrorPolicy::ContinueOnError),
    ("stop", ErrorPolicy::StopOnError),
    ("stop-critical", ErrorPolicy::StopOnCriticalError),
];
