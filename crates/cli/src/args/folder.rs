//! The arguments that select files of a folder, in addition to patterns.

use clap::Args;

use super::values::bytes;

const HEADING: &str = "Files of a folder";

/// Which files of a folder are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct FolderArgs {
    /// Include hidden files and folders
    #[arg(help_heading = HEADING, long, hide_short_help = true)]
    pub hidden: bool,

    /// Include files that .gitignore, .ignore or git's other lists exclude
    #[arg(help_heading = HEADING, long, hide_short_help = true)]
    pub no_ignore: bool,

    /// Follow symbolic links below the folder; without this flag they are skipped
    #[arg(help_heading = HEADING, long, hide_short_help = true)]
    pub follow: bool,

    /// Maximum size of a file, for example 500K, 10M or 1G; larger ones are skipped [default: 10M]
    #[arg(help_heading = HEADING, long, value_name = "SIZE", value_parser = bytes, hide_short_help = true)]
    pub max_size: Option<u64>,
}
