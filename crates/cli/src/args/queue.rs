//! The arguments of `batchwright queue`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::shared::{MORE, ProcessArgs};

/// Move the complete queue to another place through a file
///
/// From SQLite to MySQL or MariaDB, back, or from one machine to another, with jobs of every state, results that
/// are not fetched yet, and batches at a provider.
#[derive(Debug, Args)]
#[command(after_help = MORE, after_long_help = include_str!("../../data/help/queue.txt"), arg_required_else_help = true)]
pub struct QueueArgs {
    #[command(subcommand)]
    pub action: QueueAction,
}

#[derive(Debug, Subcommand)]
pub enum QueueAction {
    /// Write the queue to a file and close it here
    ///
    /// A closed queue rejects every other command. If the export is interrupted, run the same command again.
    Export(ExportQueueArgs),
    /// Read the queue from a file into an empty place
    ///
    /// If the import is interrupted, run the same command again. A file is imported once.
    Import(ImportQueueArgs),
    /// Undo an export: use the queue here again
    ///
    /// The file can no longer be imported.
    Reopen(ReopenQueueArgs),
}

impl QueueAction {
    /// Arguments of every `queue` command.
    pub fn common(&mut self) -> &mut ProcessArgs {
        match self {
            Self::Export(args) => &mut args.how.common,
            Self::Import(args) => &mut args.how.common,
            Self::Reopen(args) => &mut args.common,
        }
    }
}

#[derive(Debug, Args)]
pub struct ExportQueueArgs {
    /// File to write; it must not exist
    pub file: PathBuf,

    #[command(flatten)]
    pub how: MoveArgs,
}

#[derive(Debug, Args)]
pub struct ImportQueueArgs {
    /// File that `batchwright queue export` wrote
    pub file: PathBuf,

    /// Import a file whose import into another place was begun
    ///
    /// If that place is ever used, jobs are billed twice.
    #[arg(long)]
    pub again: bool,

    #[command(flatten)]
    pub how: MoveArgs,
}

/// Arguments of an export and of an import.
#[derive(Debug, Args)]
pub struct MoveArgs {
    /// Wait until no worker and no server uses the queue
    #[arg(long)]
    pub wait: bool,

    /// Do not copy local files that prompts name
    ///
    /// These jobs need the files, at the same paths, on the machine where they run. Without this flag, the jobs
    /// contain the bytes of the files after an export, and after an import into a database server.
    #[arg(long)]
    pub keep_paths: bool,

    #[command(flatten)]
    pub common: ProcessArgs,
}

#[derive(Debug, Args)]
pub struct ReopenQueueArgs {
    /// Reopen even if the file is gone, or was imported
    ///
    /// If the queue of the file is ever used, jobs are billed twice.
    #[arg(long)]
    pub force: bool,

    #[command(flatten)]
    pub common: ProcessArgs,
}
