//! The arguments that say what a command may do.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::values::{size, words_for};

/// What commands may do.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sandbox")]
pub struct SandboxArgs {
    /// on (the default), best-effort or off
    ///
    /// `on`: commands write only below their folder and a TMPDIR that the run makes for all of them, use no network,
    /// do nothing to other processes, and stay within limits; what the kernel cannot enforce is an error. `best-effort`: what
    /// it cannot enforce is said and left out. `off`: nothing of this but what is asked for by --max-... and --cpu;
    /// --allow and --env hold all the same [env: BATCHWRIGHT_EXEC_SANDBOX] [config:
    /// exec.sandbox].
    #[arg(long, value_name = "MODE", value_parser = words_for("exec.sandbox"))]
    pub sandbox: Option<String>,

    /// Programs that may be run; no others are
    ///
    /// A name means the program of that name in PATH, a path the one there. What an allowed program starts is not
    /// checked: whoever allows a shell, `env` or an interpreter allows everything.
    #[arg(long, value_name = "PROGRAMS", value_delimiter = ',')]
    pub allow: Vec<OsString>,

    /// Variables: NAME, NAME=VALUE, or `*` for all
    ///
    /// NAME is handed on as it is here. Beside PATH, HOME, LANG, LC_*, TZ, TERM and TMPDIR, which they always get. API keys never come along
    /// unless they are named.
    #[arg(long, value_name = "NAMES")]
    pub env: Vec<OsString>,

    /// Let commands use the network
    #[arg(long)]
    pub net: bool,

    /// Let commands connect to sockets in the file system, as those of ssh-agent and Docker
    ///
    /// Whoever can talk to Docker or systemd can have done there what the sandbox refuses.
    #[arg(long, hide_short_help = true)]
    pub local_sockets: bool,

    /// A file or folder that commands may write to
    ///
    /// Besides the folder that they run in, and TMPDIR.
    #[arg(long, value_name = "PATH")]
    pub write: Vec<PathBuf>,

    /// The most processor time of each process of a command, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    pub cpu: Option<u64>,

    /// The most memory of a command, as 500M or 2G; 0 is no limit [default: 500 MB]
    #[arg(long, value_name = "SIZE", value_parser = size, hide_short_help = true)]
    pub max_memory: Option<u64>,

    /// The largest file that a command may write, as 10M or 2G
    #[arg(long, value_name = "SIZE", value_parser = size, hide_short_help = true)]
    pub max_file: Option<u64>,

    /// The most processes and threads of a command; 0 is no limit [default: 512]
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub max_procs: Option<u64>,
}
