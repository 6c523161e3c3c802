//! The arguments of `batchwright workers`.

use clap::Args;

use super::shared::{DataArgs, SayArgs};

/// Show the workers: machine, version, load, and why one is stuck
#[derive(Debug, Args)]
#[command(after_long_help = include_str!("../../data/help/workers.txt"))]
pub struct WorkersArgs {
    /// Print JSON; with --watch a line per change
    #[arg(long)]
    pub json: bool,

    /// Print every change; stop with Ctrl-C
    #[arg(short, long)]
    pub watch: bool,

    #[command(flatten)]
    pub data: DataArgs,

    #[command(flatten)]
    pub say: SayArgs,
}
