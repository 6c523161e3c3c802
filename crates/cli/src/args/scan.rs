//! The arguments of `batchwright scan`.

use std::path::PathBuf;

use batchwright::sources::Split;
use clap::Args;

use super::folder::FolderArgs;
use super::values::{name, split};

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

    /// Files to take: '**/*.py'; '!vendor' leaves out
    ///
    /// Written as in .gitignore, and about the path below the folder: *.py is one in any folder, /*.py one in the folder
    /// itself. Several times for several. Hidden and ignored files are left out first.
    #[arg(long, value_name = "GLOB", value_parser = name)]
    pub pattern: Vec<String>,

    #[command(flatten)]
    pub files: FolderArgs,

    /// Names and sizes alone: no file is opened
    #[arg(long, conflicts_with_all = ["split", "units"])]
    pub no_check: bool,

    /// Count what `run` would ask about: function, lines:N …
    ///
    /// file, function, class, lines:N or tokens:N. Files that cannot be split so are left out, with the reason.
    #[arg(long, value_name = "PART", value_parser = split)]
    pub split: Option<Split>,

    /// Print each part with its content, as lines of JSON
    #[arg(long, conflicts_with_all = ["json", "skipped"])]
    pub units: bool,

    /// Show only what is left out
    #[arg(long)]
    pub skipped: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

const HELP: &str = "\
The Python files of a project:
  batchwright scan src --pattern '**/*.py'
How many prompts a run would ask, one for each of their functions:
  batchwright scan src --pattern '**/*.py' --split function
  batchwright run src --pattern '**/*.py' --split function --template 'Explain: {{content}}' -o out.jsonl";
