//! The arguments of `batchwright exec`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use batchwright::ErrorPolicy;
use batchwright_exec::SandboxMode;
use clap::{Args, value_parser};

use super::run::ON_ERROR;
use super::shared::ShowArgs;
use super::values::{memory, one_of, rate, some_seconds};

/// Run commands in parallel, with rate limit, retries and resume
///
/// FILE has one command per line; blank lines and comments (#) are skipped, and a backslash at the end of a line
/// continues it. No shell reads them unless you add --shell: syntax that needs a shell, such as a pipe, a variable
/// or `cd`, is rejected before anything runs. With a COMMAND after `--`, each line is an argument for it instead.
/// Without FILE, lines come from standard input.
#[derive(Debug, Args)]
#[command(after_long_help = include_str!("../../data/help/exec.txt"))]
pub struct ExecArgs {
    /// Commands, or arguments for COMMAND; `-` is stdin
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Run this for each line; {} is replaced by the line
    ///
    /// Also {.} without its extension, {/} without its folder, {//} its folder, {/.} without both, {#} its number.
    /// Without any of them, the line is appended. After `:::` you can write the arguments directly.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,

    /// Commands at once, 1 to 10
    ///
    /// More need --more-than-10.
    #[arg(help_heading = "Pace", short = 'j', long, value_name = "N", value_parser = value_parser!(u16).range(1..=10_000), default_value = "5")]
    pub concurrency: u16,

    /// Allow -j to be more than 10
    #[arg(help_heading = "Pace", long)]
    pub more_than_10: bool,

    /// Maximum start rate: 5/s, 0.5/s or 30/m
    ///
    /// Starts are evenly spaced, without bursts; retries count [default: no limit]
    #[arg(help_heading = "Pace", long, value_name = "RATE", value_parser = rate)]
    pub rate: Option<f64>,

    /// Time limit of a command
    ///
    /// At the limit its process group gets SIGTERM, and SIGKILL two seconds later [default: no limit]
    #[arg(help_heading = "Pace", long, value_name = "TIME", value_parser = some_seconds)]
    pub timeout: Option<Duration>,

    /// Retries after a failure or a time-out
    ///
    /// After an exit code other than 0, a signal, or a time-out, at first after 1 s, each time after twice as long. A command that
    /// cannot be started, exceeds a limit of the sandbox or fills the disk is not retried.
    #[arg(help_heading = "Failures", long, value_name = "N")]
    #[arg(default_value_t = 0, hide_default_value = true)]
    pub retries: u8,

    /// continue (the default), stop, or stop-critical
    ///
    /// What to do when a command fails. `stop-critical` stops only for a program that is not found, not allowed, or
    /// cannot be confined or started, a command that a signal ended or that exceeded a limit of the sandbox, and
    /// a full disk, each after the last retry.
    #[arg(help_heading = "Failures", long, value_name = "POLICY", value_parser = one_of(&ON_ERROR), default_value = "continue",
        hide_default_value = true, hide_possible_values = true)]
    pub on_error: ErrorPolicy,

    /// File for results, one JSON line per command
    ///
    /// The results contain the output of the commands, and standard output does not. `-` is standard output. Without this flag, the output of each command goes to
    /// standard output and standard error when the command ends.
    #[arg(help_heading = "Results", short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// File for a job log, from which the same command resumes
    ///
    /// It has GNU parallel's columns. Commands in the log are skipped. They are identified by their text: you can insert, remove and reorder lines,
    /// and a changed command runs.
    #[arg(help_heading = "Results", long, value_name = "FILE")]
    pub joblog: Option<PathBuf>,

    /// Changes nothing: a run with --joblog always goes on with its log
    #[arg(help_heading = "Results", long, requires = "joblog")]
    #[arg(hide_short_help = true)]
    pub resume: bool,

    /// Run failed commands of --joblog again
    #[arg(help_heading = "Results", long, requires = "joblog")]
    pub resume_failed: bool,

    /// Run nothing; print the commands
    #[arg(help_heading = "Results", long)]
    pub dry_run: bool,

    /// on (the default), best-effort or off
    ///
    /// `on`: commands write only below their folder and a TMPDIR that the run makes for all of them, use no
    /// network, and do not affect other processes. If the kernel cannot enforce a rule, nothing runs. `best-effort`: run
    /// anyway, and warn about the missing rules. `off`: enforce only --memory.
    /// --allow and --env apply in every mode [env: BATCHWRIGHT_EXEC_SANDBOX].
    #[arg(help_heading = "Sandbox", long, value_name = "MODE", value_parser = one_of(&MODES), default_value = "on", hide_default_value = true,
        hide_possible_values = true, env = "BATCHWRIGHT_EXEC_SANDBOX", hide_env = true)]
    pub sandbox: SandboxMode,

    /// Allowed programs; all others are rejected
    ///
    /// Programs that an allowed program starts are not checked: if you allow a shell, `env` or an interpreter, you
    /// allow everything.
    #[arg(help_heading = "Sandbox", long, value_name = "PROGRAMS")]
    #[arg(value_delimiter = ',')]
    pub allow: Vec<OsString>,

    /// Variables: NAME, NAME=VALUE, or `*` for all
    ///
    /// NAME has the same value as here. Commands always get PATH, HOME, LANG, LC_*, TZ, TERM and TMPDIR. They get
    /// API keys only if you name them.
    #[arg(help_heading = "Sandbox", long, value_name = "NAMES")]
    pub env: Vec<String>,

    /// Allow commands to use the network
    #[arg(help_heading = "Sandbox", long)]
    pub net: bool,

    /// A file or folder that commands may write to
    ///
    /// In addition to their working folder and TMPDIR.
    #[arg(help_heading = "Sandbox", long, value_name = "PATH")]
    pub write: Vec<PathBuf>,

    /// Memory limit of each process of a command, for example 500M or 2G
    ///
    /// A process above it gets no more memory. Memory that processes share does not count [default: no limit]
    #[arg(help_heading = "Sandbox", long, value_name = "SIZE", value_parser = memory, hide_short_help = true)]
    pub memory: Option<u64>,

    /// Run each line, or COMMAND, with `sh -c`
    ///
    /// For pipes, redirections, variables and patterns. The value of {} is still one argument, whatever it contains.
    /// Write it without quotes: {} is rejected within quotes, backticks and here-documents.
    #[arg(help_heading = "Commands", long)]
    pub shell: bool,

    /// Lines end with NUL bytes, as from find -print0
    #[arg(help_heading = "Commands", short = '0', long)]
    pub null: bool,

    /// Working folder of the commands [default: this one]
    #[arg(help_heading = "Commands", long, value_name = "DIR")]
    #[arg(hide_short_help = true)]
    pub workdir: Option<PathBuf>,

    #[command(flatten)]
    pub show: ShowArgs,
}

const MODES: [(&str, SandboxMode); 3] = [
    ("on", SandboxMode::On),
    ("best-effort", SandboxMode::BestEffort),
    ("off", SandboxMode::Off),
];
