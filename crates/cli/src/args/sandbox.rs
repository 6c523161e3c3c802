//! The arguments that set the permissions of a command.

use std::ffi::OsString;
use std::path::PathBuf;

use batchwright_exec::SandboxMode;
use clap::Args;

use super::values::{bytes, one_of};

const MODES: [(&str, SandboxMode); 3] = [
    ("on", SandboxMode::On),
    ("best-effort", SandboxMode::BestEffort),
    ("off", SandboxMode::Off),
];

/// What commands may do.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sandbox")]
pub struct SandboxArgs {
    /// on (the default), best-effort or off
    ///
    /// `on`: commands write only below their folder and a TMPDIR that the run makes for all of them, use no
    /// network, and do not affect other processes. If the kernel cannot enforce a rule, nothing runs. `best-effort`: run
    /// anyway, and warn about the missing rules. `off`: enforce only --memory.
    /// --allow and --env apply in every mode [env: BATCHWRIGHT_EXEC_SANDBOX].
    #[arg(long, value_name = "MODE", value_parser = one_of(&MODES), default_value = "on", hide_default_value = true,
        hide_possible_values = true, env = "BATCHWRIGHT_EXEC_SANDBOX", hide_env = true)]
    pub sandbox: SandboxMode,

    /// Allowed programs; all others are rejected
    ///
    /// Programs that an allowed program starts are not checked: if you allow a shell, `env` or an interpreter, you
    /// allow everything.
    #[arg(long, value_name = "PROGRAMS", value_delimiter = ',')]
    pub allow: Vec<OsString>,

    /// Variables: NAME, NAME=VALUE, or `*` for all
    ///
    /// NAME has the same value as here. Commands always get PATH, HOME, LANG, LC_*, TZ, TERM and TMPDIR. They get
    /// API keys only if you name them.
    #[arg(long, value_name = "NAMES")]
    pub env: Vec<OsString>,

    /// Allow commands to use the network
    #[arg(long)]
    pub net: bool,

    /// A file or folder that commands may write to
    ///
    /// In addition to their working folder and TMPDIR.
    #[arg(long, value_name = "PATH")]
    pub write: Vec<PathBuf>,

    /// Memory limit of each process of a command, for example 500M or 2G
    ///
    /// A process above it gets no more memory. Memory that processes share does not count [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = bytes, hide_short_help = true)]
    pub memory: Option<u64>,
}
