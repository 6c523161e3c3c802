//! The arguments of `batchwright scan`.

use std::path::PathBuf;

use clap::Args;

use super::folder::FolderArgs;

/// Show which files of a folder are taken, and why others are not
///
/// What is hidden, ignored by git or not asked for by a pattern is not mentioned. What remains and cannot be used is:
/// too large, binary, not UTF-8, unreadable, a symbolic link.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct ScanArgs {
    /// The folder
    #[arg(value_name = "DIR", default_value = ".")]
    pub folder: PathBuf,

    #[command(flatten)]
    pub files: FolderArgs,

    /// Names and sizes alone: no file is opened
    #[arg(long)]
    pub no_check: bool,

    /// Show only what is left out
    #[arg(long)]
    pub skipped: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

const HELP: &str = "\
The Python files of a project:
  batchwright scan src --pattern '**/*.py'";
