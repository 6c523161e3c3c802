//! Which files of a folder are meant, beside those that a pattern chooses.

use std::num::NonZeroUsize;

use clap::Args;

use super::values::{bytes, name, threads};

const HEADING: &str = "Files of a folder";

/// Which files of a folder are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct FolderArgs {
    /// Files of this type alone, by ripgrep's names: py, rust, js, ts, go, md …
    #[arg(help_heading = HEADING, long = "type", value_name = "NAME", value_parser = name, hide_short_help = true)]
    pub types: Vec<String>,

    /// Look at hidden files and folders too
    #[arg(help_heading = HEADING, long, hide_short_help = true)]
    pub hidden: bool,

    /// Look at files too that .gitignore, .ignore or git's other lists leave out
    #[arg(help_heading = HEADING, long, hide_short_help = true)]
    pub no_ignore: bool,

    /// Follow symbolic links below the folder; they are left out otherwise
    #[arg(help_heading = HEADING, long, hide_short_help = true)]
    pub follow: bool,

    /// The largest file, as 500K, 10M or 1G; larger ones are left out unread [default: 10M]
    #[arg(help_heading = HEADING, long, value_name = "SIZE", value_parser = bytes, hide_short_help = true)]
    pub max_size: Option<u64>,

    /// Threads that look for files, read and split them [default: one a processor]
    #[arg(help_heading = HEADING, long, value_name = "N", value_parser = threads, hide_short_help = true)]
    pub threads: Option<NonZeroUsize>,
}
