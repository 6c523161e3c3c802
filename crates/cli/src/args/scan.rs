//! The arguments of `batchwright scan`.

use std::path::PathBuf;

use batchwright::sources::Split;
use clap::Args;

use super::folder::FolderArgs;
use super::values::{name, split};

/// List the files that run would read, and why it skips others
///
/// Files that are hidden, ignored by git or excluded by a pattern are not listed. Reasons to skip a file: too
/// large, binary, not UTF-8, unreadable, a symbolic link.
#[derive(Debug, Args)]
#[command(after_help = include_str!("../../data/help/scan.txt"))]
pub struct ScanArgs {
    /// The folder
    #[arg(value_name = "DIR", default_value = ".")]
    pub folder: PathBuf,

    /// Files to read: '**/*.py'; '!vendor' excludes
    ///
    /// Syntax of .gitignore, for the path below the folder: *.py matches in any folder, /*.py only in the folder
    /// itself. Repeatable. Hidden and ignored files are skipped first.
    #[arg(long, value_name = "GLOB", value_parser = name)]
    pub pattern: Vec<String>,

    #[command(flatten)]
    pub files: FolderArgs,

    /// Print the prompts of `run`: function, lines:N …
    ///
    /// file, function, class, lines:N or tokens:N. Each part is a line of JSON with its content. Files that cannot be split
    /// are skipped, with the reason.
    #[arg(long, value_name = "PART", value_parser = split)]
    pub split: Option<Split>,
}
