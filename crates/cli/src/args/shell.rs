//! The arguments of `batchwright completions` and `batchwright man`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// Print a script that completes commands and flags in a shell
#[derive(Debug, Args)]
#[command(after_help = COMPLETIONS_HELP)]
pub struct CompletionsArgs {
    /// Shell name
    pub shell: Shell,
}

const COMPLETIONS_HELP: &str = "\
Place for the script:
  bash  ~/.local/share/bash-completion/completions/batchwright
  zsh   _batchwright in a folder of $fpath, such as ~/.zfunc
  fish  ~/.config/fish/completions/batchwright.fish
For example:
  batchwright completions fish > ~/.config/fish/completions/batchwright.fish";

/// Print the manual page, or write one page per command to a folder
#[derive(Debug, Args)]
#[command(after_help = MAN_HELP)]
pub struct ManArgs {
    /// Folder for the pages of all commands; created if missing
    pub dir: Option<PathBuf>,
}

const MAN_HELP: &str = "\
To read it here, and to install the pages of all commands:
  batchwright man | man -l -
  batchwright man ~/.local/share/man/man1 && man batchwright-run";
