//! The arguments of `batchwright exec`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::run::OnError;
use super::sandbox::SandboxArgs;
use super::shared::{MORE, ShowArgs};
use super::values::{seconds, size, words_for};

/// Run commands in parallel: paced, retried, resumable
///
/// FILE has a command a line; blank lines and comments (#) are skipped, a backslash at the end of a line continues
/// it. No shell reads them, unless --shell is given: what only a shell could carry out, such as a pipe, a variable or
/// `cd`, is refused before anything runs. With a COMMAND after `--`, each line is an argument for it instead. Without FILE, lines come from standard
/// input.
#[derive(Debug, Args)]
#[command(after_help = MORE, after_long_help = HELP)]
pub struct ExecArgs {
    /// Commands, or arguments for COMMAND; `-` is stdin
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Run this for each line; {} stands for the line
    ///
    /// Also {.} without its extension, {/} without its folder, {//} its folder, {/.} both without, {#} its number.
    /// Without any of them the line comes last. After `:::` the arguments themselves may follow.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,

    #[command(flatten)]
    pub pace: ExecPaceArgs,

    #[command(flatten)]
    pub failures: FailureArgs,

    #[command(flatten)]
    pub results: ExecResultArgs,

    #[command(flatten)]
    pub sandbox: SandboxArgs,

    /// Let `sh -c` run each line, or COMMAND
    ///
    /// For pipes, redirections, variables and patterns. What stands for {} is still one argument, whatever it
    /// holds; where a shell would take it apart, as in backticks and here-documents, {} is refused.
    #[arg(help_heading = "Commands", long)]
    pub shell: bool,

    /// Lines end with NUL bytes, as of find -print0
    #[arg(help_heading = "Commands", short = '0', long)]
    pub null: bool,

    /// Folder that commands run in [default: this one]
    #[arg(
        help_heading = "Commands",
        long,
        value_name = "DIR",
        hide_short_help = true
    )]
    pub workdir: Option<PathBuf>,

    #[command(flatten)]
    pub show: ShowArgs,
}

/// How many, and how fast.
#[derive(Debug, Args)]
#[command(next_help_heading = "Pace")]
pub struct ExecPaceArgs {
    /// Commands at once, 1 to 10
    ///
    /// The setting exec.max_concurrency raises the range [env: BATCHWRIGHT_EXEC_CONCURRENCY] [config:
    /// exec.concurrency] [default: 5]
    #[arg(short = 'j', long, value_name = "N", value_parser = words_for("exec.concurrency"))]
    pub concurrency: Option<String>,

    /// Starts in a time, as 5/s, 0.5/s or 30/m
    ///
    /// Evenly spaced, without bursts; tries again count [config: exec.rate] [default: as fast as slots come free]
    #[arg(long, value_name = "RATE", value_parser = words_for("exec.rate"))]
    pub rate: Option<String>,

    /// The longest that a command may run
    ///
    /// Then its process group is sent SIGTERM, and SIGKILL two seconds later [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub timeout: Option<Duration>,

    /// Folder of the settings, see `batchwright config` [env: BATCHWRIGHT_HOME] [default: the platform's
    /// data folder]
    #[arg(long, value_name = "DIR", hide_short_help = true)]
    pub data_dir: Option<PathBuf>,

    /// How long running commands may go on after Ctrl-C, unless --on-stop kill
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = seconds, hide_short_help = true)]
    pub grace: Duration,
}

/// What failures lead to.
#[derive(Debug, Args)]
#[command(next_help_heading = "Failures")]
pub struct FailureArgs {
    /// Tries again after a failure or a time-out
    ///
    /// After an exit code other than 0, those of --critical-exit included, a signal, or a time-out. What cannot be
    /// started, goes above a limit of the sandbox or has no room on the disk is not tried again.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub retries: u8,

    /// Wait before the first retry; each further one doubles, up to a minute
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = seconds, hide_short_help = true)]
    pub retry_delay: Duration,

    /// continue (the default), stop, or stop-critical
    ///
    /// What a failed command means for the others. `stop-critical` stops for a program that is not found, not
    /// allowed, cannot be confined or started, for death by a signal, more use of something than the sandbox lets it,
    /// a full disk, and the codes of --critical-exit, each after the last try [config: exec.on_error]
    #[arg(long, value_name = "POLICY", value_enum, hide_possible_values = true)]
    pub on_error: Option<OnError>,

    /// finish (the default) or kill what still runs
    ///
    /// What becomes of running commands when the run stops, by its policy or the first Ctrl-C. The second one
    /// kills them in any case.
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = OnStopArg::Finish,
        hide_default_value = true, hide_possible_values = true, hide_short_help = true)]
    pub on_stop: OnStopArg,

    /// Exit codes that stop a run with stop-critical
    #[arg(
        long,
        value_name = "CODES",
        value_delimiter = ',',
        hide_short_help = true
    )]
    pub critical_exit: Vec<u8>,
}

/// Where results go.
#[derive(Debug, Args)]
#[command(next_help_heading = "Results")]
pub struct ExecResultArgs {
    /// File for results, a line of JSON a command
    ///
    /// What commands print is in them then, and not on standard output; what of it is longer than 64 KiB, in the
    /// folder FILE.outputs. `-` is standard output. Without this, what a command printed comes to standard output
    /// and standard error as a whole when it ends.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// File for a job log in GNU parallel's columns
    #[arg(long, value_name = "FILE")]
    pub joblog: Option<PathBuf>,

    /// Skip what --joblog has already
    ///
    /// Commands are known by their text: lines may be inserted, removed and reordered, and a changed command
    /// runs.
    #[arg(long, requires = "joblog")]
    pub resume: bool,

    /// The same, but run what failed again
    #[arg(long, requires = "joblog")]
    pub resume_failed: bool,

    /// Print results in the order of the input
    ///
    /// FILE of -o and the job log have them as commands end, each at once; `seq` is there to sort by.
    #[arg(short, long)]
    pub keep_order: bool,

    /// Run nothing; print the commands
    #[arg(long)]
    pub dry_run: bool,

    /// Print the summary, or the error, as JSON
    ///
    /// One JSON object on standard output, at the end. Without -o, what commands print comes to standard error then.
    #[arg(long)]
    pub json: bool,

    /// The most that is kept of each output of a command, as 64K, 10M or 2G; what is beyond is read and dropped
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = size, hide_short_help = true)]
    pub max_output: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnStopArg {
    Finish,
    Kill,
}

const HELP: &str = "\
Commands of a file, ten at once, with a log to go on from:
  batchwright exec jobs.txt -j 10 --joblog jobs.log
  batchwright exec jobs.txt -j 10 --joblog jobs.log --resume
A command for each line of a list, as with GNU parallel and xargs:
  ls *.png | batchwright exec -- convert {} {.}.jpg
  find . -name '*.log' -print0 | batchwright exec -0 -- gzip
  batchwright exec -- ping -c 1 {} ::: host-a host-b host-c
The results as a table:
  batchwright exec jobs.txt -o jobs.jsonl && batchwright export jobs.jsonl -o jobs.xlsx
Not more than one start in two seconds, each tried up to three times more:
  batchwright exec calls.txt --rate 0.5/s --retries 3
A pipe for each file, which needs a shell:
  ls *.sql | batchwright exec --shell -- 'grep -v ^-- {} | gzip > {}.gz'

One that needs the network, a variable and a folder besides its own:
  batchwright exec calls.txt --net --env API_TOKEN --write /var/cache/api

A command reads nothing (its standard input is /dev/null), writes only below its folder,
and uses no network unless --net. What it left in the background is killed when it ends.

Exit codes:
  0 all succeeded            3 finished, some commands failed
  1 could not run            4 stopped early, can be resumed
  2 bad usage or input       130, 143 interrupted; with --joblog, --resume goes on";
