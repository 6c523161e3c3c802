//! The arguments of `batchwright completions`.

use clap::Args;
use clap_complete::Shell;

/// Print a script that completes commands and flags in a shell
#[derive(Debug, Args)]
#[command(after_help = include_str!("../../data/help/completions.txt"))]
pub struct CompletionsArgs {
    /// Shell name
    pub shell: Shell,
}
