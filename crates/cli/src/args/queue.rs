//! The arguments of commands about processes and their queue: `submit`, `status`, `results`, `cancel`, `retry` and `doctor`.

use std::path::PathBuf;
use std::time::Duration;

use batchwright::queue::PRIORITIES;
use batchwright::{ProcessId, Usd};
use batchwright_jobs::JobTypes;
use clap::Args;

use super::input::InputArgs;
use super::shared::{DataArgs, PromptArgs, ShowArgs, StoreArgs};
use super::values::{dollars, name, seconds};

/// Put prompts on the queue; print the id of their process
///
/// INPUT is checked completely before anything is queued, as with `run`. Nothing is sent: `batchwright work` does
/// that, now or later, here or in another terminal. Either all prompts are queued or none.
#[derive(Args)]
#[command(after_long_help = include_str!("../../data/help/submit.txt"))]
pub struct SubmitArgs {
    #[command(flatten)]
    pub input: InputArgs,

    /// Model for prompts that name none
    ///
    /// [default: the worker's]
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub model: Option<String>,

    #[command(flatten)]
    pub prompt: PromptArgs,

    /// Type of the jobs, if they are not prompts
    #[arg(help_heading = "Queue", long = "type", value_name = "TYPE", long_help = types(), value_parser = name,
        conflicts_with_all = ["model", "template", "system", "json_schema", "max_tokens", "temperature", "extra",
            "service_tier", "task", "bad_rows", "keep", "root", "split", "pattern", "format", "encoding", "delimiter", "quotes",
            "sheet"])]
    pub job_type: Option<String>,

    /// Priority of the jobs, 1 to 10
    ///
    /// Higher ones start first. Also by name: critical (10), high (7 to 9), normal (4 to 6), low (1 to 3) [default:
    /// 5, or that of the --type]
    #[arg(help_heading = "Queue", long, value_name = "N", value_parser = priority)]
    pub priority: Option<u8>,

    /// Retries of an item at each provider [default: the worker's]
    #[arg(help_heading = "Queue", long, value_name = "N", hide_short_help = true)]
    pub max_retries: Option<u8>,

    /// Maximum cost of the process in US dollars
    ///
    /// No job of the process starts when the most that the next call can cost does not fit. Calls in flight of several
    /// workers may exceed it. A request without a known price fails. To change it: batchwright retry --budget
    #[arg(help_heading = "Queue", long, alias = "max-cost", value_name = "USD", value_parser = dollars)]
    pub budget: Option<Usd>,

    /// Display name of the process [default: the input's]
    ///
    /// Shown for example in `batchwright status`.
    #[arg(help_heading = "Queue", long, value_name = "NAME", value_parser = name)]
    pub name: Option<String>,

    /// Id of the process, to submit at most once: a UUID that you generate and that is not in the queue yet
    /// [default: a new one]
    #[arg(help_heading = "Queue", long, value_name = "ID")]
    #[arg(hide_short_help = true)]
    pub process: Option<ProcessId>,

    #[command(flatten, next_help_heading = "Queue")]
    pub data: DataArgs,

    #[command(flatten)]
    pub show: ShowArgs,
}

fn types() -> String {
    let lines = JobTypes::new().all().into_iter();
    let lines = lines.map(|one| format!("\n  {}: {}", one.name(), one.description()));
    format!(
        "Type of the jobs, if they are not prompts\n\nEach line of INPUT is then a JSON object, the payload of a job; an `id` in \
         it names the job. docs/jobs.md describes the payloads of these types:{}",
        lines.collect::<String>()
    )
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

/// Show what is queued, running, done and failed
#[derive(Args)]
#[command(after_long_help = include_str!("../../data/help/status.txt"))]
pub struct StatusArgs {
    /// Id of a process, or its first or last characters [default: all]
    pub process: Option<String>,

    /// Continue until everything is finished
    ///
    /// On a terminal the view is redrawn; otherwise it is printed again after each change.
    #[arg(short, long)]
    pub watch: bool,

    #[command(flatten)]
    pub data: DataArgs,
}

/// Move the results of a process from the queue to a file
///
/// Only results that were written are deleted from the queue. Jobs without an outcome stay in the queue; run the
/// same command later to fetch theirs. On a terminal or in a pipe, results are only shown, because nothing confirms
/// that they were read.
#[derive(Args)]
#[command(after_long_help = include_str!("../../data/help/results.txt"))]
pub struct ResultsArgs {
    /// Id of the process, or its first or last characters
    ///
    /// [default: the only one in the file of --queue]
    pub process: Option<String>,

    /// File to append the results to, each once
    ///
    /// Each result is added once, even if the command is killed and run again. Without this flag, results go to
    /// standard output, and stay in the queue unless that is a file.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Only show the results; delete nothing
    #[arg(long, conflicts_with = "take")]
    pub keep: bool,

    /// Also delete results written to a pipe or terminal
    ///
    /// They are deleted from the queue even if nothing read them.
    #[arg(long)]
    pub take: bool,

    #[command(flatten)]
    pub data: DataArgs,
}

/// Cancel the waiting jobs of a process; running jobs finish
///
/// Running jobs keep their results.
#[derive(Args)]
#[command(after_long_help = include_str!("../../data/help/cancel.txt"))]
pub struct CancelArgs {
    /// Id of the process, or its first or last characters
    ///
    /// [default: the only one in the file of --queue]
    pub process: Option<String>,

    /// Delete the process with all its jobs and results
    ///
    /// Jobs in every state are deleted.
    #[arg(long)]
    pub delete: bool,

    /// Time to wait for its batches
    ///
    /// The command cancels them at the provider.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = seconds)]
    pub wait: Duration,

    #[command(flatten)]
    pub data: DataArgs,
}

/// Requeue the failed and cancelled jobs of a process
///
/// Each job gets its full number of retries.
#[derive(Args)]
#[command(after_long_help = include_str!("../../data/help/retry.txt"))]
pub struct RetryArgs {
    /// Id of the process, or its first or last characters
    ///
    /// [default: the only one in the file of --queue]
    pub process: Option<String>,

    /// New maximum cost of the process in US dollars
    ///
    /// It includes what the process has spent before. Jobs that the old budget held back can start
    #[arg(long, value_name = "USD", value_parser = dollars)]
    pub budget: Option<Usd>,

    #[command(flatten)]
    pub data: DataArgs,
}

/// Check the queue and its environment, and say what to do
#[derive(Args)]
#[command(after_long_help = include_str!("../../data/help/doctor.txt"))]
pub struct DoctorArgs {
    #[command(flatten)]
    pub data: DataArgs,
}

/// Go on with a backup of the queue or of server.db alone
///
/// `batchwright serve` keeps its files and batches in server.db, beside the queue. Put back alone, one of them does not know what
/// the other has paid for. This command says what may be paid again and what it cannot know; then both go on together.
#[derive(Args)]
#[command(after_long_help = include_str!("../../data/help/restore.txt"))]
pub struct RestoreArgs {
    /// Data folder
    pub folder: PathBuf,

    /// The files of one moment cannot be put back
    ///
    /// Without it, only the difference is shown.
    #[arg(long)]
    pub original_is_gone: bool,

    #[command(flatten)]
    pub store: StoreArgs,
}
