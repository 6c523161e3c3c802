//! The arguments of `batchwright submit`.

use batchwright::queue::PRIORITIES;
use batchwright::{Job, ProcessId};
use clap::Args;

use super::input::InputArgs;
use super::shared::{DataArgs, MORE, PromptArgs, ShowArgs};
use super::values::name;

/// Put prompts on the queue; prints the id of their process
///
/// INPUT is checked whole before anything is queued, as `run` does. Nothing is sent: `batchwright
/// work` does that, now or later, here or in another terminal. All prompts are queued or none.
#[derive(Debug, Args)]
#[command(after_help = MORE, after_long_help = HELP)]
pub struct SubmitArgs {
    #[command(flatten)]
    pub input: InputArgs,

    /// Model for prompts that name none
    ///
    /// [default: that of the worker]
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub model: Option<String>,

    #[command(flatten)]
    pub prompt: PromptArgs,

    /// Which jobs go first, 1 to 10
    ///
    /// Also by name: critical (10), high (7 to 9), normal (4 to 6), low (1 to 3)
    #[arg(help_heading = "Queue", long, value_name = "N", default_value_t = Job::DEFAULT_PRIORITY,
        value_parser = priority)]
    pub priority: u8,

    /// Retries of an item at each provider [default: the worker's]
    #[arg(help_heading = "Queue", long, value_name = "N", hide_short_help = true)]
    pub max_retries: Option<u8>,

    /// Name that people know it by [default: the input's]
    ///
    /// The process is shown by it, in `batchwright status` for one.
    #[arg(help_heading = "Queue", long, value_name = "NAME", value_parser = name)]
    pub name: Option<String>,

    /// Id of the process, a UUID of your own that is not in the queue yet: to submit at most once
    /// [default: a new one]
    #[arg(
        help_heading = "Queue",
        long,
        value_name = "ID",
        hide_short_help = true
    )]
    pub process: Option<ProcessId>,

    #[command(flatten, next_help_heading = "Queue")]
    pub data: DataArgs,

    /// Print the id and the number of jobs, or the error, as JSON
    #[arg(help_heading = "Display", long)]
    pub json: bool,

    #[command(flatten)]
    pub show: ShowArgs,
}

/// A number, or a word for one.
fn priority(text: &str) -> Result<u8, String> {
    let number = match text.trim() {
        "critical" => Some(10),
        "high" => Some(8),
        "normal" => Some(5),
        "low" => Some(2),
        other => other.parse().ok(),
    };
    number
        .filter(|number| PRIORITIES.contains(number))
        .ok_or_else(|| "write 1 to 10, or critical, high, normal or low".to_owned())
}

const HELP: &str = "\
The id is all that is printed on standard output:
  id=$(batchwright submit prompts.jsonl --model gpt-5-mini)
  batchwright work --until-empty
  batchwright results $id -o results.jsonl

What makes a prompt, in which files, is told by: batchwright run --help
Urgent ones, ahead of all that waits:
  batchwright submit urgent.txt --priority 10

Exit codes:
  0 all is queued             2 bad usage or input, nothing is queued
  1 could not be queued       130, 143 interrupted, nothing is queued";
