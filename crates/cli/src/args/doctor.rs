//! The arguments of `batchwright doctor`.

use clap::Args;

use super::shared::{BatchProviderArgs, DataArgs, QueueFileArg, SayArgs};

/// Check the queue and its environment, and say what to do
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
pub struct DoctorArgs {
    /// Adopt batches of an earlier API key
    ///
    /// For example after you rotated a key. The provider is asked whether it shows the batches with the current
    /// key, at the address that created them. A batch that it does not show stays unchanged, and the reason is
    /// printed.
    #[arg(long)]
    pub adopt_batches: bool,

    #[command(flatten)]
    pub at: BatchProviderArgs,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub file: QueueFileArg,

    #[command(flatten)]
    pub data: DataArgs,

    #[command(flatten)]
    pub say: SayArgs,
}

const HELP: &str = "\
Checks: the data folder, free disk space, the clock, the database (integrity, schema, \
counters, jobs of crashed workers, unfinished submissions), batches without an active worker or that \
wait for your decision, the settings, and which keys are set. If the queue is on a database server: its version, \
encryption, clock, connections, settings and privileges, replicas that the address names, and Redis. \
No provider is called without --adopt-batches, and no key is shown.

  batchwright doctor
  batchwright doctor --adopt-batches
  batchwright doctor --json | jq '.findings[] | select(.verdict == \"bad\")'

Exit codes: 0 no finding is worse than a note; 1 at least one is";
