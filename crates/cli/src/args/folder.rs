//! The arguments that select files of a folder, in addition to patterns.

use std::num::NonZeroUsize;

use clap::Args;

use super::values::{bytes, name, threads};

const HEADING: &str = "Files of a folder";

/// Which files of a folder are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct FolderArgs {
    /// Only files of this type, by ripgrep's names: py, rust, js, ts, go, md …
    #[arg(help_heading = HEADING, long = "type", value_name = "NAME", value_parser = name, hide_short_help = true)]
    pub types: Vec<String>,

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

    /// Threads that find, read and split files [default: one per processor]
    #[arg(help_heading = HEADING, long, value_name = "N", value_parser = threads, hide_short_help = true)]
    pub threads: Option<NonZeroUsize>,
}
