//! Which files of a folder are meant.

use std::num::NonZeroUsize;

use clap::Args;

use super::values::{bytes, name};

/// Which files of a folder are meant.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Files of a folder")]
pub struct FolderArgs {
    /// Files to take: '**/*.py'; '!vendor' leaves out
    ///
    /// Written as in .gitignore, and about the path below the folder: *.py is one in any folder, /*.py one in the folder
    /// itself. Several times for several. Hidden and ignored files are left out first.
    #[arg(long, value_name = "GLOB", value_parser = name)]
    pub pattern: Vec<String>,

    /// Files of this type alone, by ripgrep's names: py, rust, js, ts, go, md …
    #[arg(long = "type", value_name = "NAME", value_parser = name, hide_short_help = true)]
    pub types: Vec<String>,

    /// Look at hidden files and folders too
    #[arg(long, hide_short_help = true)]
    pub hidden: bool,

    /// Look at files too that .gitignore, .ignore or git's other lists leave out
    #[arg(long, hide_short_help = true)]
    pub no_ignore: bool,

    /// Follow symbolic links below the folder; they are left out otherwise
    #[arg(long, hide_short_help = true)]
    pub follow: bool,

    /// The largest file, as 500K, 10M or 1G; larger ones are left out unread [default: 10M]
    #[arg(long, value_name = "SIZE", value_parser = bytes, hide_short_help = true)]
    pub max_size: Option<u64>,

    /// Threads that look for files, read and split them [default: one a processor]
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub threads: Option<NonZeroUsize>,
}
