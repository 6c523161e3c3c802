//! The arguments of `batchwright completions` and `batchwright man`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// Print a script that completes commands and flags in a shell
#[derive(Debug, Args)]
#[command(after_help = include_str!("../../data/help/completions.txt"))]
pub struct CompletionsArgs {
    /// Shell name
    pub shell: Shell,
}

/// Print the manual page, or write one page per command to a folder
#[derive(Debug, Args)]
#[command(after_help = include_str!("../../data/help/man.txt"))]
pub struct ManArgs {
    /// Folder for the pages of all commands; created if missing
    pub dir: Option<PathBuf>,
}
