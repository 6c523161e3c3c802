//! The arguments of `batchwright workers`.

use clap::Args;

use super::shared::{DataArgs, SayArgs};

/// Show the workers: machine, version, load, and why one is stuck
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
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

const HELP: &str = "\
  batchwright workers
  batchwright workers --store mysql://USER@HOST/DATABASE --watch
  batchwright workers --json | jq '.workers[] | select(.alive | not)'

Columns: `busy` is the number of running jobs and of worker slots. `jobs` are the jobs that the worker holds, \
`batches` its batches at a provider. `done` and `failed` count its jobs since it started. `started` and `heartbeat` are the \
times since it started, and since it renewed its lease on the database server. For a queue in a file, the kernel reports \
whether a worker is alive, so there is no heartbeat.

A worker reports its numbers every 2 s, on a database server every 5 s. The line below a worker says why its jobs do \
not move, for example a rejected API key or a cooldown. A worker that has crashed is `dead` until another worker takes over its \
jobs: on a database server when its lease ends, after 15 s.

Exit codes: 0 done; 1 the queue cannot be read";
